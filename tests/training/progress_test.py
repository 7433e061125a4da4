import io
import re
import sys

import keras
import pytest

from keras_alexnet.training.progress import Progress, duration

TRAIN = {"loss": 7.5, "cross_entropy": 6.312, "top1": 0.0213, "top5": 0.07}
UNKNOWN = dict.fromkeys(TRAIN, float("nan"))  # the sums of a step come with the next one
VALIDATION = {"val_cross_entropy": 6.2, "val_top1": 0.025, "val_top5": 0.081}
TIMINGS = {"images_per_second": 57.3, "seconds": 200.0, "input_wait_seconds": 2.4}
EPOCH = {**TRAIN, **VALIDATION, **TIMINGS}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(epochs, steps, *, first_epoch=0, first_step=0, until=None, batch_size=8, **options):
    """Call as the loop does: 100 s of making the graph, 2 s a step, 30 s a validation."""
    now = 1000.0
    progress = Progress(epochs, steps, batch_size, first_step, clock=lambda: now, **options)
    callbacks = keras.callbacks.CallbackList([progress])
    now += 5
    callbacks.on_train_begin()
    is_first = True
    for epoch in range(first_epoch, epochs if until is None else until):
        callbacks.on_epoch_begin(epoch)
        for step in range(first_step, steps):
            callbacks.on_train_batch_begin(step)
            now += 100 if is_first else 2
            callbacks.on_train_batch_end(step, UNKNOWN if is_first else TRAIN)
            is_first = False
        first_step = 0
        callbacks.on_test_begin()
        now += 30
        callbacks.on_test_end()
        callbacks.on_epoch_end(epoch, EPOCH)
        now += 7  # a checkpoint
    callbacks.on_train_end()


def test_a_log_file_gets_a_line_an_epoch(capsys):
    run(3, 10)
    lines = capsys.readouterr().err.splitlines()
    figures = (
        "loss 6.31, top-1 2.1 %; validation loss 6.2, top-1 2.5 %, top-5 8.1 %; "
        "57 images/s, 1 % of the time waiting for photos"
    )
    assert lines == [
        f"epoch 1/3: {figures}; 2 min left",  # 20 steps of 2 s, two validations of 30 s
        f"epoch 2/3: {figures}; 50 s left",
        f"epoch 3/3: {figures}",
    ]
    progress = Progress(epochs=1, steps=1, batch_size=8)
    progress.on_epoch_begin(0)
    instant = {"images_per_second": 12345.6, "seconds": 0.0, "input_wait_seconds": 0.0}
    progress.on_epoch_end(0, {**EPOCH, **instant})
    assert "; 12346 images/s, 0 % of the time waiting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "left"),
    [
        # 90 epochs of 1000 steps of 2 s
        ({}, 90 * 2000 - 50 * 2),
        ({"first_epoch": 88, "first_step": 100}, 2 * 2000 - 150 * 2),
        # over the end of an epoch and its validation
        ({"first_epoch": 88, "first_step": 980}, 2000 - 30 * 2),
    ],
)
def test_after_fifty_steps_of_the_command_there_is_an_estimate(capsys, first, left):
    run(90, 1000, until=first.get("first_epoch", 0) + 2 if first else 1, **first)
    lines = [line for line in capsys.readouterr().err.splitlines() if "epoch 90 at" in line]
    assert lines == [f"about {duration(left)} to epoch 90 at 4.0 images/s (validation not counted)"]


def bar_states(text):
    """(epoch, photos) of each state of a bar, and the states."""
    states = [state for state in text.split("\r") if re.match(r"epoch \d/\d +\d", state)]
    places = [re.match(r"epoch (\d)/.* (\d+)/80, ", state).groups() for state in states]
    return [(int(epoch), int(photos)) for epoch, photos in places], states


def test_a_terminal_gets_a_bar_that_the_line_replaces(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(2, 10, refresh_seconds=0)
    shown, states = bar_states(sys.stderr.getvalue())
    assert shown[0] == (1, 0)
    assert {(1, 8), (1, 80), (2, 0), (2, 80)} <= set(shown)
    assert "nan" not in sys.stderr.getvalue()
    # 4 steps of the first epoch, an epoch of 20 s; validations are not known yet
    assert any(re.search(r" 48/80, .*loss 6.312, top-1 2.1 %, 28 s left", s) for s in states)
    # 5 steps of the last epoch and a validation of 30 s
    assert any(re.search(r"^epoch 2/2 .* 40/80, .* 40 s left of the run", s) for s in states)
    assert any("80/80" in state and "validation" in state for state in states)
    lines = re.sub(r".*\r", "", sys.stderr.getvalue()).splitlines()
    assert [line[:10] for line in lines] == ["epoch 1/2:", "epoch 2/2:"]


def test_the_bar_of_a_resumed_epoch_begins_where_the_run_was(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(2, 10, first_step=6, refresh_seconds=0)
    shown, _ = bar_states(sys.stderr.getvalue())
    assert shown[0] == (1, 48)
    assert {(1, 80), (2, 0)} <= set(shown), "only the command's first epoch begins inside"


def test_durations_as_a_person_says_them():
    seconds = (0, 59.4, 59.6, 3569, 3571, 12000, 86370, 90 * 14400)
    texts = "0 s, 59 s, 1 min, 59 min, 1 h 0 min, 3 h 20 min, 1 d 0 h, 15 d 0 h"
    assert ", ".join(map(duration, seconds)) == texts
