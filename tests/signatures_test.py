import dataclasses

import keras
import numpy as np
import pytest
import stand_in
import tensorflow as tf

from data_prep import records
from keras_alexnet import evaluate
from keras_alexnet.model import AlexNet
from keras_alexnet.serving import signatures

JUNK = b"no photo"


def serve(run, folder):
    labels_file = folder / records.LABELS
    labels_file.write_text(records.labels_text(run.classes))
    return signatures.ServedModel(
        model=run.model,
        profile=run.profile,
        classes=run.classes,
        statistics=run.statistics,
        labels_file=str(labels_file),
    )


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def loaded(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signatures")
    signatures.save(serve(run, folder), str(folder / "model"))
    (folder / records.LABELS).unlink()  # what is served is the copy
    return tf.saved_model.load(str(folder / "model"))


def call(loaded, name, **inputs):
    return {key: value.numpy() for key, value in loaded.signatures[name](**inputs).items()}


def test_shapes_and_types(loaded):
    photos = tf.constant([stand_in.photo(), JUNK])
    shapes = {
        name: {key: (value.dtype.name, value.shape) for key, value in answer.items()}
        for name, answer in {
            "serving_default": loaded.signatures["serving_default"](image_bytes=photos),
            "ten_crop": loaded.signatures["ten_crop"](image_bytes=photos),
            "features": loaded.signatures["features"](image_bytes=photos),
            "pixels": loaded.signatures["pixels"](images=tf.zeros([2, 256, 256, 3], tf.uint8)),
        }.items()
    }
    named = {
        "classes": ("string", (2, 5)),
        "class_ids": ("int64", (2, 5)),
        "scores": ("float32", (2, 5)),
    }
    valid = {"valid": ("bool", (2,))}
    units = stand_in.PROFILE.fc_units[1]
    assert shapes == {
        "serving_default": named | valid,
        "ten_crop": named | valid,
        "features": {"features": ("float32", (2, units))} | valid,
        "pixels": named,
    }
    assert set(loaded.signatures) == set(shapes)


def test_answers_are_the_networks(run, loaded):
    photos = [stand_in.photo(seed=seed) for seed in range(6)]
    images = np.stack([stand_in.decoded(photo) for photo in photos])
    expected = stand_in.scores(run, images)
    order = np.argsort(-expected, axis=1)[:, :5]
    assert len(set(order[:, 0])) > 1  # the photos are told apart
    for answer in (
        call(loaded, "serving_default", image_bytes=tf.constant(photos)),
        call(loaded, "pixels", images=tf.constant(images)),
    ):
        np.testing.assert_array_equal(answer["class_ids"], order)
        np.testing.assert_allclose(
            answer["scores"], np.take_along_axis(expected, order, 1), atol=1e-5
        )
        names = [[run.classes[index].name.encode() for index in row] for row in order]
        assert answer["classes"].tolist() == names


def test_ten_crop_is_the_mean_over_the_papers_views(run, loaded):
    photo = stand_in.photo(seed=3)
    network_input = stand_in.decoded(photo).astype(np.float32) - run.statistics.mean_image
    views = []
    for y, x in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16)):
        crop = network_input[y : y + 224, x : x + 224] * run.profile.pixel_scale
        views += [crop, crop[:, ::-1]]
    expected = run.model(np.stack(views), training=False).numpy().mean(0)
    answer = call(loaded, "ten_crop", image_bytes=tf.constant([photo]))
    np.testing.assert_array_equal(answer["class_ids"][0], np.argsort(-expected)[:5])
    np.testing.assert_allclose(answer["scores"][0], np.sort(expected)[::-1][:5], atol=1e-5)


# What a profile may subtract besides the stand-in's mean image under the crop, and that in NumPy:
# a mirrored or straight crop, the run's mean image -> network input.
OTHER_MEANS = {
    "centre": (
        {"mean_position": "centre"},
        lambda crop, mean: (crop - mean[16:240, 16:240]) / 60,
    ),
    "channels": (
        {
            "mean": "channels",
            "mean_position": None,
            "channel_mean": (123.0, 116.0, 103.0),
            "channel_std": (58.0, 57.0, 56.0),
            "pixel_scale": 1.0,
        },
        lambda crop, _: (crop - np.float32([123, 116, 103])) / np.float32([58, 57, 56]),
    ),
}


@pytest.mark.parametrize("mean", OTHER_MEANS)
def test_other_means_are_served_as_they_are_evaluated(mean, tmp_path):
    fields, network_input = OTHER_MEANS[mean]
    run = stand_in.trained_run()
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, **fields))
    photos = [stand_in.photo(seed=seed) for seed in (3, 4)]
    images = np.stack([stand_in.decoded(photo) for photo in photos])
    served = serve(run, tmp_path)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    for signature, places, steps in (
        ("serving_default", corners[4:], (1,)),
        ("ten_crop", corners, (1, -1)),
    ):
        per_view = []
        for y, x in places:
            for step in steps:
                crops = images[:, y : y + 224, x : x + 224][:, :, ::step].astype(np.float32)
                inputs = network_input(crops, run.statistics.mean_image)
                per_view.append(run.model(inputs, training=False).numpy())
        expected = np.mean(per_view, axis=0)
        predict = evaluate.make_predict(run, len(per_view))
        np.testing.assert_allclose(predict(tf.constant(images)), expected, atol=1e-5)
        answer = served.functions[signature](tf.constant(photos))
        np.testing.assert_array_equal(answer["class_ids"], np.argsort(-expected, 1)[:, :5])
        np.testing.assert_allclose(answer["scores"], -np.sort(-expected, 1)[:, :5], atol=1e-5)


def test_features_lead_to_the_scores(run, loaded):
    photo = stand_in.photo(seed=4)
    features = call(loaded, "features", image_bytes=tf.constant([photo]))["features"]
    assert features.min() == 0  # after ReLU
    kernel, bias = run.model.get_layer("fc8").get_weights()
    logits = features.astype(np.float64) @ kernel + bias
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    answer = call(loaded, "serving_default", image_bytes=tf.constant([photo]))
    np.testing.assert_allclose(answer["scores"][0], np.sort(expected[0])[::-1][:5], atol=1e-5)


def test_invalid_photo_is_blank_and_harms_no_other(loaded):
    photo = stand_in.photo(seed=5)
    for name in ("serving_default", "ten_crop"):
        alone = call(loaded, name, image_bytes=tf.constant([photo]))
        mixed = call(loaded, name, image_bytes=tf.constant([JUNK, photo, b""]))
        assert mixed["valid"].tolist() == [False, True, False]
        for index in (0, 2):
            assert mixed["classes"][index].tolist() == [b""] * 5
            assert mixed["class_ids"][index].tolist() == [-1] * 5
            assert mixed["scores"][index].tolist() == [0.0] * 5
        np.testing.assert_array_equal(mixed["classes"][1], alone["classes"][0])
        np.testing.assert_allclose(mixed["scores"][1], alone["scores"][0], atol=1e-6)
    features = call(loaded, "features", image_bytes=tf.constant([JUNK, photo]))
    assert not features["features"][0].any()
    assert features["features"][1].any()


def test_fewer_than_five_classes(tmp_path):
    served = serve(stand_in.trained_run(classes=3), tmp_path)
    answer = served.functions["serving_default"](tf.constant([stand_in.photo(), JUNK]))
    assert answer["classes"].shape == (2, 3)
    np.testing.assert_allclose(answer["scores"][0].numpy().sum(), 1, atol=1e-6)


def test_float32_whatever_the_precision(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        run = stand_in.trained_run()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert run.model.get_layer("conv1").compute_dtype == "bfloat16"
    served = serve(run, tmp_path)
    photos = tf.constant([stand_in.photo()])
    for name, output in (("serving_default", "scores"), ("features", "features")):
        assert served.functions[name](photos)[output].dtype == tf.float32


def test_nothing_is_compiled_and_no_name_means_bytes(loaded):
    for signature in loaded.signatures.values():
        graph = signature.graph.as_graph_def()
        functions = [function.attr for function in graph.library.function]
        assert not any(attr["_XlaMustCompile"].b for attr in functions)
        assert not any(name.endswith("_bytes") for name in signature.structured_outputs)


def test_wrong_number_of_classes(run, tmp_path):
    labels_file = tmp_path / records.LABELS
    labels_file.write_text("n0\tname\n")
    with pytest.raises(ValueError, match=r"Received: 7 outputs, 6 classes"):
        signatures.ServedModel(
            model=run.model,
            profile=run.profile,
            classes=run.classes[:6],
            statistics=run.statistics,
            labels_file=str(labels_file),
        )


def test_other_stored_size(tmp_path):
    run = stand_in.trained_run()
    run = type(run)(
        model=AlexNet(run.profile, classes=7, seed=1),
        profile=run.profile,
        classes=run.classes,
        statistics=stand_in.statistics(288),
        description={},
    )
    served = serve(run, tmp_path)
    photo = stand_in.photo(288, 288)
    expected = stand_in.scores(run, stand_in.decoded(photo)[np.newaxis])
    answer = served.functions["serving_default"](tf.constant([photo]))
    np.testing.assert_allclose(answer["scores"][0], np.sort(expected[0])[::-1][:5], atol=1e-5)
