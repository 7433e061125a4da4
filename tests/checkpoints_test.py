import json
import os

import numpy as np
import pytest

from keras_alexnet import checkpoints


def make_checkpoint(epoch, top1=0.5):
    history = [{"epoch": e, "val_top1": 0.1, "val_top5": 0.2} for e in range(1, epoch)]
    return checkpoints.Checkpoint(
        epoch=epoch,
        weights={"conv1/kernel": np.full([2, 3], epoch, np.float32)},
        optimizer=[np.array(epoch), np.full([2, 3], -epoch, np.float32)],
        schedule={"wait": 1},
        history=[*history, {"epoch": epoch, "val_top1": top1, "val_top5": 0.9}],
    )


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    checkpoints.write(str(tmp_path), make_checkpoint(1))
    read = checkpoints.read(str(tmp_path))
    assert read.epoch == 1
    assert read.schedule == {"wait": 1}
    np.testing.assert_array_equal(read.weights["conv1/kernel"], np.ones([2, 3]))
    np.testing.assert_array_equal(read.optimizer[1], -np.ones([2, 3]))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


def test_the_last_two_and_the_best_are_kept(tmp_path):
    best = make_checkpoint(1, top1=0.8)
    checkpoints.write(str(tmp_path), best)
    history = list(best.history)
    for epoch in range(2, 6):
        later = make_checkpoint(epoch)
        history.append(later.history[-1])
        checkpoints.write(
            str(tmp_path),
            checkpoints.Checkpoint(epoch, later.weights, later.optimizer, None, history),
        )
    kept = sorted(os.listdir(tmp_path / "checkpoints"))
    assert kept == ["epoch-0001", "epoch-0004", "epoch-0005"]
    assert checkpoints.read(str(tmp_path), "best").epoch == 1
    assert checkpoints.read(str(tmp_path), "last").epoch == 5


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
        content[0] ^= 1
        path.write_bytes(content)
    assert checkpoints.read(str(tmp_path)).epoch == 1
    assert "passed over" in capsys.readouterr().err


def test_what_a_killed_write_put_aside_is_dropped(tmp_path):
    abandoned = tmp_path / "checkpoints" / ".epoch-0001.x1y2.tmp"
    abandoned.mkdir(parents=True)
    (abandoned / "weights.npz").write_bytes(b"half")
    checkpoints.write(str(tmp_path), make_checkpoint(1))
    assert os.listdir(tmp_path / "checkpoints") == ["epoch-0001"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.read(str(tmp_path)) is None
