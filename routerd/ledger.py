"""Tasks by their id, so that sending one again does no harm: one that runs is replaced, one that is answered is not run again."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from routerd.errors import InvalidParameter

LONGEST_ID: Final = 64  # characters

_MOST_REPLIES = 1024
_MOST_BYTES = 4 << 20
_KEPT_SECONDS = 60.0  # a client that lost its connection is back, or gone, by then

#: A user and an id: other users cannot ask for a reply.
Key: TypeAlias = tuple[int, str]


class Ledger:
    """What is known of tasks with an id. ``clock`` gives seconds.

    Usage: :meth:`begin`, then the work, then :meth:`end` whatever became of it.
    """

    def __init__(
        self,
        *,
        most_replies: int = _MOST_REPLIES,
        most_bytes: int = _MOST_BYTES,
        kept_seconds: float = _KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_replies = most_replies
        self._most_bytes = most_bytes
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._running: dict[Key, asyncio.Task[Any]] = {}
        self._kept: OrderedDict[Key, tuple[bytes, float]] = OrderedDict()  # a reply, and until when it is given
        self._kept_bytes = 0

    def begin(self, key: Key, request: asyncio.Task[Any]) -> bytes | None:
        """The reply, if the task was answered already; otherwise ``request`` is from now on the one that counts.

        An earlier request for the same task is cancelled: its client is on another connection by now.
        Raises ``InvalidParameter`` for an id that is too long.
        """
        if len(key[1]) > LONGEST_ID:
            raise InvalidParameter(
                f"task_id has {len(key[1])} characters; it may have {LONGEST_ID}", parameter="task_id", limit=LONGEST_ID
            )
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        earlier = self._running.get(key)
        if earlier is not None:
            earlier.cancel()
        self._running[key] = request
        return None

    def end(self, key: Key, request: asyncio.Task[Any], reply: bytes | None) -> None:
        """The work is over. ``reply`` is kept for who asks again; ``None``: it has to be done again then."""
        if self._running.get(key) is request:
            del self._running[key]
        if reply is None or len(reply) > self._most_bytes:
            return
        earlier = self._kept.pop(key, None)
        if earlier is not None:
            self._kept_bytes -= len(earlier[0])
        self._kept[key] = (reply, self._clock() + self._kept_seconds)
        self._kept_bytes += len(reply)
        while len(self._kept) > self._most_replies or self._kept_bytes > self._most_bytes:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1][0])
