import numpy as np
import pytest

from benchmarks import preflight_confusion, preflight_settings
from data_prep import records, tfrecord


def line(*top1, stopped=""):
    return {"top1": list(top1), "classes": 10, "photos": 900, "stopped": stopped}


# Chance is 0.1, a standard error 0.01.
@pytest.mark.parametrize(
    ("of_run", "truth"),
    [
        (line(0.12, 0.14, 0.2, 0.3), "learns"),
        (line(0.25, 0.31), "learns"),
        (line(0.1, 0.12, 0.2, 0.3), "at risk"),
        (line(0.1, 0.14, 0.14, 0.14), "at risk"),
        (line(0.1, 0.1, 0.1, 0.12), "flat"),
        (line(0.2, 0.3, 0.1, 0.1), "flat"),
        (line(stopped="a label is out of range"), "flat"),
    ],
)
def test_the_truth_of_a_run(of_run, truth):
    assert preflight_confusion.truth_of_run(of_run) == truth


def test_seeds_that_differ_are_a_risk_and_the_tables_count_runs():
    lines = {
        ("a", "cifar", 0): line(0.2, 0.3),
        ("a", "cifar", 1): line(0.1, 0.1),
        ("b", "cifar", 0): line(0.1, 0.1),
        ("c", "cifar", 0): line(stopped="no"),
    }
    truth = preflight_confusion.truths(lines)
    assert list(truth.values()) == ["at risk", "at risk", "flat", "flat"]
    verdicts = dict(zip(lines, ["at risk", "learns", "flat", "at risk"], strict=True))
    table = preflight_confusion.table(truth, verdicts)
    assert table.splitlines()[2:] == [
        "| learns | 0 | 0 | 0 |",
        "| at risk | 1 | 1 | 0 |",
        "| flat | 0 | 1 | 1 |",
    ]
    rows = preflight_confusion.by_setting(lines, truth, verdicts).splitlines()
    assert rows[2] == "| a | cifar | 30%, 10% | at risk | at risk, learns |"
    assert rows[4] == "| c | cifar | stops | flat | at risk |"


def labels_of(folder):
    manifest = records.read_manifest(folder)
    found = {}
    for name, split in manifest.splits.items():
        for shard in split.shards:
            with open(f"{folder}/{shard.name}", "rb") as file:
                for payload in tfrecord.read_records(file):
                    example = tfrecord.decode_example(payload)
                    key = name, example["image/filename"]
                    found[key] = example["image/class/label"], example["image/class/synset"]
    return found


@pytest.mark.parametrize("kind", preflight_settings.DATA_COPIES)
def test_a_copy_of_the_data_has_its_mistake_and_no_other(data_dir, tmp_path, kind):
    copy = str(tmp_path / "copy")
    preflight_settings.copy_data(str(data_dir), copy, kind)
    before, after = labels_of(str(data_dir)), labels_of(copy)
    assert before.keys() == after.keys()
    change = {
        "as it is": lambda split, label: label,
        "no mean": lambda split, label: label,
        "train + 1": lambda split, label: (label + 1) % 2 if split == "train" else label,
        "from 1": lambda split, label: label + 1,
    }
    if kind == "shuffled":
        changed = sum(before[key] != after[key] for key in before)
        assert 0.2 < changed / len(before) < 0.8
        assert sorted(before.values()) == sorted(after.values())
    else:
        for (split, name), (label, synset) in before.items():
            assert after[split, name] == (change[kind](split, label), synset)
    is_zero = not np.load(f"{copy}/{records.MEAN_IMAGE}").any()
    assert is_zero == (kind == "no mean")


def test_settings_can_be_built():
    for setting in preflight_settings.SETTINGS.values():
        options = setting.options(seed=1)
        assert options.seed == 1
        assert setting.data in preflight_settings.DATA_COPIES
        expected = setting.profile.learning_rate * setting.rate
        assert options.learning_rate == pytest.approx(expected)
