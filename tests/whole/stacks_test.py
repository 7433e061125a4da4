"""Each stack reads what the other writes: each suite reads what the other's Python has written."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import stand_in
from repository import ROOT
from train_runs import PROFILE, assert_moved_alike, run

from keras_alexnet import AlexNet
from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.network.profile import LAYER_NAMES
from keras_alexnet.saved_model import fresh_process, publishing
from keras_alexnet.training import checkpoints, starting_weights

OTHER = ROOT / (".venv" if IS_KERAS_2 else ".venv-addons") / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not OTHER.exists(), reason="needs both stacks: make environment environment-addons"
)


def there(call):
    """Call a function of this file under the other stack."""
    script = (
        "import sys; sys.path[:0] = ['tests/support', 'tests/whole']; "
        f"import tensorflow_process, stacks_test as t; t.{call}"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [OTHER, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def network():
    return AlexNet(PROFILE, classes=3, classifier_activation=None, seed=1)


def photos():
    return np.random.default_rng(0).normal(0, 60, (2, 224, 224, 3)).astype(np.float32)


def write_weights(folder):
    model = network()
    model.save_weights(f"{folder}/alexnet.weights.h5")
    np.save(f"{folder}/logits.npy", model(photos(), training=False))


@pytest.mark.slow
def test_a_file_of_weights_is_read(tmp_path):
    there(f"write_weights({str(tmp_path)!r})")
    path, logits = f"{tmp_path}/alexnet.weights.h5", np.load(tmp_path / "logits.npy")
    read = AlexNet(PROFILE, classes=3, classifier_activation=None, weights=path)
    np.testing.assert_allclose(read(photos()), logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    started = network()
    for layer in started.layers:
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    assert starting_weights.load(started, path) == list(LAYER_NAMES)
    np.testing.assert_array_equal(started(photos()), read(photos()))


SERVED_PHOTOS = [stand_in.photo(300, 280, seed=seed) for seed in range(3)]


def served_answers(version):
    """Return a version's answers, by either of TensorFlow's loaders."""
    request = fresh_process.Request("ten_crop", {"image_bytes": np.array(SERVED_PHOTOS, object)})
    return [by(version, [request])[0] for by in fresh_process.LOADERS.values()]


def write_export(folder):
    publishing.export(
        trained=stand_in.trained_run(), photos=[stand_in.photo()], export_dir=f"{folder}/birds"
    )
    answer = served_answers(f"{folder}/birds/1")[0]
    np.savez(f"{folder}/answer.npz", scores=answer["scores"], class_ids=answer["class_ids"])


@pytest.mark.slow
def test_an_export_is_served(tmp_path):
    there(f"write_export({str(tmp_path)!r})")
    expected = np.load(tmp_path / "answer.npz")
    for answer in served_answers(str(tmp_path / "birds" / "1")):
        np.testing.assert_array_equal(answer["class_ids"], expected["class_ids"])
        np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-4)
        assert answer["valid"].all()


SOAK = pytest.mark.soak
RECIPES = {
    "momentum": {},
    "no momentum": {"momentum": 0.0, "schedule": "steps"},
    "adam, average": {"optimizer": "adam", "learning_rate": 1e-5, "ema": 0.9},
    "float16": {"precision": "float16", "strategy": "one_device"},
    "columns": {"strategy": "column_parallel"},
    "SGDW, average": {
        "optimizer": "tfa:SGDW",
        "optimizer_options": {"weight_decay": 1e-5, "momentum": 0.9},
        "swa": SWA(2, 2),
    },
    "AdamW": {
        "optimizer": "tfa:AdamW",
        "optimizer_options": {"weight_decay": 1e-5},
        "learning_rate": 1e-5,
    },
}


def train(data_dir, folder, name):
    run(data_dir, folder, **{"epochs": 2, "learning_rate": 0.001, **RECIPES[name]})


def train_all(data_dir, folder, names):
    for name in names:
        train(data_dir, f"{folder}/{name}", name)


@pytest.fixture(scope="module")
def their_runs(data_dir, tmp_path_factory, request):
    """Return the folder of the other stack's runs, which one process of it has made."""
    folder = tmp_path_factory.mktemp("theirs")
    tests = [item for item in request.session.items if "their_runs" in item.fixturenames]
    names = sorted({test.callspec.params["name"] for test in tests})
    there(f"train_all({str(data_dir)!r}, {str(folder)!r}, {names})")
    return folder


# All of them under the stack of TensorFlow Addons; on the default one the others in `make soak`.
NAMES = [
    pytest.param(name, marks=() if IS_KERAS_2 or name in ("momentum", "columns") else SOAK)
    for name in RECIPES
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_a_checkpoint(data_dir, their_runs, tmp_path, name):
    """Go on as there: with the same photos, masks and momentum."""
    theirs, ours = their_runs / name, tmp_path / "ours"
    shutil.copytree(theirs, ours)
    shutil.rmtree(ours / "checkpoints" / "epoch-0002")
    train(data_dir, ours, name)
    end, again = (checkpoints.read(str(folder)) for folder in (theirs, ours))
    start = np.load(ours / "checkpoints" / "epoch-0001" / "weights.npz")
    tolerance = 0.4 if name == "float16" else 0.2  # 0.08 were seen
    assert_moved_alike(start, end.weights, again.weights, tolerance)
    for one, other in zip(end.optimizer, again.optimizer, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    lines = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        for folder in (theirs, ours)
    ]
    assert lines[0] == lines[1]
