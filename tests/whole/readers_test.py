"""One data set, many readers: each is the real library, reading what prepare wrote."""

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from data_prep import prepare, records
from keras_alexnet.inputs import pipeline
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.saved_model import agreement
from keras_alexnet.saved_model import decoding as serving_photos

pytestmark = pytest.mark.slow

SIZE = 72
CLASSES = ["cat", "dog", "eel"]
VARIANTS = {
    "jpeg": {},
    "raw": {"storage": "raw"},
    "none": {"crop": "none"},
    "offset": {"label_offset": 1},
}
PROFILE = dataclasses.replace(PROFILES["paper"], input_size=64)


@dataclasses.dataclass(frozen=True)
class Prepared:
    folder: pathlib.Path
    manifest: records.Manifest

    def shards(self, split):
        return [str(self.folder / shard.name) for shard in self.manifest.splits[split].shards]

    def examples(self, split):
        """Return the reference: TensorFlow's own parser of Examples, and Pillow."""
        found = []
        for record in tf.data.TFRecordDataset(self.shards(split)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            encoded = features["image/encoded"].bytes_list.value[0]
            shape = [features[f"image/{side}"].int64_list.value[0] for side in ("height", "width")]
            if features["image/format"].bytes_list.value[0] == b"RAW":
                pixels = np.frombuffer(encoded, np.uint8).reshape(*shape, 3)
            else:
                pixels = np.asarray(Image.open(io.BytesIO(encoded)))
            assert list(pixels.shape) == [*shape, 3]
            label = features["image/class/label"].int64_list.value[0]
            synset = features["image/class/synset"].bytes_list.value[0].decode()
            found.append((encoded, pixels, label, synset))
        return found


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """Prepare the same photos in each way: 3 classes, 18 train and 6 validation photos."""
    root = tmp_path_factory.mktemp("readers")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 2)):
        for name in CLASSES:
            (root / "photos" / split / name).mkdir(parents=True)
            for index in range(count):
                height, width = random.integers(60, 150, size=2)
                coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
                smooth = cv2.resize(coarse, (int(width), int(height)))  # as photos are
                Image.fromarray(smooth).save(root / "photos" / split / name / f"{index}.png")
    found = {}
    for variant, options in VARIANTS.items():
        prepare.prepare(
            source="class_folders",
            input_dir=str(root / "photos"),
            output_dir=str(root / variant),
            train_shards=2,
            validation_shards=1,
            short_side=SIZE,
            index=True,
            beam_options=["--runner=FnApiRunner"],
            **options,
        )
        found[variant] = Prepared(root / variant, records.read_manifest(str(root / variant)))
    return found


@pytest.fixture(params=VARIANTS)
def data(data_sets, request):
    return data_sets[request.param]


def test_labels_and_sizes_are_those_that_were_asked_for(data):
    recipe = data.manifest.recipe
    for split, count in (("train", 18), ("validation", 6)):
        examples = data.examples(split)
        assert len(examples) == count
        for _, pixels, label, synset in examples:
            assert CLASSES[label - recipe["label_offset"]] == synset
            assert min(pixels.shape[:2]) == SIZE
        assert recipe["crop"] == "none" or {p.shape for _, p, _, _ in examples} == {(SIZE, SIZE, 3)}
        assert recipe["crop"] == "center" or any(
            p.shape[0] != p.shape[1] for _, p, _, _ in examples
        )


def test_tf_data_reads_it(data):
    parsed = [records.parse(r) for r in tf.data.TFRecordDataset(data.shards("train"))]
    for features, (encoded, pixels, label, synset) in zip(
        parsed, data.examples("train"), strict=True
    ):
        assert features["image/encoded"] == encoded
        assert features["image/class/label"] == label
        assert features["image/class/synset"] == synset.encode()
        shape = (features["image/height"], features["image/width"], features["image/channels"])
        assert shape == pixels.shape


def test_tensorflow_datasets_reads_it(data):
    builder = tfds.builder_from_directory(str(data.folder))
    names = builder.info.features["image"]["class"]["label"].names
    assert names == ["background"] * data.manifest.label_offset + CLASSES
    for split in records.SPLITS:
        expected = data.examples(split)
        assert builder.info.splits[split].num_examples == len(expected)
        read = list(builder.as_dataset(split=split, shuffle_files=False))
        for features, (_, pixels, label, synset) in zip(read, expected, strict=True):
            image = features["image"]["encoded"].numpy()
            assert image.dtype == np.uint8
            assert image.shape == pixels.shape
            # TFDS decodes JPEGs by the fast inverse transform; raw pixels are exact.
            difference = np.abs(image.astype(int) - pixels).mean()
            assert difference == 0 if data.manifest.recipe["storage"] == "raw" else difference < 1.5
            assert features["image"]["class"]["label"] == label
            assert names[label] == synset


# The tfrecord package and TensorFlow define the same protocol buffers: one process can import
# only one of the two. This is the one of somebody who uses PyTorch.
PYTORCH_PROGRAM = """
import hashlib, json, os, sys
import tfrecord
from tfrecord.tools import tfrecord2idx

shard, index, own_index = sys.argv[1:]

def read(index=None, part=None):
    description = {"image/encoded": "byte", "image/class/label": "int"}
    return [
        (hashlib.sha256(example["image/encoded"]).hexdigest(), int(example["image/class/label"][0]))
        for example in tfrecord.tfrecord_loader(shard, index, description, part)
    ]

try:
    from torch.utils.data import DataLoader
    from tfrecord.torch.dataset import TFRecordDataset
    batches = DataLoader(TFRecordDataset(shard, index, {"image/class/label": "int"}), num_workers=2)
    torch_labels = [int(batch["image/class/label"][0]) for batch in batches]
except ImportError:
    torch_labels = None

tfrecord2idx.create_index(shard, own_index)
assert "tensorflow" not in sys.modules
print(json.dumps({
    "whole": read(),
    "parts": {n: [read(index, (i, n)) for i in range(n)] for n in (2, 3)},
    "anywhere": [read(index) for _ in range(20)],
    "torch_labels": torch_labels,
}))
"""


@functools.cache
def read_by_pytorch_users(shard, index, own_index):
    command = [sys.executable, "-c", PYTORCH_PROGRAM, shard, index, own_index]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.fixture
def pytorch(data):
    """(what the package read, what TensorFlow read, our index, the package's) of a shard."""
    (shard,) = data.shards("validation")
    index, own = data.folder / records.index_name(pathlib.Path(shard).name), f"{data.folder}.index"
    read = read_by_pytorch_users(shard, str(index), own)
    expected = [
        [hashlib.sha256(encoded).hexdigest(), label]
        for encoded, _, label, _ in data.examples("validation")
    ]
    return read, expected, index.read_bytes(), pathlib.Path(own).read_bytes()


def test_the_tfrecord_package_reads_it(pytorch):
    read, expected, _, _ = pytorch
    assert read["whole"] == expected


@pytest.mark.parametrize("workers", [2, 3])
def test_the_tfrecord_package_splits_a_file_among_workers_by_our_index(pytorch, workers):
    read, expected, _, _ = pytorch
    each = len(expected) // workers
    parts = [expected[each * worker : each * (worker + 1)] for worker in range(workers)]
    assert read["parts"][str(workers)] == parts


def test_the_tfrecord_package_starts_anywhere_by_our_index(pytorch):
    read, expected, _, _ = pytorch
    starts = {expected.index(records[0]) for records in read["anywhere"]}
    assert len(starts) > 1
    for found in read["anywhere"]:
        start = expected.index(found[0])
        assert found == expected[start:] + expected[:start]


@pytest.mark.torch
def test_pytorch_reads_it_with_two_workers(pytorch):
    read, expected, _, _ = pytorch
    if read["torch_labels"] is None:
        pytest.skip("needs PyTorch: make test-torch")
    assert sorted(read["torch_labels"]) == sorted(label for _, label in expected)


def test_our_index_is_byte_for_byte_that_of_tfrecord2idx(pytorch):
    _, expected, ours, theirs = pytorch
    assert len(ours.splitlines()) == len(expected)
    assert ours == theirs


def test_a_pattern_for_the_shards_finds_shards_alone(data):
    assert sorted(map(str, data.folder.glob("train-*"))) == sorted(data.shards("train"))


def evaluation_batch(data):
    return next(iter(pipeline.eval_dataset(str(data.folder), data.manifest, batch_size=6)))


def training_batch(data):
    dataset = pipeline.train_dataset(
        str(data.folder), data.manifest, PROFILE, pipeline.Feed(batch_size=18, seed=5)
    )
    return next(iter(dataset))


def test_evaluation_sees_the_same_whichever_way_photos_are_stored(data_sets, data):
    images, labels, _ = evaluation_batch(data)
    expected, expected_labels, _ = evaluation_batch(data_sets["jpeg"])
    np.testing.assert_array_equal(labels, expected_labels)
    assert labels.numpy().max() < len(CLASSES)
    difference = np.abs(images.numpy().astype(int) - expected.numpy()).mean()
    assert difference < 3  # the loss of a JPEG, and where its blocks begin
    for image, (_, pixels, _, _) in zip(images.numpy(), data.examples("validation"), strict=True):
        top, left = (pixels.shape[0] - SIZE) // 2, (pixels.shape[1] - SIZE) // 2
        np.testing.assert_array_equal(image, pixels[top : top + SIZE, left : left + SIZE])


def test_training_sees_the_same_whichever_way_photos_are_stored(data_sets, data):
    features, labels = training_batch(data)
    expected, expected_labels = training_batch(data_sets["jpeg"])
    np.testing.assert_array_equal(labels, expected_labels)
    for name in ("offset", "flip", "noise"):
        np.testing.assert_array_equal(features[name], expected[name])
    difference = np.abs(features["image"].numpy().astype(int) - expected["image"].numpy())
    assert difference.mean() < 3


@pytest.mark.parametrize("variant", ["raw", "none"])
def test_a_served_photo_becomes_what_evaluation_sees(data_sets, variant):
    data = data_sets[variant]
    digest = hashlib.sha256((data.folder / records.MANIFEST).read_bytes()).hexdigest()
    manifest = agreement.manifest_of(str(data.folder), digest)
    files = agreement.stored_photos(str(data.folder), manifest, count=6)
    images, valid = serving_photos.stored_images(tf.constant(files), size=SIZE)
    assert valid.numpy().all()
    np.testing.assert_array_equal(images, evaluation_batch(data)[0])
