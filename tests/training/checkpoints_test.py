import json
import os

import numpy as np
import pytest

from keras_alexnet.training import checkpoints
from keras_alexnet.training.checkpoints import Place


def make_checkpoint(epoch, step=0, averages=None):
    """The first epoch is the best."""
    history = [{"epoch": e, "val_top1": 0.8 if e == 1 else 0.5} for e in range(1, epoch + 1)]
    number = epoch + step / 1000
    state = checkpoints.RunState(
        Place(epoch, step),
        totals=[0.1, 2.0] if step else [],
        learning_rate=0.01 if step else None,
        history=history,
        timings=[{"epoch": line["epoch"], "seconds": 1.5} for line in history],
    )
    return checkpoints.Checkpoint(
        state,
        weights={"conv1/kernel": np.full([2, 3], number, np.float32)},
        optimizer=[np.array(epoch), np.full([2, 3], -number, np.float32)],
        schedule={"wait": 1},
        averages=averages or {},
    )


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("averages", [{}, {"conv1/kernel": np.float32([[9, 8]])}])
def test_a_checkpoint_is_read_as_it_was_written(tmp_path, step, averages):
    written = make_checkpoint(1, step, averages=averages)
    checkpoints.write(str(tmp_path), written)
    read = checkpoints.read(str(tmp_path))
    assert (read.state, read.schedule) == (written.state, written.schedule)
    for field in ("weights", "averages", "optimizer"):
        np.testing.assert_equal(getattr(read, field), getattr(written, field))
    for name in ("metrics.jsonl", "timings.jsonl"):
        lines = (tmp_path / name).read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1]


def kept_of(folder):
    return sorted(os.listdir(folder / "checkpoints"))


def test_the_last_two_and_the_best_are_kept(tmp_path):
    assert checkpoints.read(str(tmp_path)) is None
    for epoch in range(1, 6):
        checkpoints.write(str(tmp_path), make_checkpoint(epoch))
    assert kept_of(tmp_path) == ["epoch-0001", "epoch-0004", "epoch-0005"]
    assert checkpoints.read(str(tmp_path), "best").state.place == Place(1)
    assert checkpoints.read(str(tmp_path), "last").state.place == Place(5)


@pytest.mark.parametrize(
    ("keep", "steps"), [(1, ["12"]), (2, ["08", "12"]), (4, ["04", "08", "12"])]
)
def test_inside_of_an_epoch_the_last_whole_one_stays(tmp_path, keep, steps):
    for epoch in (1, 2):
        checkpoints.write(str(tmp_path), make_checkpoint(epoch), keep)
    for step in (4, 8, 12):
        checkpoints.write(str(tmp_path), make_checkpoint(2, step), keep)
    assert [name for name in kept_of(tmp_path) if "step" not in name] == [
        "epoch-0001",
        "epoch-0002",
    ]
    assert [name[-2:] for name in kept_of(tmp_path) if "step" in name] == steps
    assert checkpoints.read(str(tmp_path)).state.place == Place(2, 12)
    assert checkpoints.read(str(tmp_path), "last").state.place == Place(2)


@pytest.mark.parametrize("name", ["weights.npz", "optimizer.npz", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys, name, damage):
    for epoch in (1, 2):
        checkpoints.write(str(tmp_path), make_checkpoint(epoch))
    path = tmp_path / "checkpoints" / "epoch-0002" / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        # a digit of a metric, which is still JSON; of arrays, any byte
        place = content.index(b"0.5") + 2 if name == "state.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    assert checkpoints.read(str(tmp_path)).state.place == Place(1)
    assert "passed over" in capsys.readouterr().err


def test_what_a_killed_write_put_aside_is_dropped(tmp_path):
    abandoned = tmp_path / "checkpoints" / ".epoch-0001.x1y2.tmp"
    abandoned.mkdir(parents=True)
    (abandoned / "weights.npz").write_bytes(b"half")
    checkpoints.write(str(tmp_path), make_checkpoint(1))
    assert os.listdir(tmp_path / "checkpoints") == ["epoch-0001"]
