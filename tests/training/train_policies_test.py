"""Whole runs under the schedules, optimizers and averages that a flag can choose."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_runs import PROFILE, assert_same_run, metrics_of, places_of, run

from data_prep import records
from keras_alexnet.analysis import evaluation
from keras_alexnet.inputs import pipeline, preprocessing, views
from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.training import checkpoints, workdir
from keras_alexnet.training.options import RunOptions
from keras_alexnet.training.steps import cross_entropy

pytestmark = pytest.mark.slow

EACH_STEP = RunOptions(checkpoint_seconds=0.0, keep=100)
PROGRAM = dataclasses.replace(
    PROFILES["krizhevsky2012"].scaled(0.0625), kernel_init=("he_normal",) * 8, pixel_scale=1 / 60
)
ADDONS = pytest.mark.skipif(not IS_KERAS_2, reason="needs TensorFlow Addons: make test-addons")
ALONE = {"strategy": "one_device"}
SGDW = {"optimizer": "tfa:SGDW", "optimizer_options": {"weight_decay": 1e-5, "momentum": 0.9}}
LAMB = {"optimizer": "tfa:LAMB", "learning_rate": 0.001, **ALONE}
NOVOGRAD = {"optimizer": "tfa:NovoGrad", "learning_rate": 0.001}
# Together, all that has a state or depends on the step; on two replicas where nothing else is said.
RUNS = {
    "adam": (PROFILE, {"optimizer": "adam", "ema": 0.9, "schedule": "cosine", **ALONE}, {}),
    "program": (
        PROGRAM,
        {"schedule": "krizhevsky2012", "clip_norm": 5.0, "label_smoothing": 0.1, **ALONE},
        {},
    ),
    "float16": (
        PROFILE,
        {"precision": "float16", "freeze": ("conv1",), **ALONE},
        {"histogram_steps": 3},
    ),
    "SGDW, SWA": (PROFILE, {**SGDW, "swa": SWA(2, 2), "precision": "bfloat16"}, {}),
    "LAMB": (PROFILE, {**LAMB, "ema": 0.9, "warmup_epochs": 0.5, "schedule": "cosine"}, {}),
    "sgd, SWA": (PROFILE, {"swa": SWA(1, 3), **ALONE}, {}),
    "NovoGrad": (PROFILE, {**NOVOGRAD, "precision": "bfloat16", "schedule": "steps"}, {}),
}
NAMES = [pytest.param(name, marks=ADDONS if name == "NovoGrad" else ()) for name in RUNS]


# Inside of an epoch, which is the hardest; in `make soak` also at its end, before and after one.
PLACES = [((0, 3),), pytest.param(((0, 4), (1, 0), (1, 2)), marks=pytest.mark.soak)]


@pytest.mark.parametrize("kept", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_any_place_bit_for_bit(data_dir, tmp_path, name, kept):
    profile, changes, run_changes = RUNS[name]
    changes = {"epochs": 2, **changes}
    whole = tmp_path / "whole"
    run(data_dir, whole, profile, dataclasses.replace(EACH_STEP, **run_changes), **changes)
    places = places_of(whole)
    assert places == [*((0, n) for n in range(1, 5)), *((1, n) for n in range(5)), (2, 0)]
    for place in kept:
        again = tmp_path / "again"
        shutil.copytree(whole, again)
        for later in places[places.index(place) + 1 :]:
            shutil.rmtree(folder_of(again, later))
        (again / "metrics.jsonl").unlink()
        run(data_dir, again, profile, RunOptions(keep=100), **changes)
        assert_same_run(whole, again)
        shutil.rmtree(again)
    weights = checkpoints.read(str(whole)).weights
    assert weights["conv1/kernel"].dtype == np.float32, "whatever the precision"


def folder_of(run, place):
    step = f"-step-{place.step:06d}" if place.step else ""
    return run / "checkpoints" / f"epoch-{place.epoch:04d}{step}"


@pytest.mark.parametrize("average", [{"ema": 0.9}, {"swa": SWA(2, 2), **SGDW}])
def test_the_average_of_the_weights_is_what_is_validated_evaluated_and_kept(
    data_dir, tmp_path, average
):
    run(data_dir, tmp_path, run_options=EACH_STEP, epochs=2, **ALONE, **average)
    by_step = {
        4 * place.epoch + place.step: np.load(folder_of(tmp_path, place) / "weights.npz")[
            "fc8/kernel"
        ].astype(np.float64)
        for place in places_of(tmp_path)
    }
    if "swa" in average:
        expected = (by_step[3] + by_step[5] + by_step[7]) / 3
    else:
        expected = by_step[1]
        for step in range(2, 9):
            expected = 0.9 * expected + 0.1 * by_step[step]
    trained = workdir.load_run(str(tmp_path), "last")
    kernel = trained.model.get_layer("fc8").get_weights()[0]
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.abs(kernel - by_step[8]).max() > 1e-4 * np.abs(expected).max()
    last = metrics_of(tmp_path)[-1]
    figures = evaluation.evaluate(trained=trained, data_dir=str(data_dir))
    assert figures["top1"] == pytest.approx(last["val_top1"])
    # The cross-entropy by hand, of all photos in one batch.
    manifest = records.read_manifest(data_dir)
    ((images, labels, _),) = pipeline.eval_dataset(str(data_dir), manifest, batch_size=10)
    view = views.central_view(trained.profile)
    inputs = preprocessing.view_input(images, view, trained.profile, trained.statistics)
    logits = tf.math.log(trained.model(inputs))
    by_hand = cross_entropy(labels, logits).numpy().mean()
    assert last["val_cross_entropy"] == pytest.approx(by_hand, rel=1e-3)


def test_histograms_and_logs_are_written_and_change_nothing(finished, data_dir, tmp_path):
    run(data_dir, tmp_path, run_options=RunOptions(histogram_steps=2))
    assert_same_run(finished(), tmp_path)
    logs = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    logs.Reload()
    tags = {tag for kind in ("tensors", "scalars", "histograms") for tag in logs.Tags()[kind]}
    assert {"loss", "top1", "learning_rate", "images_per_second"} <= tags
    assert {"conv1/kernel", "conv1/kernel/gradient", "fc8/bias/gradient"} <= tags


def test_fine_tuning_starts_from_a_run_and_keeps_what_is_frozen(
    finished, data_dir, tmp_path, capsys
):
    source = finished(epochs=1, strategy="one_device")
    changes = {"init_weights": str(source), "freeze": ("conv1", "conv2")}
    run(data_dir, tmp_path, epochs=1, seed=9, strategy="one_device", **changes)
    assert "weights of conv1 conv2" in capsys.readouterr().err
    first, second = (checkpoints.read(str(folder)).weights for folder in (source, tmp_path))
    for name in ("conv1/kernel", "conv1/bias", "conv2/kernel"):
        np.testing.assert_array_equal(first[name], second[name])
    for name in ("conv3/kernel", "fc8/bias"):
        assert not np.array_equal(first[name], second[name])


def test_the_programs_log_freezes_conv1_and_switches_the_noise_off(data_dir, tmp_path):
    """27 steps stand for its 135 epochs: steps 14 to 18 are epochs 72 to 91, with conv1 frozen."""
    changes = {"epochs": 9, "batch_size": 12, "schedule": "krizhevsky2012", **ALONE}
    run(data_dir, tmp_path, PROGRAM, EACH_STEP, **changes)
    assert len([place for place in places_of(tmp_path) if place.step]) == 27

    def velocity(step):
        """Return the movement of conv1's kernel after that many steps."""
        path = folder_of(tmp_path, checkpoints.Place(*divmod(step, 3)))
        with np.load(path / "optimizer.npz") as arrays:
            return next(arrays[key] for key in sorted(arrays) if arrays[key].shape[:2] == (11, 11))

    for step in range(14, 18):  # nothing but the momentum's 0.9 is left
        np.testing.assert_allclose(velocity(step + 1), 0.9 * velocity(step), rtol=1e-5, atol=1e-12)
    for step in (12, 18):
        assert not np.allclose(velocity(step + 1), 0.9 * velocity(step), rtol=1e-3)


@pytest.mark.parametrize("recipe", [{}, SGDW, pytest.param(NOVOGRAD, marks=ADDONS)])
def test_a_plateau_lowers_the_rate(data_dir, tmp_path, recipe):
    changes = {**recipe, "epochs": 5, "learning_rate": 1e-9, **ALONE}  # nothing is learned
    run(data_dir, tmp_path, **changes)
    rates = [line["learning_rate"] for line in metrics_of(tmp_path)]
    np.testing.assert_allclose(rates, [1e-9, 1e-9, 1e-10, 1e-11, 1e-12], rtol=1e-5)
    kept = checkpoints.read(str(tmp_path))
    assert kept.optimizer[1] == np.float32(rates[-1]), "the optimizer's own"
