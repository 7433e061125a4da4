"""Progress of a run on stderr."""

import math
import sys
import time
from collections.abc import Callable, Mapping

import keras
import tqdm

_STEPS_TO_AN_ESTIMATE = 50


class Progress(keras.callbacks.Callback):
    """A progress bar per epoch, and lines that stay: an estimate of the time, and one per epoch.

    The bar has loss, top-1, images a second and the time left of the whole run. It is shown only if
    stderr is a terminal: a log file gets the lines alone.

    Args:
        epochs: of the whole run.
        steps: an epoch.
        batch_size: global.
        first_step: steps of the first epoch that are done already.
        clock: seconds; only differences matter.
        refresh_seconds: least time between two states of the bar.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        batch_size: int,
        first_step: int = 0,
        *,
        clock: Callable[[], float] = time.perf_counter,
        refresh_seconds: float = 1.0,
    ) -> None:
        super().__init__()
        self._epochs = epochs
        self._steps = steps
        self._batch_size = batch_size
        self._first_step = first_step
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._epoch = 0
        self._bar: tqdm.tqdm | None = None
        self._began = 0.0  # of the step or the validation
        self._taken = 0  # steps of this process; the first includes the tracing of the graph
        self._first_seconds = self._later_seconds = self._validation_seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        """Open the bar."""
        self._epoch = epoch
        self._bar = tqdm.tqdm(
            initial=self._first_step * self._batch_size,
            total=self._steps * self._batch_size,
            desc=f"epoch {epoch + 1}/{self._epochs}",
            unit=" images",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {rate_fmt}{postfix}",
            mininterval=self._refresh_seconds,
            leave=False,
            file=sys.stderr,
            disable=None,  # that is, unless stderr is a terminal
        )
        self._first_step = 0
        self._began = self._clock()

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        """Advance the bar; the loss is NaN until the sums of the first step are there."""
        now = self._clock()
        if self._taken:
            self._later_seconds += now - self._began
        else:
            self._first_seconds = now - self._began
        self._taken += 1
        self._began = now
        left = duration(self._seconds_left(self._epoch, batch + 1))
        if not math.isnan(logs["cross_entropy"]):
            self._bar.set_postfix_str(
                f"loss {logs['cross_entropy']:.3f}, top-1 {_percent(logs['top1'])}, "
                f"{left} left of the run",
                refresh=False,
            )
        self._bar.update(self._batch_size)
        if self._taken == _STEPS_TO_AN_ESTIMATE:
            speed = _speed(self._batch_size / self._seconds_a_step)
            tqdm.tqdm.write(
                f"about {duration(self._training_seconds_left(self._epoch, batch + 1))} to epoch "
                f"{self._epochs} at {speed} (validation not counted)",
                file=sys.stderr,
            )

    def on_test_begin(self, logs: Mapping | None = None) -> None:
        """Show that validation runs."""
        self._began = self._clock()
        self._bar.set_postfix_str("validation")

    def on_test_end(self, logs: Mapping | None = None) -> None:
        """Note the time it took, for the time that is left."""
        self._validation_seconds = self._clock() - self._began

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Replace the bar by the line of the epoch."""
        self._bar.close()
        waiting = logs["input_wait_seconds"] / logs["seconds"] if logs["seconds"] else 0.0
        parts = [
            f"epoch {epoch + 1}/{self._epochs}: "
            f"loss {logs['cross_entropy']:.3g}, top-1 {_percent(logs['top1'])}",
            f"validation loss {logs['val_cross_entropy']:.3g}, "
            f"top-1 {_percent(logs['val_top1'])}, top-5 {_percent(logs['val_top5'])}",
            f"{_speed(logs['images_per_second'])}, "
            f"{_percent(waiting, digits=0)} of the time waiting for photos",
        ]
        if epoch + 1 < self._epochs:
            parts.append(f"{duration(self._seconds_left(epoch + 1, 0))} left")
        print("; ".join(parts), file=sys.stderr, flush=True)

    @property
    def _seconds_a_step(self) -> float:
        """The mean without the first step, unless there is no other."""
        return self._later_seconds / (self._taken - 1) if self._taken > 1 else self._first_seconds

    def _training_seconds_left(self, epoch: int, step: int) -> float:
        """Return the seconds of the run's steps from a step of an epoch on."""
        return ((self._epochs - epoch) * self._steps - step) * self._seconds_a_step

    def _seconds_left(self, epoch: int, step: int) -> float:
        """Return the same with validations, once there was one to measure."""
        validations = (self._epochs - epoch) * self._validation_seconds
        return self._training_seconds_left(epoch, step) + validations


def duration(seconds: float) -> str:
    """Return a time in the largest units that matter: "3 h 20 min", "45 s"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:.{0 if images_per_second >= 10 else 1}f} images/s"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
