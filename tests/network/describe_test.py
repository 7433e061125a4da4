import dataclasses
import json
import math

import commands
import pytest
import tensorflow as tf
from repository import ROOT

from keras_alexnet import PROFILES
from keras_alexnet.network import ablations, differences
from keras_alexnet.network import figures as network_figures
from keras_alexnet.network.profile import Profile

# Worked out by hand from the shapes in the systems' own descriptions.
GROUPED = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
UNGROUPED = GROUPED | {"conv2": 614_656, "conv4": 1_327_488, "conv5": 884_992}
OWT = {  # inputs x taps x outputs + outputs
    "conv1": 3 * 121 * 64 + 64,
    "conv2": 64 * 25 * 192 + 192,
    "conv3": 192 * 9 * 384 + 384,
    "conv4": 384 * 9 * 256 + 256,
    "conv5": 256 * 9 * 256 + 256,
    "fc6": 9216 * 4096 + 4096,
    "fc7": 4096 * 4096 + 4096,
    "fc8": 4096 * 1000 + 1000,
}
ONE_COLUMN = GROUPED | {
    "conv1": 3 * 121 * 48 + 48,
    "conv2": 48 * 25 * 128 + 128,
    "conv3": 128 * 9 * 192 + 192,
    "conv4": 192 * 9 * 192 + 192,
    "conv5": 192 * 9 * 256 + 256,
}
TWO_COLUMNS = ("paper", "krizhevsky2012", "caffe", "caffenet")
PARAMETERS = dict.fromkeys(TWO_COLUMNS, GROUPED) | {"owt": OWT, "seed": UNGROUPED}
ABLATED = dict.fromkeys(("lrn", "overlap", "relu", "dropout"), GROUPED) | {
    "conv3": GROUPED | {"conv3": 0, "conv4": 128 * 9 * 384 + 384},
    "conv4": GROUPED | {"conv4": 0},
    "conv5": GROUPED | {"conv5": 0, "fc6": 6 * 6 * 384 * 4096 + 4096},
    "columns": ONE_COLUMN,
}
TOTALS = dict.fromkeys(TWO_COLUMNS, (60_965_224, 724_406_816)) | {
    "owt": (61_100_840, 714_188_480),
    "seed": (62_378_344, 1_135_256_096),
}
SIDES = {"conv1": 55, "pool1": 27, "pool2": 13, "pool5": 6}
PAPER_WORK = {  # places x taps x inputs of a unit x outputs
    "conv1": 55 * 55 * 121 * 3 * 96,
    "conv2": 27 * 27 * 25 * 48 * 256,
    "conv3": 13 * 13 * 9 * 256 * 384,
    "conv4": 13 * 13 * 9 * 192 * 384,
    "conv5": 13 * 13 * 9 * 192 * 256,
    "fc6": 9216 * 4096,
    "fc7": 4096 * 4096,
    "fc8": 4096 * 1000,
}
PAPER_UNITS = (
    224 * 224 * 3
    + 227 * 227 * 3
    + 3 * 55 * 55 * 96  # conv1, relu1, lrn1
    + 27 * 27 * 96
    + 3 * 27 * 27 * 256
    + 13 * 13 * 256
    + 4 * 13 * 13 * 384
    + 2 * 13 * 13 * 256
    + 2 * 6 * 6 * 256  # pool5, flatten
    + 6 * 4096
    + 2 * 1000
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PROFILES, *ablations.ABLATIONS])
def test_parameters_by_layer_and_totals_are_those_of_the_systems(name):
    ablated = name not in PROFILES
    profile = ablations.apply(PROFILES["paper"], [name]) if ablated else PROFILES[name]
    layers = network_figures.profile_figures(profile)
    parameters = {layer.name: layer.parameters for layer in layers if layer.parameters}
    expected = ABLATED[name] if ablated else PARAMETERS[name]
    assert parameters == {layer: count for layer, count in expected.items() if count}
    sums = network_figures.totals(layers)
    assert sums["parameters"] == sum(expected.values())
    assert ablated or (sums["parameters"], sums["multiply_adds"]) == TOTALS[name]
    shapes = {layer.name: layer.output_shape for layer in layers}
    assert {key: shapes[key][:2] for key in SIDES} == {key: (n, n) for key, n in SIDES.items()}
    assert shapes["pool5"][2] == (384 if name == "conv5" else 256)


def test_work_and_memory_of_the_paper_by_layer():
    layers = network_figures.profile_figures("paper")
    work = {layer.name: layer.multiply_adds for layer in layers if layer.multiply_adds}
    assert work == PAPER_WORK
    assert {layer.name for layer in layers if layer.kernel_shape} == set(PAPER_WORK)
    assert network_figures.totals(layers)["activation_bytes"] == 4 * PAPER_UNITS
    (lrn1,) = (layer for layer in layers if layer.name == "lrn1")
    shape = (55, 55, 96)
    assert lrn1 == ("lrn1", "LocalResponseNormalization", shape, None, 0, 0, 4 * math.prod(shape))


def test_no_weight_takes_memory_and_tensorflow_stays_eager():
    huge = dataclasses.replace(PROFILES["paper"], fc_units=(2_000_000, 2_000_000))  # 16 TB
    figures = {layer.name: layer for layer in network_figures.profile_figures(huge)}
    assert figures["fc7"].parameters == 4_000_002_000_000
    assert tf.executing_eagerly()


def test_the_layer_table_reads_well_and_adds_up():
    text, figures = network_figures.describe(profile=PROFILES["paper"])
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in table
    }
    assert cells["conv2"][1:] == ["27x27x256", "5x5x48x256", "307,456", "223,948,800", "746,496"]
    assert cells["fc6"][1:3] == ["4096", "9216x4096"]
    assert cells["relu7"][2:5] == ["-", "0", "0"]
    assert cells["total"] == ["", "", "", "60,965,224", "724,406,816", f"{4 * PAPER_UNITS:,}"]
    assert lines[-1].startswith("A training step of 128 images has 1,094.0 MiB")
    assert figures == {
        "profile": "paper",
        "parameters": 60_965_224,
        "multiply_adds": 724_406_816,
        "activation_bytes": 4 * PAPER_UNITS,
        "batch_size": 128,
        "activation_mib": round(4 * PAPER_UNITS * 128 / 1024 / 1024, 1),
    }


def test_the_command_lists_a_network():
    arguments = ("--profile=owt", "--width=0.125", "--classes=10", "--batch_size=3")
    status, out, _ = commands.in_process("keras_alexnet.describe", *arguments)
    assert status == 0
    *_, note, figures = out.splitlines()
    figures = json.loads(figures)
    assert "| 8x10" not in out
    assert "| 512x10 " in out, "4096 / 8 units before ten classes"
    assert "A training step of 3 images has" in note
    assert figures["batch_size"] == 3
    assert figures["activation_mib"] == round(figures["activation_bytes"] * 3 / 2**20, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--profile"),
        (["--profile=paper", "--all"], "--all"),
        *((["--all", flag], "--all") for flag in ("--width=0.5", "--classes=10", "--batch_size=1")),
        (["--profile=alexnet"], "alexnet"),
        *((["--profile=paper", flag], flag) for flag in ("--classes=0", "--width=0")),
        (["--profile=paper", "--batch_size=0"], "--batch_size=0"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments, text):
    status, out, err = commands.in_process("keras_alexnet.describe", *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


class Recorder:
    """A profile that records which of its attributes are read."""

    def __init__(self, profile, read):
        self._profile, self._read = profile, read

    def __getattr__(self, name):
        self._read.add(name)
        return getattr(self._profile, name)


def test_every_field_is_shown():
    read = set()
    profiles = [Recorder(profile, read) for profile in PROFILES.values()]
    profiles.append(Recorder(ablations.apply(PROFILES["paper"], ["conv4"]), read))
    assert differences.summaries(profiles)
    titles = [title for title, *_ in differences.differences(profiles)]
    assert len(set(titles)) == len(titles) > 20
    assert read >= {field.name for field in dataclasses.fields(Profile)}


def test_what_all_profiles_agree_in_is_left_out():
    paper = PROFILES["paper"]
    assert differences.differences([paper, paper]) == []
    twice = dataclasses.replace(paper, pixel_scale=0.5)
    assert differences.differences([paper, twice]) == [["then times", "1", ".5"]]


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, ".01"), (2.5e-4, "2.5e-4"), (10.5, "10.5"), (3, "3")]
)
def test_numbers_are_short(value, text):
    profiles = [dataclasses.replace(PROFILES["paper"], learning_rate=rate) for rate in (value, 7)]
    assert differences.differences(profiles) == [["learning rate", text, "7"]]


@pytest.mark.slow
def test_the_command_lists_the_differences_and_readme_holds_them():
    status, out, _ = commands.in_process("keras_alexnet.describe", "--all")
    text, _, figures = out.rstrip("\n").rpartition("\n")
    assert status == 0
    totals = {name: tuple(sums.values())[:2] for name, sums in json.loads(figures).items()}
    assert totals == TOTALS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, found, rest = readme.partition("<!-- describe --all -->\n")
    inside, end, _ = rest.partition("<!-- end -->")
    assert found, "README.md must have a line <!-- describe --all -->"
    assert end, "README.md must have a line <!-- end --> after the table"
    assert inside.strip() == text, (
        "put the output of `python -m keras_alexnet.describe --all` between the two lines"
    )
