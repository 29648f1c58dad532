"""When a call is made again after its connection was lost, and how long it waits for the next daemon."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from routerd.errors import DaemonUnreachable, RouterdError

#: A daemon that was killed or upgraded is back within seconds; a call waits this long before it gives up.
RECONNECT_SECONDS: Final = 10.0
#: Connections that one call may lose. A daemon that ends this often is not helped by asking it once more.
MOST_LOSSES: Final = 8
#: Methods that change what the daemon does: nobody may do that twice without being asked to.
ONCE: Final = frozenset({"calibrate", "policy.apply"})

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


def pauses(jitter: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds between attempts to connect: each up to twice as long as the last, and no two clients in step.

    ``jitter`` gives numbers from 0 to 1.
    """
    pause = _SHORTEST_PAUSE
    while True:
        yield pause * (0.5 + jitter() / 2.0)
        pause = min(2.0 * pause, _LONGEST_PAUSE)


class TaskIds:
    """Ids that no other connection and no other process gives, so that a task sent again is known to be the same."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """An id of at most 64 characters."""
        return f"{self._prefix}-{next(self._numbers):x}"


def closed(path: Path) -> DaemonUnreachable:
    """The error of a router that was closed, or lost its connection and is not to make another."""
    return DaemonUnreachable(f"the connection to {path} is closed; connect again")


def not_known(method: str, why: RouterdError) -> DaemonUnreachable:
    """The error of a call that must not be made twice, whose answer was lost."""
    return DaemonUnreachable(
        f"{why.message}; it is not known whether {method} was done: look before you ask again", method=method
    )


def given_up(path: Path, seconds: float, why: str, error: RouterdError) -> DaemonUnreachable:
    """The error of a call that has waited long enough for the next daemon."""
    return DaemonUnreachable(f"{error.message}; waited {seconds:g} s after {why}", socket=str(path))
