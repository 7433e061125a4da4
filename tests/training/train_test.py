import dataclasses
import shutil

import commands
import pytest
from train_runs import (
    PROFILE,
    assert_moved_alike,
    assert_same_run,
    metrics_of,
    own_lines,
    run,
    start_of,
)

from data_prep import records
from data_prep.command_line import UserError
from keras_alexnet.analysis import evaluation
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.training import checkpoints, workdir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    figures = run(data_dir, folder)
    return folder, figures


def test_figures_and_metrics(finished, data_dir):
    folder, figures = finished
    manifest = records.read_manifest(data_dir)
    metrics = metrics_of(folder)
    assert figures["epochs"] == len(metrics) == 3
    assert figures["images"] == manifest.splits["validation"].records == 10
    assert figures["top1"] == max(line["val_top1"] for line in metrics)
    assert [line["step"] for line in metrics] == [4, 8, 12]
    assert metrics[0]["loss"] == pytest.approx(metrics[0]["cross_entropy"], rel=1e-5)
    assert (folder / "tensorboard").is_dir()


# One that subtracts the centre of the mean image, and one with constants and no random crop.
@pytest.mark.parametrize("name", ["krizhevsky2012", "seed"])
def test_a_profile_goes_its_own_way_from_records_to_accuracy(data_dir, tmp_path, name):
    profile = PROFILES[name].scaled(0.0625)
    recipe = {
        field: getattr(profile, field) for field in ("optimizer", "learning_rate", "schedule")
    }
    figures = run(data_dir, tmp_path / "run", profile, epochs=1, strategy="one_device", **recipe)
    trained = workdir.load_run(str(tmp_path / "run"))
    assert trained.profile == profile
    for views in (1, 10):
        again = evaluation.evaluate(trained=trained, data_dir=str(data_dir), views=views)
        assert again["images"] == figures["images"]
    one_view = evaluation.evaluate(trained=trained, data_dir=str(data_dir))
    assert one_view["top1"] == figures["top1"], "validation in fit sees no noise, evaluate neither"


def test_the_network_learns_something(finished):
    metrics = metrics_of(finished[0])
    assert metrics[-1]["cross_entropy"] < metrics[0]["cross_entropy"]


def test_a_finished_run_is_left_as_it_is(finished, data_dir):
    folder, figures = finished
    before = (folder / "metrics.jsonl").read_bytes()
    again = run(data_dir, folder)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert again["top1"] == figures["top1"]


def test_two_runs_are_the_same_bit_for_bit(finished, data_dir, tmp_path):
    run(data_dir, tmp_path / "run")
    assert_same_run(finished[0], tmp_path / "run")


def test_another_seed_is_another_run(finished, data_dir, tmp_path):
    run(data_dir, tmp_path / "run", seed=6, epochs=1)
    assert metrics_of(tmp_path / "run")[0] != metrics_of(finished[0])[0]


def test_one_and_two_replicas_compute_the_same(data_dir, tmp_path):
    profile = dataclasses.replace(PROFILE, dropout_rate=0.0)
    strategies = ("mirrored", "one_device")
    for name in strategies:
        changes = {"strategy": name, "epochs": 1, "learning_rate": 0.001, "ema": 0.5}
        run(data_dir, tmp_path / name, profile, **changes)
    (two,), (one,) = (metrics_of(tmp_path / name) for name in strategies)
    assert two["val_images"] == one["val_images"] == 10
    for name in ("loss", "cross_entropy", "val_cross_entropy", "top1", "val_top1"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    two, one = (checkpoints.read(str(tmp_path / name)) for name in strategies)
    assert_moved_alike(start_of(profile), one.weights, two.weights)
    assert_moved_alike(start_of(profile), one.averages, two.averages)


def test_columns_on_two_devices_train_as_on_one_and_go_on_after_a_kill(data_dir, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {"epochs": 2, "learning_rate": 0.001}
    run(data_dir, one, strategy="one_device", **changes)
    run(data_dir, two, strategy="column_parallel", **changes)
    weights = [checkpoints.read(str(folder)).weights for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys(), "a checkpoint does not say where it was made"
    assert_moved_alike(start_of(), *weights)
    # as after a kill before the second epoch's checkpoint
    again = tmp_path / "again"
    shutil.copytree(two, again)
    shutil.rmtree(again / "checkpoints" / "epoch-0002")
    run(data_dir, again, strategy="column_parallel", **changes)
    assert_same_run(two, again)
    seed = PROFILES["seed"].scaled(0.0625)
    with pytest.raises(
        (ValueError, UserError), match="seed has 1; take one of paper, krizhevsky2012"
    ):
        run(data_dir, tmp_path / "seed", seed, strategy="column_parallel")
    assert not (tmp_path / "seed").exists()


def test_evaluate_agrees_with_the_validation_of_the_last_epoch(finished, data_dir):
    folder, _ = finished
    trained = workdir.load_run(str(folder), "last")
    figures = evaluation.evaluate(trained=trained, data_dir=str(data_dir), views=1, batch_size=4)
    last = metrics_of(folder)[-1]
    assert figures["images"] == 10
    assert figures["top1"] == pytest.approx(last["val_top1"])
    assert figures["top5"] == pytest.approx(last["val_top5"])


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(data_dir, tmp_path):
    with pytest.raises(ValueError, match="divide among the 2 devices, but it is 7"):
        run(data_dir, tmp_path / "run", batch_size=7)


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"not finite at step \d+ with learning rate 1e\+20: it began at \w+, whose .* has",
    ):
        run(data_dir, tmp_path / "run", learning_rate=1e20)


def test_stored_photos_smaller_than_the_input_are_refused(data_dir, tmp_path):
    profile = dataclasses.replace(PROFILE, input_size=300)
    with pytest.raises((ValueError, UserError), match=r"at least 300 pixels, .* stores 256"):
        run(data_dir, tmp_path / "run", profile)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_dir=/nowhere", "--workdir={tmp}/w"], "a data set made by data_prep.prepare is"),
        (["--data_dir={data}"], "--workdir"),
        (["--data_dir={data}", "--workdir={tmp}/w", "--batch_size=0"], "batch_size"),
        (["--data_dir={data}", "--workdir={tmp}/w", "--strategy=multi_worker"], "TF_CONFIG with"),
        (
            ["--data_dir={data}", "--workdir={tmp}/w", "--batch_size=8", "--init_weights={tmp}/x"],
            "no {tmp}/x",
        ),
        (["--data_dir={data}", "--workdir={tmp}/w", "--profile=vgg"], "--profile=vgg"),
        (["--data_dir={data}", "--workdir={tmp}/w", "--bach_size=8"], "bach_size"),
        (["--data_dir={data}", "--workdir=/proc/w", "--batch_size=8"], "cannot be made"),
        (["--data_dir={data}", "--workdir={tmp}/w", "--dropout=1"], "dropout_rate"),
        (["--data_dir={data}", "--workdir={tmp}/w", "more"], "unexpected argument 'more'"),
    ],
)
def test_a_mistake_gets_one_line_and_no_traceback(data_dir, tmp_path, arguments, message):
    arguments = [a.format(data=data_dir, tmp=tmp_path) for a in arguments]
    done = commands.in_process("keras_alexnet.train", *arguments)
    assert done.returncode in (1, 2)
    assert message.format(tmp=tmp_path) in done.stderr
    assert not (tmp_path / "w").exists(), (
        "a mistake leaves no folder that the next try stumbles over"
    )
    assert done.stderr.splitlines()[-1].startswith("train.py: ")
    assert len(own_lines(done.stderr)) == 1, done.stderr
    assert done.stdout == ""
