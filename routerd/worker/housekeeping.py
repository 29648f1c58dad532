"""A worker's memory, kept level: what the interpreter and the allocator hold back for later goes back now and then.

Tasks of many sizes leave free lists full and the heap in pieces. Neither is lost, both are bounded, but under mixed work the
process would grow for an hour before it stayed level, and nobody could tell that from a leak.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from routerd.heap import TIDY_SECONDS, system_trim


class Housekeeping:
    """Tidies between two jobs, when it is time to. ``trim`` gives the allocator's free pages back to the system."""

    def __init__(
        self,
        trim: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trim = trim or system_trim()
        self._clock = clock
        self._due = clock() + TIDY_SECONDS

    def settle(self) -> None:
        """What exists now is here to stay (a framework was imported): collections need not look at it again."""
        gc.collect()
        gc.freeze()

    def between_jobs(self) -> bool:
        """Tidy, if that is due; whether it was."""
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + TIDY_SECONDS
        gc.collect()  # a full collection also empties the free lists
        self._trim()
        return True
