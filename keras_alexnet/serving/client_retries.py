"""When a request that failed is sent again: exponential back-off with jitter, within a deadline."""

import dataclasses
import itertools
import random
import time
from collections.abc import Callable
from typing import TypeVar

from keras_alexnet.serving.client_calls import CallFailed

Result = TypeVar("Result")

_FIRST_DELAY = 0.5
_FACTOR = 2.0
_LARGEST_DELAY = 10.0
# Of a last try, for which the waiting has left next to nothing.
_SHORTEST_TRY = 0.01


@dataclasses.dataclass(frozen=True)
class Retries:
    """The rule.

    Attributes:
        limit: how often a request is sent again, at most.
        deadline: seconds for a request, all tries and the waiting in between together.
        sleep: waits some seconds; true says to give up.
        random: 0 to 1, so that clients that failed at once do not come back at once.
        clock: seconds; only differences matter.
    """

    limit: int = 4
    deadline: float = 60.0
    sleep: Callable[[float], object] = time.sleep
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def run(self, attempt: Callable[[float], Result]) -> tuple[Result, int]:
        """Tries until it goes well, or there is no point in it.

        Args:
            attempt: one try; gets the seconds that are left for it.

        Returns:
            (its result, how often it was repeated).

        Raises:
            CallFailed: of the last try; it knows of the others.
        """
        started = self.clock()
        for tries in itertools.count(1):
            left = started + self.deadline - self.clock()
            try:
                return attempt(max(left, _SHORTEST_TRY)), tries - 1
            except CallFailed as failure:
                failure.tries = tries
                failure.seconds = self.clock() - started
                delay = max(self._delay(tries), failure.retry_after)
                is_hopeless = not failure.is_transient or tries > self.limit
                if is_hopeless or failure.seconds + delay >= self.deadline or self.sleep(delay):
                    raise
        raise AssertionError("unreachable: count does not end")

    def _delay(self, tries: int) -> float:
        """Half of it is certain, half is chance."""
        longest = min(_FIRST_DELAY * _FACTOR ** (tries - 1), _LARGEST_DELAY)
        return longest * (0.5 + 0.5 * self.random())
