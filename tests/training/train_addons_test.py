"""Whole runs with optimizers of TensorFlow Addons, or Keras' own equals, and with averages."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from repository import ROOT
from train_runs import (
    PROFILE,
    assert_moved_alike,
    assert_same_run,
    metrics_of,
    places_of,
    run,
    start_of,
)

from keras_alexnet import evaluate
from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.training import checkpoints, workdir
from keras_alexnet.training.options import RunOptions

pytestmark = pytest.mark.slow

EACH_STEP = RunOptions(checkpoint_seconds=0.0, keep=100)
ADDONS = pytest.mark.skipif(not IS_KERAS_2, reason="needs TensorFlow Addons: make test-addons")
SGDW = {
    "optimizer": "tfa:SGDW",
    "optimizer_options": {"weight_decay": 1e-5, "momentum": 0.9},
    "learning_rate": 0.01,
}
NOVOGRAD = {"optimizer": "tfa:NovoGrad", "learning_rate": 0.001}
LAMB = {"optimizer": "tfa:LAMB", "learning_rate": 0.001}
# Two replicas where nothing else is said.
RUNS = {
    "SGDW": {**SGDW, "schedule": "plateau"},
    "SGDW, SWA, bfloat16": {**SGDW, "swa": SWA(2, 2), "precision": "bfloat16"},
    "LAMB, average": {**LAMB, "ema": 0.9, "schedule": "cosine", "strategy": "one_device"},
    "sgd, SWA": {"swa": SWA(1, 3), "strategy": "one_device"},
}
RUNS_OF_ADDONS = {"NovoGrad": {**NOVOGRAD, "precision": "bfloat16", "schedule": "steps"}}
ALL = [*RUNS.items(), *(pytest.param(*run, marks=ADDONS) for run in RUNS_OF_ADDONS.items())]


# In the second epoch; in `make soak` also in the first one, and between the two.
PLACES = [((1, 2),), pytest.param(((0, 3), (1, 0)), marks=pytest.mark.soak)]


@pytest.mark.parametrize("kept", PLACES)
@pytest.mark.parametrize(("name", "recipe"), ALL)
def test_a_run_goes_on_bit_for_bit(data_dir, tmp_path, name, recipe, kept):
    """As after a kill in the first epoch, between two, and in the second."""
    recipe = {"epochs": 2, "patience": 1, **recipe}
    whole = tmp_path / "whole"
    run(data_dir, whole, run_options=EACH_STEP, **recipe)
    places = places_of(whole)
    for place in kept:
        again = tmp_path / "again"
        shutil.copytree(whole, again)
        for later in places[places.index(place) + 1 :]:
            step = f"-step-{later.step:06d}" if later.step else ""
            shutil.rmtree(again / "checkpoints" / f"epoch-{later.epoch:04d}{step}")
        run(data_dir, again, run_options=RunOptions(keep=100), **recipe)
        assert_same_run(whole, again)
        shutil.rmtree(again)
    losses = [line["cross_entropy"] for line in metrics_of(whole)]
    assert losses[1] < losses[0]


KILLED = {"SGDW": SGDW, "NovoGrad": NOVOGRAD}


def train(data_dir, folder, name):
    run(data_dir, folder, run_options=EACH_STEP, strategy="one_device", **KILLED[name])


@pytest.mark.parametrize(
    "name",
    [
        # train_trouble_test kills a run of the default stack.
        pytest.param("SGDW", marks=() if IS_KERAS_2 else pytest.mark.soak),
        pytest.param("NovoGrad", marks=ADDONS),
    ],
)
def test_a_killed_run_ends_as_the_one_that_was_not(data_dir, tmp_path, name):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(data_dir, whole, name)
    script = (
        "import sys; sys.path[:0] = ['tests/support', 'tests/training']; "
        "import tensorflow_process, train_addons_test as t; "
        f"t.train({str(data_dir)!r}, {str(killed)!r}, {name!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not places_of(killed):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert places_of(killed)[-1] < checkpoints.Place(3), "it was whole before it could be killed"
    train(data_dir, killed, name)
    assert_same_run(whole, killed)


def test_one_and_two_replicas_compute_the_same(data_dir, tmp_path):
    profile = dataclasses.replace(PROFILE, dropout_rate=0.0)
    changes = {"epochs": 1, "ema": 0.5, **SGDW, "learning_rate": 0.001}
    for strategy in ("mirrored", "one_device"):
        run(data_dir, tmp_path / strategy, profile, strategy=strategy, **changes)
    two, one = (checkpoints.read(str(tmp_path / name)) for name in ("mirrored", "one_device"))
    start = start_of(profile)
    assert_moved_alike(start, one.weights, two.weights)
    assert two.averages, "there is nothing to compare"
    assert_moved_alike(start, one.averages, two.averages)


@pytest.mark.parametrize("recipe", [{}, SGDW, pytest.param(NOVOGRAD, marks=ADDONS)])
def test_a_plateau_lowers_the_rate(data_dir, tmp_path, recipe):
    changes = {"epochs": 5, "strategy": "one_device", "learning_rate": 0.0, **recipe}
    changes["learning_rate"] = 1e-9  # nothing is learned
    run(data_dir, tmp_path / "run", **changes)
    lines = metrics_of(tmp_path / "run")
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [1e-9, 1e-9, 1e-10, 1e-11, 1e-12], rtol=1e-5)
    kept = checkpoints.read(str(tmp_path / "run"))
    assert kept.optimizer[1] == np.float32(rates[-1]), "the optimizer's own"


@pytest.mark.parametrize("recipe", [{}, SGDW])
def test_the_mean_of_the_weights_is_what_is_validated_evaluated_and_kept(
    data_dir, tmp_path, recipe
):
    """Of 8 steps those after the third, fifth and seventh."""
    folder = tmp_path / "run"
    changes = {"epochs": 2, "strategy": "one_device", "swa": SWA(2, 2), **recipe}
    run(data_dir, folder, run_options=EACH_STEP, **changes)
    by_step = {
        4 * place.epoch + place.step: np.load(path)["fc8/kernel"].astype(np.float64)
        for place in places_of(folder)
        for path in (folder / "checkpoints").glob(
            f"epoch-{place.epoch:04d}"
            + (f"-step-{place.step:06d}" if place.step else "")
            + "/weights.npz"
        )
    }
    mean = (by_step[3] + by_step[5] + by_step[7]) / 3
    trained = workdir.load_run(str(folder), "last")
    kernel = trained.model.get_layer("fc8").get_weights()[0]
    np.testing.assert_allclose(kernel, mean, rtol=0, atol=1e-6 * np.abs(mean).max())
    assert np.abs(kernel - by_step[8]).max() > 1e-4 * np.abs(mean).max()
    figures = evaluate.evaluate(trained=trained, data_dir=str(data_dir))
    assert figures["top1"] == pytest.approx(metrics_of(folder)[-1]["val_top1"])


def test_a_run_of_other_options_refuses(data_dir, tmp_path):
    run(data_dir, tmp_path / "run", epochs=1, strategy="one_device", **SGDW)
    described = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert described["optimizer_options"] == SGDW["optimizer_options"]
    other = {**SGDW, "optimizer_options": {"weight_decay": 2e-5, "momentum": 0.9}}
    message = r"optimizer_options.weight_decay: there 1e-05, .*allow_changed_flags=optimizer_option"
    with pytest.raises(ValueError, match=message):
        run(data_dir, tmp_path / "run", epochs=1, strategy="one_device", **other)


@pytest.mark.skipif(
    IS_KERAS_2, reason="needs the default stack, without TensorFlow Addons: make test"
)
def test_what_this_stack_has_not_is_told_before_there_is_a_folder(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"NovoGrad needs TensorFlow Addons"):
        run(data_dir, tmp_path / "run", **NOVOGRAD)
    assert not (tmp_path / "run").exists()
