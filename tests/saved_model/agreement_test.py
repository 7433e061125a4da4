"""Answers to a photo, beside evaluation of the record that was made of it.

Both see nearly the same pixels. What differs is the resize, TensorFlow's instead of OpenCV's, by
its rounding; and that the record was compressed once more, as a JPEG of quality 95.
"""

import numpy as np
import photo_sample
import pytest
import stand_in
import tensorflow as tf

from data_prep import conversion_rule, records
from data_prep.photos import images
from keras_alexnet.analysis import evaluation
from keras_alexnet.inputs import stored_photos
from keras_alexnet.saved_model import decoding, signatures

pytestmark = pytest.mark.slow

CLASSES = 100


@pytest.fixture(scope="module")
def originals():
    return [photo for _, photo in photo_sample.photo_files()]


@pytest.fixture(scope="module")
def stored(originals):
    """Return what evaluation reads, uint8 [N, 256, 256, 3], by how photos are stored."""
    return {
        storage: np.stack([as_records_hold_it(photo, storage=storage) for photo in originals])
        for storage in ("raw", "jpeg")
    }


@pytest.fixture(scope="module")
def run(stored):
    """Return a network of random weights whose classes are equally likely over these photos.

    Without that, some classes are the best of nearly all photos, and no two answers disagree.
    """
    run = stand_in.trained_run(classes=CLASSES)
    fc8 = run.model.get_layer("fc8")
    kernel, bias = fc8.get_weights()
    fc8.set_weights([kernel, bias - evaluated(run, stored["raw"]).mean(0)])
    return run


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    signatures.save(run, str(folder / "model"))
    return tf.saved_model.load(str(folder / "model")).signatures


def served_logits(run, served, originals):
    """Return the output of fc8 in float64, from what the export says of fc7."""
    batches = [originals[start : start + 50] for start in range(0, len(originals), 50)]
    answers = [served["features"](image_bytes=tf.constant(batch)) for batch in batches]
    assert all(np.all(answer["valid"]) for answer in answers)
    features = np.concatenate([answer["features"] for answer in answers]).astype(np.float64)
    kernel, bias = run.model.get_layer("fc8").get_weights()
    return features @ kernel + bias


def evaluated(run, stored):
    """Return the logarithm of evaluation's softmax: the logits, less a constant a photo."""
    predict = evaluation.make_predict(run, 1)
    return np.concatenate(
        [
            np.log(predict(tf.constant(stored[start : start + 50])))
            for start in range(0, len(stored), 50)
        ]
    )


def as_records_hold_it(photo, **rule):
    """Return the pixels that evaluation reads from the data job's record of a photo."""
    rule = conversion_rule.Rule(**rule)
    converted = images.convert(photo, rule)
    serialized = records.encode(
        image=converted.image,
        image_format=records.IMAGE_FORMATS[rule.storage],
        height=converted.height,
        width=converted.width,
        filename="a.JPEG",
        label=0,
        wnid="n0",
        text="",
    )
    features = stored_photos.parse(tf.constant(serialized), rule)
    return stored_photos.decode(features, rule).numpy()


def test_served_pixels_are_those_of_the_data_job(stored, originals):
    squares, valid = tf.function(decoding.stored_images)(tf.constant(originals))
    assert np.all(valid)
    resized = np.abs(squares.numpy().astype(int) - stored["raw"])
    assert resized.max() <= 1
    assert resized.mean() < 0.001  # seen: 0.0005
    compressed = np.abs(squares.numpy().astype(int) - stored["jpeg"])
    assert compressed.mean() < 3  # seen: 2.17, grey levels


@pytest.mark.parametrize(
    ("storage", "mean", "largest", "agreement"),
    # Seen: 0.00002, 0.0002 and 1; 0.0033, 0.037 and 0.89. A trained network is surer of its class.
    [("raw", 0.0001, 0.001, 0.99), ("jpeg", 0.005, 0.06, 0.85)],
)
def test_export_and_evaluation_agree_on_real_photos(
    run, served, originals, stored, storage, mean, largest, agreement
):
    expected = evaluated(run, stored[storage])
    logits = served_logits(run, served, originals)
    # A softmax does not tell the constant that all logits of a photo share.
    shared = (logits - expected).mean(1, keepdims=True)
    difference = np.abs(logits - shared - expected) / np.abs(logits).max()
    top1 = np.mean(logits.argmax(1) == expected.argmax(1))
    assert len(set(expected.argmax(1))) > len(originals) / 10  # the network tells the photos apart
    assert difference.mean() < mean
    assert difference.max() < largest
    assert top1 >= agreement
