"""Files that commit e3892f8 made can still be read: see made_at_e3892f8/README.md."""

import json
import os
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from repository import ROOT

from data_prep import records, verify
from keras_alexnet import AlexNet
from keras_alexnet.analysis import evaluation
from keras_alexnet.inputs import pipeline
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.saved_model import agreement, fresh_process, verification
from keras_alexnet.serving.local_server import loaded_model
from keras_alexnet.training import checkpoints, optimizers, options, workdir
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training.run import train

pytestmark = pytest.mark.slow

MADE = ROOT / "tests" / "made_at_e3892f8"
EXPECTED = json.loads((MADE / "expected.json").read_text())
MODELS = PROFILES["caffe"].scaled(0.015625)
# For other processors, which round differently. On one machine both stacks gave the same bits.
LOGITS = {"rtol": 1e-4, "atol": 1e-4}
KERAS_2 = keras.__version__.startswith("2.")


def unpacked(name, folder):
    with tarfile.open(MADE / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("made_at_e3892f8")


@pytest.fixture(scope="module")
def data(folder):
    return str(unpacked("data", folder))


@pytest.fixture(scope="module")
def workdirs(folder):
    """Return the folders of two runs, as they were when they were killed."""
    return unpacked("workdir", folder)


@pytest.fixture(scope="module")
def models(folder):
    return unpacked("models", folder)


@pytest.fixture(scope="module")
def exported(folder):
    return unpacked("export", folder) / "shapes"


@pytest.fixture(scope="module")
def arrays():
    with np.load(MADE / "expected.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def photos(data):
    return agreement.stored_photos(data, records.read_manifest(data), count=2)


def test_a_data_set_is_verified(data, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # more processes would cost seconds
    figures = verify.verify(data_dir=data, check_statistics=True)
    counted = {name: figures[name] for name in ("train_records", "validation_records", "shards")}
    assert counted == {"train_records": 16, "validation_records": 12, "shards": 3}
    assert (figures["rejected"], figures["faults"], figures["statistics"]) == (2, 0, "equal")


def test_the_same_photos_come_in_the_same_order(data):
    manifest = records.read_manifest(data)
    dataset = pipeline.train_dataset(
        data, manifest, PROFILES["paper"], pipeline.Feed(batch_size=8, seed=3)
    )
    features, labels = next(iter(dataset))
    assert features["image"].shape == (8, 224, 224, 3)
    images, validation_labels, _ = next(iter(pipeline.eval_dataset(data, manifest, batch_size=12)))
    assert images.shape == (12, 256, 256, 3)
    expected = EXPECTED["data"]
    assert labels.numpy().tolist() == expected["train"]["labels"]
    for name in ("offset", "flip"):
        assert features[name].numpy().tolist() == expected["train"][name]
    assert validation_labels.numpy().tolist() == expected["validation"]["labels"]
    # Another decoder of JPEGs may round pixels differently.
    for split, pixels in (("train", features["image"]), ("validation", images)):
        means = pixels.numpy().mean((1, 2, 3))
        np.testing.assert_allclose(means, expected[split]["means"], atol=0.5)


def cross_entropy(run, data_dir):
    predict = evaluation.make_predict(run, 1)
    losses = []
    manifest = records.read_manifest(data_dir)
    for images, labels, _ in pipeline.eval_dataset(data_dir, manifest, batch_size=4):
        losses.extend(-np.log(predict(images).numpy()[np.arange(len(labels)), labels]))
    return np.mean(losses)


@pytest.mark.parametrize("name", ["sgd", "columns"])
def test_a_run_is_evaluated(name, workdirs, data):
    run = workdir.load_run(str(workdirs / name))
    expected = EXPECTED["runs"][name]
    assert run.description["epoch"] == expected["epoch"]
    assert run.description["top1"] == expected["top1"]
    assert run.classes[0].name == "square"
    assert cross_entropy(run, data) == pytest.approx(expected["cross_entropy"], rel=1e-4)
    figures = evaluation.evaluate(trained=run, data_dir=data)
    assert (figures["top1"], figures["images"]) == (expected["top1"], 12)


def kept_values(arrays):
    """Return what expected.npz has of arrays: up to 100 values of each variable."""
    return {
        name: value.ravel()[:: max(1, value.size // 100)].astype(np.float32)
        for name, value in arrays.items()
    }


def assert_same_end(name, run, before, arrays):
    """Assert that a resumed run ends as it did when e3892f8 made it without the kill."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for line, expected in zip(lines, EXPECTED["runs"][name]["final_metrics"], strict=True):
        metrics = json.loads(line)
        assert metrics.keys() == expected.keys()
        for metric, value in expected.items():
            # Elsewhere, one photo of 12 may be on the other side of a class boundary.
            tolerance = {"abs": 0.09} if "top" in metric else {"rel": 1e-3}
            assert metrics[metric] == pytest.approx(value, **tolerance), metric
    after = checkpoints.read(str(run))
    assert after.state.place == checkpoints.Place(2)
    for part in ("weights", "averages"):
        start, end = (kept_values(getattr(place, part)) for place in (before, after))
        prefix = f"{name}/{part}/"
        expected = {
            key.removeprefix(prefix): value
            for key, value in arrays.items()
            if key.startswith(prefix)
        }
        assert end.keys() == start.keys() == expected.keys()
        for variable, value in expected.items():
            movement = np.linalg.norm(value - start[variable])
            difference = np.linalg.norm(end[variable] - value)
            assert difference <= 0.01 * movement + 1e-7, variable


def flags_to_resume(run, data_dir):
    """Return the flags that the run was begun with, but its folders, which were temporary."""
    return [f"--flagfile={run / 'flags.txt'}", f"--workdir={run}", f"--data_dir={data_dir}"]


def test_a_killed_run_is_resumed_by_its_command(tmp_path, data, arrays):
    run = unpacked("workdir", tmp_path) / "sgd"
    before = checkpoints.read(str(run))
    assert before.state.place == checkpoints.Place(1, 2)
    process = subprocess.run(
        [sys.executable, "-m", "keras_alexnet.train", *flags_to_resume(run, data)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "epochs 2 (from step 3) to 2" in process.stderr
    assert_same_end("sgd", run, before, arrays)


def test_a_killed_run_of_two_columns_is_resumed(tmp_path, data, arrays, capsys):
    run = unpacked("workdir", tmp_path) / "columns"
    before = checkpoints.read(str(run))
    assert before.state.place == checkpoints.Place(1, 2)
    values = flags.FlagValues()
    for define in (
        training_flags.data_dir,
        training_flags.workdir,
        training_flags.define_training,
        training_flags.define_run,
    ):
        define(values)
    values(["train", *flags_to_resume(run, data)])
    profile = options.profile_from_flags(values)
    # In this process, which has the two devices: see conftest.py.
    train(
        data_dir=data,
        workdir=str(run),
        profile=profile,
        recipe=options.recipe_from_flags(values, profile),
        run_options=options.run_options_from_flags(values),
    )
    assert "epochs 2 (from step 3) to 2" in capsys.readouterr().err
    assert_same_end("columns", run, before, arrays)


def logits(model, inputs):
    return keras.Model(model.input, model.get_layer("fc8").output)(inputs, training=False)


def test_converted_weights_give_the_same_logits(models, arrays):
    model = AlexNet(MODELS, 5, weights=models / "caffe.weights.h5")
    expected = arrays["caffe.weights.h5/logits"]
    np.testing.assert_allclose(logits(model, arrays["caffe/input"]), expected, **LOGITS)


@pytest.mark.parametrize("name", ["caffe", "krizhevsky2012", "krizhevsky2012-keras2"])
def test_a_saved_model_gives_the_same_logits(name, models, arrays):
    if name.endswith("-keras2") != KERAS_2:
        pytest.skip(
            "needs the other stack, whose .keras files these are: make test, make test-addons"
        )
    model = keras.models.load_model(models / f"{name}.keras")
    inputs = arrays[f"{name.removesuffix('-keras2')}/input"]
    np.testing.assert_allclose(logits(model, inputs), arrays[f"{name}.keras/logits"], **LOGITS)
    if name == "krizhevsky2012":  # the one that was trained
        assert isinstance(model.optimizer, optimizers.MomentumSGD)
        assert int(model.optimizer.iterations) == 2


# Keras does not import the modules that a .keras file names. One import has to register the layers.
_LOAD = """
from keras_alexnet import AlexNet
AlexNet
import keras
keras.models.load_model({path!r})
"""


def test_a_saved_model_needs_one_import(models):
    name = "krizhevsky2012-keras2" if KERAS_2 else "caffe"
    script = _LOAD.format(path=str(models / f"{name}.keras"))
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def test_an_export_answers_the_same_photos_alike(exported, photos):
    path, expected = str(exported / "1"), EXPECTED["export"]
    loaded = tf.saved_model.load(path).signatures["serving_default"](
        image_bytes=tf.constant(photos)
    )
    served = loaded_model.LoadedModel(path, "shapes", 1).predict(
        "serving_default", {"image_bytes": np.array(photos, object)}
    )
    for answer in ({name: value.numpy() for name, value in loaded.items()}, served):
        names = [[name.decode() for name in row] for row in answer["classes"]]
        assert names == expected["classes"]
        for name in ("class_ids", "valid"):
            assert answer[name].tolist() == expected[name]
        np.testing.assert_allclose(answer["scores"], expected["scores"], atol=1e-4)


def test_an_export_is_verified_against_its_run(exported, photos, workdirs, monkeypatch):
    def answers_of(path, requests):
        """Load in this process: two loaders in new processes would cost ten seconds."""
        return {"here": fresh_process.by_saved_model(path, requests)}

    monkeypatch.setattr(fresh_process, "answers_of", answers_of)
    figures = verification.verify(
        trained=workdir.load_run(str(workdirs / "sgd")), photos=photos, export_dir=str(exported)
    )
    assert (figures["version"], figures["files"], figures["photos"]) == (1, 6, 2)
    assert figures["max_difference"] < 1e-4
