"""The files by which `tfds.builder_from_directory` opens a data set.

TensorFlow Datasets reads features.json and dataset_info.json. Its own writer refuses our shards'
names (slim's), though its reader takes them, and it would bring TensorFlow into the job; so the
two are written by hand, as TFDS 4.9 writes them.
"""

import json
from collections.abc import Mapping

from data_prep import records

FEATURES_FILE = "features.json"
INFO_FILE = "dataset_info.json"
# Where TFDS looks for the names of the classes of image/class/label.
CLASS_NAMES_FILE = "image-class-label.labels.txt"

_FEATURES_MODULE = "tensorflow_datasets.core.features"


def to_files(manifest: records.Manifest, *, name: str, size: int) -> dict[str, str]:
    """The texts of the files, by their name.

    Args:
        manifest: of the data set; its `files` are not looked at.
        name: of the data set: lower case letters, digits and "_".
        size: side of the photos, pixels.
    """
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split_name,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}",
                # Protobuf's JSON writes 64-bit integers as text.
                "shardLengths": [str(shard.records) for shard in split.shards],
                "numBytes": str(sum(shard.bytes for shard in split.shards)),
            }
            for split_name, split in manifest.splits.items()
        ],
    }
    features = _nested(_feature_configs(len(manifest.classes), size))
    return {
        FEATURES_FILE: json.dumps(features, indent=1, sort_keys=True) + "\n",
        INFO_FILE: json.dumps(info, indent=1, sort_keys=True) + "\n",
        CLASS_NAMES_FILE: "".join(f"{entry.wnid}\n" for entry in manifest.classes),
    }


def _feature_configs(classes: int, size: int) -> dict[str, dict]:
    """TFDS' description of each feature of a record, by the feature's name."""
    configs = {}
    for feature in records.FEATURES:
        if feature.dtype == "int64":
            tensor = {"dtype": "int64", "encoding": "none", "shape": {}}
            configs[feature.name] = _config("scalar.Scalar", tensor=tensor)
        else:
            configs[feature.name] = _config("text_feature.Text", text={})
    shape = {"dimensions": [str(size), str(size), "3"]}
    image = {"dtype": "uint8", "encodingFormat": "jpeg", "shape": shape}
    configs["image/encoded"] = _config("image_feature.Image", image=image)
    label = {"numClasses": str(classes)}
    configs["image/class/label"] = _config("class_label_feature.ClassLabel", classLabel=label)
    return configs


def _config(class_name: str, **content: object) -> dict:
    return {"pythonClassName": f"{_FEATURES_MODULE}.{class_name}", **content}


def _nested(configs: Mapping[str, dict]) -> dict:
    """Nests what is named a/b/c as TFDS joins it: a FeaturesDict for each slash."""
    children: dict[str, dict] = {}
    inner: dict[str, dict[str, dict]] = {}
    for name, config in configs.items():
        first, slash, rest = name.partition("/")
        if slash:
            inner.setdefault(first, {})[rest] = config
        else:
            children[first] = config
    children |= {name: _nested(within) for name, within in inner.items()}
    return _config("features_dict.FeaturesDict", featuresDict={"features": children})
