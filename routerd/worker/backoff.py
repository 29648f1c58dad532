"""How long to wait before a process is started again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Seconds before the first restart, and at most.
DELAY_SECONDS: Final = (0.1, 10.0)
#: A process that has lived so long has not died of its start.
STABLE_SECONDS: Final = 30.0


class Backoff:
    """Twice as long after every short life, and not the same for all (``jitter`` gives 0…1), lest they all come at once."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = 0

    def next_seconds(self, lived_seconds: float) -> float:
        """The delay after a process that has lived so long."""
        if lived_seconds > STABLE_SECONDS:
            self._failures = 0
        shortest, longest = DELAY_SECONDS
        delay: float = min(shortest * 2.0**self._failures, longest)
        self._failures += 1
        return delay * (0.5 + self._jitter() / 2.0)
