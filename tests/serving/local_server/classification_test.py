"""Examples in JSON against tf.train.Example and TensorFlow's parser, and small SavedModels."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.serving.local_server import batching, classification, json_examples, json_tensors
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import LoadedModel


def serialized(body):
    return json_examples.serialized_examples(json_tensors.parse(body.encode()))


def features(**lists):
    """A tf.train.Example from (kind of list, values) by name."""
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(**{kind: _LISTS[kind](value=values)})
                for name, (kind, values) in lists.items()
            }
        )
    )


_LISTS = {
    "bytes_list": tf.train.BytesList,
    "float_list": tf.train.FloatList,
    "int64_list": tf.train.Int64List,
}


def test_examples():
    """The first two cases of json_tensor_test.cc."""
    first, second, third = serialized(
        """{"examples": [
            {"names": ["foo", "b\\u00fcr"], "ratings": [8.0, 9.5, Infinity], "age": 20},
            {"names": ["baz", {"b64": "aGVsbG8="}], "ratings": 6.0, "mix": [1, true, false]},
            {"empty": [], "large": [9223372036854775807, -9223372036854775808],
             "beyond": [18446744073709551616, -9223372036854775809, -1e3]}]}"""
    )
    assert tf.train.Example.FromString(first) == features(
        names=("bytes_list", [b"foo", "bür".encode()]),
        ratings=("float_list", [8.0, 9.5, math.inf]),
        age=("int64_list", [20]),
    )
    assert tf.train.Example.FromString(second) == features(
        names=("bytes_list", [b"baz", b"hello"]),
        ratings=("float_list", [6.0]),
        mix=("int64_list", [1, 1, 0]),
    )
    expected = features(
        large=("int64_list", [2**63 - 1, -(2**63)]),
        beyond=("float_list", [2.0**64, -(2.0**63), -1000.0]),
    )
    expected.features.feature["empty"].SetInParent()
    assert tf.train.Example.FromString(third) == expected


def test_nan():
    (example,) = serialized('{"examples": [{"ratings": NaN}]}')
    (value,) = tf.train.Example.FromString(example).features.feature["ratings"].float_list.value
    assert math.isnan(value)


def test_context_is_in_each_example():
    examples = serialized(
        """{"context": {"query": "pizza", "n": 1},
            "examples": [{"names": "foo"}, {"n": 2}, {}]}"""
    )
    parsed = tf.io.parse_example(
        examples,
        {
            "query": tf.io.FixedLenFeature([], tf.string),
            "names": tf.io.FixedLenFeature([], tf.string, ""),
            "n": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    assert parsed["query"].numpy().tolist() == [b"pizza"] * 3
    assert parsed["names"].numpy().tolist() == [b"foo", b"", b""]
    assert parsed["n"].numpy().tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": {"x": 1}}', "Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": [[{"x": 1}]]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": [null]}', "Example must be JSON object but got JSON Null"),
        ('{"examples": [{}, 1.5]}', "Example must be JSON object but got JSON Number"),
        ('{"context": [], "examples": [{}]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": [{"x": [10, null]}]}', "x has element with unexpected JSON type: Null"),
        ('{"examples": [{"x": {"y": 1}}]}', "x has element with unexpected JSON type: Object"),
        ('{"examples": [{"x": {"b64": 1}}]}', "x has element with unexpected JSON type: Object"),
        ('{"examples": [{"x": [[10], 20]}]}', "x has element with unexpected JSON type: Array"),
        ('{"examples": [{"x": [10, 10.0]}]}', "type in feature: x expecting type: int64"),
        ('{"examples": [{"x": [10.0, true]}]}', "type in feature: x expecting type: float"),
        ('{"examples": [{"x": ["a", 1]}]}', "type in feature: x expecting type: bytes"),
        (
            '{"examples": [{"x": 18446744073709551603}]}',
            "Feature: x has uint64 element. Only int64 is supported.",
        ),
        ('{"examples": [{"x": 1.7e308}]}', "to float without loss of precision"),
        ('{"examples": [{"x": {"b64": "a"}}]}', "Unable to base64 decode"),
        ('{"examples": [{"x": "\\ud800"}]}', "is no Unicode text"),
        ('{"examples": [{"\\ud800": 1}]}', "is no Unicode text"),
    ],
)
def test_what_is_no_list_of_examples(body, message):
    with pytest.raises(RequestError) as error:
        serialized(body)
    assert error.value.code == "INVALID_ARGUMENT"
    assert message in error.value.message


def test_more_examples_than_a_batch_may_have_are_refused_unread():
    with pytest.raises(RequestError, match="1 to 256 photos, received 257"):
        serialized(json.dumps({"examples": [None] * 257}))


LABELS = [[b"cat", b"dog"], [b"", b"\xff"]]
SCORES = np.array([[0.75, 0.25], [0.5, 0.125]], np.float32)


def constant(inputs, value):
    """The same rows for any examples, as many as there are."""
    return tf.gather(tf.constant(value), tf.range(tf.shape(inputs)[0]) % len(value))


_SIGNATURES = {
    "both": (
        "inputs",
        lambda x: {"classes": constant(x, LABELS), "scores": constant(x, SCORES)},
    ),
    "only_classes": ("inputs", lambda x: {"classes": constant(x, LABELS)}),
    "only_scores": ("inputs", lambda x: {"scores": constant(x, SCORES), "other": x}),
    "two_inputs": ("inputs more", lambda x, y: {"classes": constant(x, LABELS), "scores": y}),
    "other_input": ("examples", lambda x: {"scores": constant(x, SCORES)}),
    "other_outputs": ("inputs", lambda x: {"probabilities": constant(x, SCORES)}),
    "three_outputs": (
        "inputs",
        lambda x: {"classes": constant(x, LABELS), "scores": constant(x, SCORES), "x": x},
    ),
    "flat": ("inputs", lambda x: {"scores": constant(x, SCORES)[:, 0]}),
    "other_type": ("inputs", lambda x: {"scores": tf.cast(constant(x, SCORES), tf.float64)}),
    "numbers": ("inputs", lambda x: {"classes": constant(x, SCORES)}),
    "one_row": ("inputs", lambda x: {"scores": constant(x, SCORES)[:1]}),
    "uneven": (
        "inputs",
        lambda x: {"classes": constant(x, LABELS)[:, :1], "scores": constant(x, SCORES)},
    ),
    "serving_default": ("inputs", lambda x: {"classes": constant(x, LABELS)}),
    "regression": ("inputs", lambda x: {"outputs": constant(x, SCORES)}),
}
_PREDICT, _CLASSIFY, _REGRESS = (
    f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress")
)
_METHODS = {"serving_default": _PREDICT, "regression": _REGRESS}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("classification") / "1")
    module = tf.Module()
    functions = {
        name: tf.function(function).get_concrete_function(
            *(tf.TensorSpec([None], tf.string, name=name) for name in input_names.split())
        )
        for name, (input_names, function) in _SIGNATURES.items()
    }
    tf.saved_model.save(module, path, signatures=functions)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(path)
    for name in functions:
        updater.replace_method_name(name, _METHODS.get(name, _CLASSIFY))
    updater.save()
    return LoadedModel(path=path, name="pets", version=1, limits=batching.Limits())


@pytest.mark.slow
def test_labels_and_scores(model):
    labels, scores = classification.classify(model, "both", [b"", b"x"])
    assert labels.tolist() == LABELS
    np.testing.assert_array_equal(scores, SCORES, strict=True)


def test_signatures_with_only_one_of_them(model):
    labels, scores = classification.classify(model, "only_classes", [b"", b"x"])
    assert labels.tolist() == LABELS
    np.testing.assert_array_equal(scores, np.zeros([2, 2], np.float32), strict=True)
    labels, scores = classification.classify(model, "only_scores", [b"", b"x"])
    assert labels.tolist() == [[b"", b""]] * 2
    np.testing.assert_array_equal(scores, SCORES, strict=True)


@pytest.mark.parametrize(
    ("signature", "code", "message"),
    [
        ("absent", "INVALID_ARGUMENT", "No signature was found with the name: absent"),
        (
            "serving_default",
            "INVALID_ARGUMENT",
            f"Expected classification signature method_name to be {_CLASSIFY}. Was: {_PREDICT}",
        ),
        # The default of TF Serving's Classify API, too.
        ("", "INVALID_ARGUMENT", f"method_name to be {_CLASSIFY}. Was: {_PREDICT}"),
        ("two_inputs", "INVALID_ARGUMENT", "Expected one input Tensor."),
        ("three_outputs", "INVALID_ARGUMENT", "Expected one or two output Tensors, found 3"),
        ("other_input", "FAILED_PRECONDITION", "No classification inputs found in SignatureDef"),
        ("other_outputs", "FAILED_PRECONDITION", 'at least one of "classes" or "scores"'),
        ("flat", "INVALID_ARGUMENT", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        (
            "other_type",
            "INVALID_ARGUMENT",
            "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
        ),
        ("numbers", "INVALID_ARGUMENT", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ("one_row", "INVALID_ARGUMENT", "Expected scores output batch size of 2. Got: 1"),
        (
            "uneven",
            "INVALID_ARGUMENT",
            "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
        ),
    ],
)
def test_signatures_that_are_not_for_it(model, signature, code, message):
    with pytest.raises(RequestError) as error:
        classification.classify(model, signature, [b"", b"x"])
    assert error.value.code == code
    assert message in error.value.message


def test_number_of_examples(model):
    with pytest.raises(RequestError, match=r"^Input is empty\.$"):
        classification.classify(model, "both", [])
    with pytest.raises(RequestError, match="1 to 256 photos, received 257"):
        classification.classify(model, "both", [b""] * 257)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signature", "code", "message"),
    [
        ("absent", "INVALID_ARGUMENT", "No signature was found with the name: absent"),
        (
            "",
            "INVALID_ARGUMENT",
            f"Expected regression signature method_name to be {_REGRESS}. Was: {_PREDICT}",
        ),
        ("both", "INVALID_ARGUMENT", f"method_name to be {_REGRESS}. Was: {_CLASSIFY}"),
        ("regression", "UNIMPLEMENTED", "regression is not served here"),
    ],
)
def test_regression(model, signature, code, message):
    with pytest.raises(RequestError) as error:
        classification.refuse_regression(model, signature)
    assert error.value.code == code
    assert message in error.value.message
