"""Frames and descriptors on their way out of a non-blocking socket, in order, however slowly the peer reads."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from routerd.memory import send


class Outbox:
    """Sends at once what the kernel takes and the rest when it can.

    ``on_error`` hears why sending became impossible, ``on_empty`` that all was sent after some had to wait.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_error: Callable[[str], None],
        on_empty: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = connection
        self._on_error = on_error
        self._on_empty = on_empty
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._watching = False
        self._open = True
        self.unsent_bytes = 0

    def put(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame. ``descriptors`` now belong to the outbox, which closes them once they are sent or lost."""
        if not self._open:
            close_all(descriptors)
            return
        self._queue.append((frame, descriptors))
        self.unsent_bytes += len(frame)
        if not self._watching:
            self._flush()

    def close(self) -> None:
        """Drop what is unsent. The socket stays the owner's to close."""
        self._open = False
        self._on_error, self._on_empty = _ignore, _nothing  # they hold the outbox's owner, which now can go at once
        if self._watching:
            self._loop.remove_writer(self._socket)
            self._watching = False
        for _frame, descriptors in self._queue:
            close_all(descriptors)
        self._queue.clear()
        self.unsent_bytes = 0

    def _flush(self) -> None:
        while self._queue:
            frame, descriptors = self._queue[0]
            try:
                sent = send(self._socket, frame, descriptors)
            except (BlockingIOError, InterruptedError):
                if not self._watching:
                    self._loop.add_writer(self._socket, self._flush)
                    self._watching = True
                return
            except OSError as error:
                self._on_error(f"connection lost: {error.strerror}")
                return
            close_all(descriptors)
            self.unsent_bytes -= sent
            if sent < len(frame):
                self._queue[0] = (frame[sent:], ())
            else:
                self._queue.popleft()
        if self._watching:
            self._loop.remove_writer(self._socket)
            self._watching = False
            self._on_empty()


def _ignore(_reason: str) -> None:
    """Nobody is told any more."""


def _nothing() -> None:
    """Likewise."""


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody will use."""
    for descriptor in descriptors:
        os.close(descriptor)
