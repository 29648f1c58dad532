"""One client connection on the event loop: bytes in, frames out, nothing else's business."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

from routerd.errors import ProtocolError
from routerd.outbox import Outbox, close_all
from routerd.protocol import FrameBuffer, Reply, encode_frame, failure

_CHUNK = 1 << 16
_FLUSH_BYTES = 1 << 16  # replies sent together at most: the client reads them while the next ones are made
_PAUSE_BYTES = 1 << 18
_TURN_SECONDS = (
    500e-6  # of one client on the loop, or a single task: the rest waits until the others have had their turn
)


class Connection:
    """Reads frames for ``on_frame`` and writes replies, as many together as there are.

    ``on_frame`` returns whether the frame began work that goes on. However many frames a peer sends together, they are
    handled in short turns, between which the loop serves other peers.

    A peer that does not read its replies is not read from either, nor are the frames handled that it has sent already.
    If replies still grow beyond ``max_unsent_bytes``, it is detached. ``on_close`` is called exactly once.
    """

    def __init__(
        self,
        peer: socket.socket,
        *,
        max_frame_bytes: int,
        max_unsent_bytes: int,
        on_frame: Callable[[bytes], bool],
        on_close: Callable[[str], None],
    ) -> None:
        peer.setblocking(False)
        self._socket = peer
        self._frames = FrameBuffer(max_frame_bytes)
        self._max_unsent = max_unsent_bytes
        self._on_frame = on_frame
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(peer, self.close, self._resume)
        self._paused = False
        self._waits_for_turn = False
        self._bodies: Iterator[bytes] = iter(())
        self._batch: list[bytes] | None = None
        self._batch_bytes = 0
        self.open = True
        self._loop.add_reader(peer, self._readable)

    def send(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame. ``descriptors`` now belong to the connection, which closes them."""
        if not self.open:
            close_all(descriptors)
            return
        if self._batch is not None and not descriptors:
            self._batch.append(frame)
            self._batch_bytes += len(frame)
            return
        self._flush_batch()
        self._put(frame, descriptors)

    def close(self, reason: str) -> None:
        """End the connection. Replies that the kernel does not take at once are lost with it."""
        self._flush_batch()
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._socket)
        self._outbox.close()
        self._socket.close()
        on_close, self._on_close = self._on_close, _no_close  # they hold this connection, which now can go at once
        self._on_frame = _no_frame
        on_close(reason)

    @property
    def drained(self) -> bool:
        """Whether the kernel has taken everything sent."""
        return self._outbox.unsent_bytes == 0

    def _readable(self) -> None:
        if self._waits_for_turn:
            return
        try:
            data = self._socket.recv(_CHUNK)  # descriptors that a client might attach are dropped by the kernel
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"connection lost: {error.strerror}")
            return
        if not data:
            self.close("closed by the client")
            return
        self._bodies = self._frames.feed(data)
        self._handle()

    def _handle(self) -> None:
        """Handle the frames at hand until there are no more, the turn is over, or the peer has to read replies first."""
        self._batch = []
        turn_ends = perf_counter() + _TURN_SECONDS
        try:
            for body in self._bodies:
                began_task = self._on_frame(body)
                if self._batch_bytes > _FLUSH_BYTES:
                    self._flush_batch()
                if not self.open:
                    return
                if self._outbox.unsent_bytes > _PAUSE_BYTES:
                    break
                if began_task or perf_counter() > turn_ends:
                    self._waits_for_turn = True
                    break
        except ProtocolError as error:
            self._batch.append(encode_frame(Reply(0, error=failure(error))))
            self.close(error.message)
            return
        finally:
            if self.open:
                self._flush_batch()
            self._batch = None
        if self.open and self._outbox.unsent_bytes > _PAUSE_BYTES:
            self._paused = True
            self._loop.remove_reader(self._socket)
        elif self._waits_for_turn:
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._waits_for_turn = False
        if self.open and not self._paused:
            self._handle()

    def _resume(self) -> None:
        if self._paused and self.open:
            self._paused = self._waits_for_turn = False
            self._loop.add_reader(self._socket, self._readable)
            self._handle()

    def _flush_batch(self) -> None:
        if self._batch and self.open:
            frames, self._batch, self._batch_bytes = b"".join(self._batch), [], 0
            self._put(frames)

    def _put(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        self._outbox.put(frame, descriptors)
        if self._outbox.unsent_bytes > self._max_unsent:
            self.close(f"the client does not read: {self._outbox.unsent_bytes} bytes wait for it")


def _no_frame(_body: bytes) -> bool:
    """In place of what a closed connection no longer calls."""
    return False


def _no_close(_reason: str) -> None:
    """Likewise."""
