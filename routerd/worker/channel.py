"""The daemon's end of a worker's socket pair: non-blocking frames and descriptors on the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

import msgspec

from routerd.memory import Arrivals, receive
from routerd.outbox import Outbox, close_all
from routerd.protocol import FrameBuffer, encode_frame
from routerd.worker import messages

_CHUNK = 1 << 16  # the allocator maps larger buffers afresh for every call, which costs more than the call
_MAX_FRAME = 1 << 28


class Channel:
    """Sends jobs, hands every outcome with its descriptors to ``on_outcome``, and the end of the stream to ``on_end``.

    An outcome whose descriptors this process could not take, for it has no room for more, comes without any.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_outcome: Callable[[messages.Outcome, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._on_outcome = on_outcome
        self._on_end = on_end
        self._frames = FrameBuffer(_MAX_FRAME)
        self._arrivals = Arrivals()
        self._outbox = Outbox(connection, self._unwritable)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._readable)
        self._open = True
        self._notices = b""

    def send(self, job: messages.Job, descriptors: Sequence[int] = ()) -> None:
        """Queue a job; ``descriptors`` are duplicated, so the caller keeps its own. Raises ``OSError`` if none are left."""
        copies: list[int] = []
        try:
            for descriptor in descriptors:
                copies.append(os.dup(descriptor))
        except OSError:
            close_all(copies)
            raise
        notices, self._notices = self._notices, b""
        self._outbox.put(notices + encode_frame(job), copies)

    def post(self, notice: messages.Notice | messages.Ping) -> None:
        """Send a notice with the next job, so that the worker wakes once for both, but no later than this turn of the loop."""
        if not self._notices:
            self._loop.call_soon(self._deliver)
        self._notices += encode_frame(notice)

    def _deliver(self) -> None:
        notices, self._notices = self._notices, b""
        if notices and self._open:
            self._outbox.put(notices)

    def close(self) -> None:
        """Stop listening; the worker sees the end of its stream."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._connection)
        self._outbox.close()
        self._arrivals.close()
        self._connection.close()

    def _readable(self) -> None:
        try:
            data, descriptors = receive(self._connection, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset: the same as an end
            data, descriptors = b"", []
        if not data:
            self.close()
            self._on_end()
            return
        self._arrivals.add(descriptors)
        for body in self._frames.feed(data):
            try:
                outcome = messages.outcome_decoder.decode(body)
            except msgspec.MsgspecError:  # a worker that talks nonsense has lost its mind: treat it as gone
                self.close()
                self._on_end()
                return
            try:
                mine = self._arrivals.take(len(getattr(outcome, "created", ())))
            except OSError:
                mine = []
            self._on_outcome(outcome, mine)

    def _unwritable(self, reason: str) -> None:
        """Nothing to do: the process is gone, and the reading side is about to say so."""
