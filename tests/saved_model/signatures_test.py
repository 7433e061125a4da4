import dataclasses
import gc
import weakref

import keras
import numpy as np
import pytest
import stand_in
import tensorflow as tf
from bad_photos import BAD, GOOD, PNG
from tensorflow.core.protobuf import saved_model_pb2

from data_prep import records
from keras_alexnet.analysis import evaluation
from keras_alexnet.saved_model import signatures

pytestmark = pytest.mark.slow

JUNK = b"no photo"


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signatures")
    signatures.save(run, str(folder / "model"))
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return tf.saved_model.load(str(folder / "model"))


def call(loaded, name, **inputs):
    return {key: value.numpy() for key, value in loaded.signatures[name](**inputs).items()}


def everything(photos):
    """Return the inputs of each signature that ask about the same photos."""
    images = np.zeros([len(photos), 256, 256, 3], np.uint8)
    return {
        signature: {name: tf.constant(value) for name, value in inputs.items()}
        for signature, inputs in signatures.inputs_of(photos, images).items()
    }


def test_shapes_and_types(loaded):
    named = {
        "classes": ("string", (2, 5)),
        "class_ids": ("int64", (2, 5)),
        "scores": ("float32", (2, 5)),
    }
    valid = {"valid": ("bool", (2,))}
    units = stand_in.PROFILE.fc_units[1]
    assert {
        name: {key: (value.dtype.name, value.shape) for key, value in answer.items()}
        for name, inputs in everything([stand_in.photo(), JUNK]).items()
        for answer in [loaded.signatures[name](**inputs)]
    } == {
        "serving_default": named | valid,
        "ten_crop": named | valid,
        "features": {"features": ("float32", (2, units))} | valid,
        "explain": named
        | valid
        | {
            "heat_map": ("float32", (2, 13, 13)),
            "heat_box": ("int64", (2, 4)),
            "view_classes": ("string", (2, 10)),
            "view_scores": ("float32", (2, 10)),
            "view_boxes": ("int64", (2, 10, 5)),
            "stored_size": ("int64", (2,)),
        },
        "pixels": named,
        "classify": {name: named[name] for name in ("classes", "scores")},
    }
    assert set(loaded.signatures) == set(signatures.INPUT_NAMES)


def test_no_photos(loaded):
    for name, inputs in everything([JUNK]).items():
        (key,) = inputs
        for output in call(loaded, name, **{key: inputs[key][:0]}).values():
            assert output.shape[0] == 0


def test_declared_as_tf_serving_wants_it(loaded, folder):
    with open(folder / "model" / "saved_model.pb", "rb") as file:
        declared = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].signature_def
    for name, key in signatures.INPUT_NAMES.items():
        assert list(declared[name].inputs) == [key]
        for tensor in [*declared[name].inputs.values(), *declared[name].outputs.values()]:
            # A row request is split, and requests are merged, along the first dimension.
            assert tensor.tensor_shape.dim[0].size == -1
            assert all(dimension.size > 0 for dimension in tensor.tensor_shape.dim[1:])
    # classifier.cc: one input called inputs, no output but classes and scores
    assert set(declared["classify"].outputs) == {"classes", "scores"}
    assert {name: declared[name].method_name.split("/")[-1] for name in signatures.INPUT_NAMES} == {
        **dict.fromkeys(signatures.INPUT_NAMES, "predict"),
        "classify": "classify",
    }
    # Its hashes were those of the declaration before the method's name was put right.
    assert not (folder / "model" / "fingerprint.pb").exists()


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
    served = stand_in.served_model(run, tmp_path)
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
        predict = evaluation.make_predict(run, len(per_view))
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


@pytest.mark.parametrize("signature", ["serving_default", "ten_crop", "features", "explain"])
def test_no_bad_photo_harms_a_good_one(loaded, signature):
    sent = [GOOD, JUNK, *BAD.values(), PNG]
    answer = call(loaded, signature, image_bytes=tf.constant(sent))
    alone = call(loaded, signature, image_bytes=tf.constant([GOOD, PNG]))
    assert answer["valid"].tolist() == [True] + [False] * (1 + len(BAD)) + [True]
    for name, output in answer.items():
        if output.dtype == np.float32:
            np.testing.assert_allclose(output[[0, -1]], alone[name], atol=1e-6)
            assert not output[1:-1].any()
        else:
            np.testing.assert_array_equal(output[[0, -1]], alone[name])
    for name in {"classes", "view_classes"} & set(answer):
        assert not any(answer[name][1:-1].ravel())  # empty names
    assert np.all(answer.get("class_ids", np.array([0, -1, 0]))[1:-1] == -1)


def example(**features):
    """Serialize a tf.train.Example by TensorFlow's own protocol buffer; "__" stands for "/"."""
    made = tf.train.Example()
    for name, values in features.items():
        feature = made.features.feature[name.replace("__", "/")]
        kind = feature.bytes_list if isinstance(values[0], bytes) else feature.int64_list
        kind.value.extend(values)
    return made.SerializeToString()


def test_classify_takes_examples_of_any_kind(loaded):
    photo = stand_in.photo(300, 280, seed=6)
    record = records.encode(
        image=photo, height=300, width=280, filename="a.jpg", label=1, wnid="n1", text="one"
    )
    good = {"alone": example(image__encoded=[photo]), "record": record}
    bad = {
        "empty": b"",
        "no_example": b"\xff\xff\xff\xff\xff no protocol buffer",
        "cut": record[: len(record) // 2],
        "no_photo": example(image__format=[b"JPEG"]),
        "number": example(image__encoded=[7]),
        "two": example(image__encoded=[photo, photo]),
        "none": example(image__encoded=[b""]),
        "gif": example(image__encoded=[BAD["gif"]]),
    }
    answer = call(loaded, "classify", inputs=tf.constant([*good.values(), *bad.values()]))
    expected = call(loaded, "serving_default", image_bytes=tf.constant([photo]))
    for row in range(len(good)):
        np.testing.assert_array_equal(answer["classes"][row], expected["classes"][0])
        np.testing.assert_allclose(answer["scores"][row], expected["scores"][0], atol=1e-6)
    assert not any(answer["classes"][len(good) :].ravel())
    assert not answer["scores"][len(good) :].any()


def test_float32_whatever_the_precision(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        run = stand_in.trained_run()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert run.model.get_layer("conv1").compute_dtype == "bfloat16"
    served = stand_in.served_model(run, tmp_path)
    photos = tf.constant([stand_in.photo()])
    for name in ("serving_default", "ten_crop", "features", "explain"):
        for output in served.functions[name](photos).values():
            assert output.dtype in (tf.float32, tf.int64, tf.string, tf.bool)


def test_nothing_is_compiled_and_no_name_means_bytes(loaded):
    for signature in loaded.signatures.values():
        graph = signature.graph.as_graph_def()
        functions = [function.attr for function in graph.library.function]
        assert not any(attr["_XlaMustCompile"].b for attr in functions)
        assert not any(name.endswith("_bytes") for name in signature.structured_outputs)


def test_explanation_is_of_the_ten_views(run, loaded):
    photos = [stand_in.photo(seed=seed) for seed in (3, 4)]
    images = np.stack([stand_in.decoded(photo) for photo in photos])
    answer = call(loaded, "explain", image_bytes=tf.constant(photos))
    default = call(loaded, "serving_default", image_bytes=tf.constant(photos))
    for name, output in default.items():
        np.testing.assert_allclose(
            *(x if x.dtype != object else x == output for x in (answer[name], output)), atol=1e-6
        )
    assert answer["stored_size"].tolist() == [256, 256]
    corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    boxes = [[y, x, 224, 224, mirrored] for mirrored in (0, 1) for y, x in corners]
    assert answer["view_boxes"].tolist() == [boxes] * 2
    assert answer["heat_box"].tolist() == [[16, 16, 224, 224]] * 2
    network_input = images.astype(np.float32) - run.statistics.mean_image
    for place, (y, x, height, width, mirrored) in enumerate(boxes):
        crop = network_input[:, y : y + height, x : x + width] * run.profile.pixel_scale
        crop = crop[:, :, ::-1] if mirrored else crop
        scores = run.model(crop, training=False).numpy()
        np.testing.assert_allclose(answer["view_scores"][:, place], scores.max(1), atol=1e-5)
        names = [run.classes[index].name.encode() for index in scores.argmax(1)]
        assert answer["view_classes"][:, place].tolist() == names
    assert len(set(answer["view_classes"].ravel())) > 1


def test_wrong_number_of_classes(run, tmp_path):
    run = dataclasses.replace(run, classes=run.classes[:6])
    with pytest.raises(ValueError, match=r"Received: 7 outputs, 6 classes"):
        signatures.save(run, str(tmp_path))


def test_other_stored_size_and_fewer_than_five_classes(tmp_path):
    run = dataclasses.replace(stand_in.trained_run(3), statistics=stand_in.statistics(288))
    served = stand_in.served_model(run, tmp_path)
    photo = stand_in.photo(288, 288)
    expected = stand_in.scores(run, stand_in.decoded(photo)[np.newaxis])
    answer = served.functions["serving_default"](tf.constant([photo, JUNK]))
    assert answer["classes"].shape == (2, 3)
    np.testing.assert_allclose(answer["scores"][0], np.sort(expected[0])[::-1], atol=1e-5)


def handles_of_a_dropped_model(path):
    """Return the owners of the weights' memory."""
    loaded = tf.saved_model.load(path)
    handles = [weakref.ref(variable.handle) for variable in loaded._weights]
    assert all(handle() is not None for handle in handles)
    return handles


def test_the_weights_of_a_model_go_with_it(folder):
    """Or a server would keep those of every version that it ever served."""
    handles = handles_of_a_dropped_model(str(folder / "model"))
    gc.collect()
    assert [handle() for handle in handles] == [None] * len(handles)
