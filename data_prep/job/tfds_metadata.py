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

# The name of label 0 where labels start at 1.
BACKGROUND = "background"

_FEATURES_MODULE = "tensorflow_datasets.core.features"


def to_files(manifest: records.Manifest, *, name: str) -> dict[str, str]:
    """Return the texts of the files, by their name.

    Args:
        manifest: of the data set; its `files` are not read.
        name: of the data set: lower case letters, digits and "_".

    Raises:
        ValueError: the manifest's recipe does not name how the photos are stored.
    """
    # One name for every label there may be.
    names = [BACKGROUND] * manifest.label_offset + [entry.wnid for entry in manifest.classes]
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
    features = _nested(_feature_configs(len(names), manifest.photo_format))
    return {
        FEATURES_FILE: json.dumps(features, indent=1, sort_keys=True) + "\n",
        INFO_FILE: json.dumps(info, indent=1, sort_keys=True) + "\n",
        CLASS_NAMES_FILE: "".join(f"{name}\n" for name in names),
    }


def _feature_configs(labels: int, photo_format: records.Rule) -> dict[str, dict]:
    """Return TFDS' description of each feature of a record, by the feature's name."""
    configs = {}
    for name, dtype in records.FEATURES.items():
        if dtype == "int64":
            tensor = {"dtype": "int64", "encoding": "none", "shape": {}}
            configs[name] = _config("scalar.Scalar", tensor=tensor)
        else:
            configs[name] = _config("text_feature.Text", text={})
    configs["image/encoded"] = _photo_config(photo_format)
    label = {"numClasses": str(labels)}
    configs["image/class/label"] = _config("class_label_feature.ClassLabel", classLabel=label)
    return configs


def _photo_config(photo_format: records.Rule) -> dict:
    """Return the description of image/encoded, by which TFDS gives the pixels."""
    side = photo_format.short_side if photo_format.crop == "center" else -1  # of any length
    shape = {"dimensions": [str(side), str(side), "3"]}
    if photo_format.storage == "raw":
        tensor = {"dtype": "uint8", "encoding": "bytes", "shape": shape}
        return _config("tensor_feature.Tensor", tensor=tensor)
    image = {"dtype": "uint8", "encodingFormat": "jpeg", "shape": shape}
    return _config("image_feature.Image", image=image)


def _config(class_name: str, **content: object) -> dict:
    return {"pythonClassName": f"{_FEATURES_MODULE}.{class_name}", **content}


def _nested(configs: Mapping[str, dict]) -> dict:
    """Nest features named a/b/c as TFDS joins their names: a FeaturesDict for each slash."""
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
