import collections
import os
import sys
import zipfile

import foreign_files
import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.foreign_weights import recognition, torch_checkpoint
from keras_alexnet.foreign_weights.conversion import convert
from keras_alexnet.network.profiles import PROFILES

_CLASSES = 7
_NAMES = {"owt": foreign_files.TORCHVISION, "seed": foreign_files.SEED}


def test_without_pytorch_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = str(tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"PyTorch is needed to read .*: pip install \.\[torch\]"):
        torch_checkpoint.read(path)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch: make test-torch")


def _state(torch, name: str = "owt", prefix: str = "", width: float = 0.01):
    weights = foreign_files.random_weights(PROFILES[name].scaled(width), _CLASSES)
    arrays = foreign_files.state_dict(weights, _NAMES[name], prefix)
    return collections.OrderedDict((key, torch.from_numpy(value)) for key, value in arrays.items())


def _saved(torch, tmp_path, value: object, *, legacy: bool = False) -> str:
    path = str(tmp_path / "net.pth")
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def _checkpoint(state) -> dict[str, object]:
    """Return a checkpoint as the port's training program saves it after an epoch."""
    optimizer = {"state": {0: {"step": 3, "exp_avg": next(iter(state.values()))}}}
    optimizer["param_groups"] = [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}]
    return {
        "epoch": 0,
        "total_steps": 10,
        "optimizer": optimizer,
        "model": state,
        "seed": 17724692170371216735,
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["owt", "seed"])
@pytest.mark.parametrize("whole", [False, True])
def test_reads_what_the_two_programs_save(torch, tmp_path, name, whole, legacy):
    state = _state(torch, name, "module." if whole else "")
    path = _saved(torch, tmp_path, _checkpoint(state) if whole else state, legacy=legacy)
    network = torch_checkpoint.read(path)
    expected = _state(torch, name)
    assert list(network.tensors) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(network.tensors[key], value.numpy())
    assert network.names["fc7/kernel"] == "classifier.4.weight"
    assert network.left_out == (["epoch", "total_steps", "optimizer", "seed"] if whole else [])
    chosen = recognition.choose_profile(network, "auto", "torch", 0.01, _CLASSES, "FILE")
    assert chosen.name == name


@pytest.mark.parametrize("name", ["owt", "seed"])
def test_pytorch_gives_the_same_logits(torch, tmp_path, name):
    """The network that wrote the file, in PyTorch, is the reference."""
    from benchmarks import torch_alexnet

    profile = PROFILES[name].scaled(0.125)
    kind = {"owt": torch_alexnet.OwtAlexNet, "seed": torch_alexnet.SeedAlexNet}[name]
    network = kind(_CLASSES, profile.conv_filters, profile.fc_units).eval()
    state = _state(torch, name, width=0.125)
    network.load_state_dict(state)
    path, output = _saved(torch, tmp_path, _checkpoint(state)), str(tmp_path / "net.weights.h5")
    figures = convert(weights=path, output=output, profile=name, width=0.125)
    assert figures["left_out"] == ["epoch", "total_steps", "optimizer", "seed"]
    model = AlexNet(profile, classes=_CLASSES, weights=output, classifier_activation=None)
    size = profile.input_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)

    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    difference = np.abs(model(images, training=False).numpy() - expected).max()
    assert difference < 1e-4 * np.abs(expected).max()


def test_torchvisions_names_never_make_a_network_with_normalization(torch, tmp_path):
    weights = foreign_files.random_weights(PROFILES["seed"].scaled(0.125), _CLASSES)
    arrays = foreign_files.state_dict(weights, foreign_files.TORCHVISION)
    state = {key: torch.from_numpy(value) for key, value in arrays.items()}
    network = torch_checkpoint.read(_saved(torch, tmp_path, state))
    text = "conv1 must be followed by relu, lrn, pool and is followed by relu, pool; at width"
    with pytest.raises(ValueError, match=text):
        recognition.choose_profile(network, "seed", "torch", 0.125, _CLASSES, "FILE")


class _Exploit:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_runs_a_command_is_refused_and_not_run(torch, tmp_path, legacy):
    marker = tmp_path / "was_run"
    state = {**_state(torch), "extra": _Exploit(marker)}
    path = _saved(torch, tmp_path, state, legacy=legacy)
    with pytest.raises(ValueError, match=r"weights_only .* refuses it: it names 'posix\.system'$"):
        torch_checkpoint.read(path)
    assert not marker.exists()


def _with(torch, **changes):
    return {**_state(torch), **changes}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda torch: [1, 2], "a state_dict is needed, .* model or state_dict .*; it holds: list"),
        (lambda torch: {1: 2}, "a state_dict is needed, .*; it holds: int"),
        (lambda torch: {"model": {1: 2}}, "a state_dict is needed, .*; it holds: int"),
        (lambda torch: _with(torch, epoch=3), "'epoch' must be a dense tensor of .*; it is int"),
        (
            lambda torch: _with(torch, steps=torch.ones(2, dtype=torch.int64)),
            r"'steps' must be a dense tensor of float16, float32 or .*; it is torch\.int64",
        ),
        (
            lambda torch: _with(torch, x=torch.ones(2, dtype=torch.bfloat16)),
            r"'x' must be .*; it is torch\.bfloat16; save model\.float",
        ),
        (lambda torch: _with(torch, x=torch.eye(2).to_sparse()), "'x' must be a dense tensor"),
        (
            lambda torch: _with(torch, x=torch.ones(1).expand(10**12)),
            "tensors no larger than the file are needed; 'x' is larger than what is left",
        ),
    ],
)
def test_other_contents_are_refused(torch, tmp_path, value, text):
    path = _saved(torch, tmp_path, value(torch))
    with pytest.raises(ValueError, match=text):
        torch_checkpoint.read(path)


def test_a_tensor_of_another_stride_is_read_as_it_is_meant(torch, tmp_path):
    state = {"x": torch.arange(6.0).reshape(2, 3).T}
    network = torch_checkpoint.read(_saved(torch, tmp_path, state))
    np.testing.assert_array_equal(network.tensors["x"], [[0, 3], [1, 4], [2, 5]])


def _cut(torch, path):
    torch.save(_state(torch), path)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def _compressed(torch, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(2**20))


_BYTES = r"a file that torch\.save wrote is needed; these bytes"


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda torch, path: path.write_bytes(b""), _BYTES),
        (lambda torch, path: path.write_bytes(b"no checkpoint"), _BYTES),
        (lambda torch, path: path.write_bytes(b"\x80\x02}q\x00."), _BYTES),
        (_cut, r"a whole file of torch\.save is needed; its zip archive"),
        (_compressed, "compresses nothing, is needed; this archive says that it"),
    ],
)
def test_other_files_are_refused(torch, tmp_path, write, text):
    path = tmp_path / "net.pth"
    write(torch, path)
    with pytest.raises(ValueError, match=text):
        torch_checkpoint.read(str(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_too_many_operations_is_refused(torch, tmp_path, legacy):
    path = _saved(torch, tmp_path, {"x": [[] for _ in range(100_000)]}, legacy=legacy)
    with pytest.raises(ValueError, match="at most 100000 operations is needed"):
        torch_checkpoint.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_150_damaged_files_end_well_or_in_a_value_error(torch, tmp_path, legacy):
    def attempt(path):
        network = torch_checkpoint.read(path)
        recognition.choose_profile(network, "owt", "torch", 0.01, _CLASSES, "FILE")

    with open(_saved(torch, tmp_path, _checkpoint(_state(torch)), legacy=legacy), "rb") as file:
        content = file.read()
    texts = foreign_files.refusals(content, 150, str(tmp_path / "damaged.pth"), attempt)
    assert 50 < len(texts) <= 150
    assert not any("\n" in text for text in texts)
