import cv2
import foreign_files
import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.foreign_weights import caffemodel, recognition
from keras_alexnet.foreign_weights.conversion import convert
from keras_alexnet.network.profiles import PROFILES

_PROFILE = PROFILES["caffe"].scaled(0.01)
_CLASSES = 7


@pytest.fixture(scope="module")
def weights():
    return foreign_files.random_weights(_PROFILE, _CLASSES)


def _read(tmp_path, content: bytes):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    return caffemodel.read(str(path))


@pytest.mark.parametrize(
    "variant", [{}, {"v1": True}, {"legacy": True}, {"double": True}, {"v1": True, "legacy": True}]
)
def test_reads_what_caffe_writes(tmp_path, weights, variant):
    network = _read(tmp_path, foreign_files.caffemodel(weights, _PROFILE, **variant))

    expected = foreign_files.maps_first(weights, bgr=True)
    assert list(network.names) == list(expected)
    assert len(network.tensors) == 16
    for ours, value in expected.items():
        tensor = network.tensors[network.names[ours]]
        assert tensor.dtype == (np.float64 if variant.get("double") else np.float32)
        np.testing.assert_array_equal(tensor, value)
    assert network.names["fc6/bias"] == "fc6.blobs[1]"
    assert network.title == "AlexNet"


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("name", ["caffe", "caffenet", None])
def test_the_order_of_layers_tells_the_two_networks_apart(tmp_path, weights, name, v1):
    """A file of nothing but weights says no order."""
    profile = PROFILES[name or "caffe"].scaled(0.01)
    content = foreign_files.caffemodel(weights, profile, v1=v1, only_weights=name is None)
    network = _read(tmp_path, content)
    orders = (profile.conv1_order, profile.conv2_order, profile.conv5_order)
    layers = ("conv1", "conv2", "conv5")
    assert network.orders == (dict(zip(layers, orders, strict=True)) if name else {})
    request = (network, "auto", "caffemodel", 0.01, _CLASSES, "FILE")
    if name:
        assert recognition.choose_profile(*request).name == name
    else:
        with pytest.raises(ValueError, match=r"FILE does not say .* fit caffe, caffenet"):
            recognition.choose_profile(*request)


def test_a_list_of_numbers_in_two_pieces_is_one(tmp_path):
    # A writer may cut a packed list; readers put the pieces together.
    blob = foreign_files.number_field(4, 3) + foreign_files.bytes_field(5, np.float32(1).tobytes())
    for number, size in enumerate((1, 1, 1), start=1):
        blob += foreign_files.number_field(number, size)
    blob += foreign_files.bytes_field(5, np.array([2, 3], "<f4").tobytes())
    network = _read(tmp_path, foreign_files.layer("fc8", "InnerProduct", [blob, blob]))
    np.testing.assert_array_equal(network.tensors["fc8.blobs[0]"], [[1, 2, 3]])
    np.testing.assert_array_equal(network.tensors["fc8.blobs[1]"], [1, 2, 3])


def test_opencv_gives_the_same_logits(tmp_path):
    """Return another implementation of Caffe's networks and files: OpenCV's."""
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("needs OpenCV 4, which reads Caffe's files; 5 does not: make test-addons")
    for name, v1 in (("caffe", False), ("caffenet", True)):
        profile = PROFILES[name].scaled(0.125)
        weights = foreign_files.random_weights(profile, 10)
        content = foreign_files.caffemodel(weights, profile, v1=v1, legacy=v1)
        path, output = str(tmp_path / f"{name}.caffemodel"), str(tmp_path / f"{name}.weights.h5")
        with open(path, "wb") as file:
            file.write(content)
        convert(weights=path, output=output, profile=name, width=0.125)
        model = AlexNet(profile, classes=10, weights=output, classifier_activation=None)
        images = np.random.default_rng(0).normal(0, 50, (1, 227, 227, 3)).astype(np.float32)

        description = foreign_files.prototxt(profile, 10).encode()
        net = cv2.dnn.readNetFromCaffe(
            np.frombuffer(description, np.uint8), np.frombuffer(content, np.uint8)
        )
        net.setInput(np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2)))
        expected = net.forward("fc8")
        difference = np.abs(model(images, training=False).numpy() - expected).max()
        assert difference < 1e-5 * np.abs(expected).max()


def _blob(shape, values: int) -> bytes:
    dims = b"".join(foreign_files._varint(size) for size in shape)
    head = foreign_files.bytes_field(7, foreign_files.bytes_field(1, dims))
    return head + foreign_files.bytes_field(5, bytes(4 * values))


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (_blob([4, 3], 11), r"shape \[4, 3\] says, and not none; it holds 11 \(44 bytes\)"),
        (_blob([2**40] * 2, 1), r"shape \[1099511627776, 1099511627776\] says, .* it holds 1 "),
        (_blob([-1, -1], 1), r"shape \[-1, -1\] says"),
        (_blob([1] * 33, 1), r"shape \[1, .*1\] says, and not none; it holds 1 "),
        (_blob([2], 0), r"shape \[2\] says, and not none; it holds 0 "),
        # Numbers that are not packed: no version of Caffe writes them so.
        (_blob([1], 0) + b"\x2d\x00\x00\x80\x3f", r"shape \[1\] says, .* it holds 0 "),
        (_blob([0, 2**62], 0), r"shape \[0, 4611686018427387904\] says, .* it holds 0 "),
        (b"", r"shape \[0, 0, 0, 0\] says, and not none; it holds 0 "),
        (foreign_files.bytes_field(5, bytes(5)), r"shape \[0, 0, 0, 0\] says, .* \(5 bytes\)"),
    ],
)
def test_a_shape_is_never_believed(tmp_path, blob, text):
    with pytest.raises(ValueError, match=r"'conv1.blobs\[0\]' must hold as many .*" + text):
        _read(tmp_path, foreign_files.layer("conv1", "Convolution", [blob]))


_NOT_UTF8 = foreign_files.bytes_field(1, b"\x1b[31m\xff") + foreign_files.bytes_field(2, b"X")


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        (
            [b"no protobuf", b"\xff" * 100, b"\xa2\x06\x7f", b"\xa2\x06\x01\x7f"],
            r"NetParameter of Caffe\) is needed; these bytes are none",
        ),
        (
            [
                b"\xa2\x06\x00" * 1001,
                b"\x12\x00" * 1001,
                foreign_files.bytes_field(100, b"\x3a\x00" * 1001),
            ],
            "at most 1000 layers, and as many blobs .* has 1001; is",
        ),
        (
            [foreign_files.layer("fc6", "InnerProduct", [_blob([2], 2)]) * 2],
            "one layer of each name is needed; 'fc6' is there twice",
        ),
        (
            [
                2
                * foreign_files.bytes_field(
                    100, _NOT_UTF8 + foreign_files.bytes_field(7, _blob([1], 1))
                )
            ],
            r"'\\x1b\[31m\\\\xff' is there twice",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, contents, text):
    for content in contents:
        with pytest.raises(ValueError, match=text):
            _read(tmp_path, content)


@pytest.mark.slow
def test_300_damaged_files_end_well_or_in_a_value_error(tmp_path, weights):
    def attempt(path):
        network = caffemodel.read(path)
        recognition.choose_profile(network, "caffe", "caffemodel", 0.01, _CLASSES, "FILE")

    content = foreign_files.caffemodel(weights, _PROFILE, legacy=True)
    texts = foreign_files.refusals(content, 300, str(tmp_path / "damaged.caffemodel"), attempt)
    assert 100 < len(texts) < 300
    assert not any("\n" in text for text in texts)
