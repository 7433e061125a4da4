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
from keras_alexnet.analysis import evaluation
from keras_alexnet.network import ablations
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.training import checkpoints, workdir

pytestmark = pytest.mark.slow


def test_a_run_learns_and_its_figures_are_those_of_its_metrics_and_of_evaluate(finished, data_dir):
    folder = finished()
    written = (folder / "metrics.jsonl").read_bytes()
    figures = run(data_dir, folder)
    assert (folder / "metrics.jsonl").read_bytes() == written, "a finished run is left as it is"
    manifest = records.read_manifest(data_dir)
    metrics = metrics_of(folder)
    assert figures["epochs"] == len(metrics) == 3
    assert figures["images"] == manifest.splits["validation"].records == 10
    assert figures["top1"] == max(line["val_top1"] for line in metrics)
    assert [line["step"] for line in metrics] == [4, 8, 12]
    assert metrics[0]["loss"] == pytest.approx(metrics[0]["cross_entropy"], rel=1e-5)
    assert metrics[-1]["cross_entropy"] < metrics[0]["cross_entropy"]
    trained = workdir.load_run(str(folder), "last")
    evaluated = evaluation.evaluate(trained=trained, data_dir=str(data_dir), batch_size=4)
    assert evaluated["images"] == 10
    for name in ("top1", "top5"):
        assert evaluated[name] == pytest.approx(metrics[-1][f"val_{name}"])


# One that subtracts the centre of the mean image, one with constants and no random crop, and one
# without most of what the paper argues for.
@pytest.mark.parametrize("name", ["krizhevsky2012", "seed", "ablated"])
def test_a_profile_goes_its_own_way_from_records_to_accuracy(data_dir, tmp_path, name):
    if name == "ablated":
        names = ("relu", "conv4", "columns", "lrn", "overlap", "dropout")
        profile, changes = ablations.apply(PROFILE, names), {}
    else:
        profile = PROFILES[name].scaled(0.0625)
        fields = ("optimizer", "learning_rate", "schedule")
        changes = {field: getattr(profile, field) for field in fields}
    figures = run(data_dir, tmp_path, profile, epochs=1, strategy="one_device", **changes)
    trained = workdir.load_run(str(tmp_path))
    assert trained.profile == profile
    one, ten = (
        evaluation.evaluate(trained=trained, data_dir=str(data_dir), views=views)
        for views in (1, 10)
    )
    assert one["images"] == ten["images"] == figures["images"]
    assert one["top1"] == figures["top1"], "validation in fit sees no noise, evaluate neither"


def test_the_same_seed_is_the_same_run_bit_for_bit_and_another_is_another(
    finished, data_dir, tmp_path
):
    run(data_dir, tmp_path / "run")
    assert_same_run(finished(), tmp_path / "run")
    run(data_dir, tmp_path / "other", seed=6, epochs=1)
    assert metrics_of(tmp_path / "other")[0] != metrics_of(finished())[0]


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


def test_columns_on_two_devices_train_as_on_one_and_go_on_after_a_kill(
    finished, data_dir, tmp_path
):
    changes = {"epochs": 2, "learning_rate": 0.001}
    one = finished(strategy="one_device", **changes)
    two = finished(strategy="column_parallel", **changes)
    weights = [checkpoints.read(str(folder)).weights for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys(), "a checkpoint does not say where it was made"
    assert_moved_alike(start_of(), *weights)
    # as after a kill before the second epoch's checkpoint
    again = tmp_path / "again"
    shutil.copytree(two, again)
    shutil.rmtree(again / "checkpoints" / "epoch-0002")
    run(data_dir, again, strategy="column_parallel", **changes)
    assert_same_run(two, again)


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        ({}, {"batch_size": 7}, "divide among the 2 devices, but it is 7"),
        ({}, {"optimizer": "tfa:SGDW"}, "weight_decay is needed"),
        ({"input_size": 300}, {}, r"at least 300 pixels, .* stores 256"),
        (
            {"conv_groups": (1,) * 5},
            {"strategy": "column_parallel"},
            r"has 1; take one of paper, kriz",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_there_is_a_workdir(
    data_dir, tmp_path, overrides, changes, message
):
    with pytest.raises(ValueError, match=message):
        run(data_dir, tmp_path / "run", dataclasses.replace(PROFILE, **overrides), **changes)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
    message = r"not finite at step \d+ with learning rate 1e\+20: it began at \w+, whose .* has"
    with pytest.raises(ValueError, match=message):
        run(data_dir, tmp_path, learning_rate=1e20)


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
