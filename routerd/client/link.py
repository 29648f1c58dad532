"""One connection of the synchronous client, from hello until it is lost or closed."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from msgspec import Raw

from routerd.client import core
from routerd.client.arrays import Segments, whole_pages
from routerd.errors import DaemonUnreachable, RouterdError
from routerd.memory import receive
from routerd.outbox import close_all
from routerd.protocol import Alloc, Free, Freeze, Reply, Report
from routerd.types import ArrayRef

_SURE_BYTES = 1 << 15  # a socket with nothing unread takes this much without waiting for its reader


class Link:
    """A connection that was welcomed. One thread at a time may use it, but any may close it.

    Raises ``DaemonUnreachable`` when the connection is lost, and is closed then.
    """

    def __init__(self, path: Path, name: str, hello_seconds: float, *, table: bool, wait_seconds: float = 0.0) -> None:
        """Connect, waiting so long for the socket to answer, and then so long for the answer to hello."""
        self._path = path
        self._socket = _open(path, wait_seconds)
        self._ids = itertools.count(1)
        self._replies = core.ReplyStream()
        self.segments = Segments(0)
        self.lost_at = 0.0
        self.lost_because = ""
        self._socket.settimeout(hello_seconds)  # a daemon that is stopped accepts, but does not answer
        try:
            reply, descriptors = self.exchange(core.hello_frame(core.hello(name, table=table)), {0})[0]
            self.welcome = core.welcome_decoder.decode(core.result_of(reply))
            self.reader = core.map_table(reply, descriptors, self.welcome)
            self._socket.settimeout(None)
        except TimeoutError:
            raise core.no_hello(path, hello_seconds) from None
        except DaemonUnreachable as error:  # it ended while it greeted: the next one may not
            error.detail["may_come"] = True
            raise
        except BaseException:
            self.close()
            raise
        self.segments = Segments(self.welcome.limits.inline_array_bytes)

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent, as far as is known."""
        return self._socket.fileno() >= 0

    def is_alive(self) -> bool:
        """Whether the daemon has not hung up yet."""
        try:
            return self.is_open and bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self, why: str = "it was closed") -> None:
        """Close without another word: where half a request was sent, it would be taken for the rest of that."""
        if self.is_open:
            self.lost_at, self.lost_because = monotonic(), why
        self._socket.close()
        self._replies.close()
        self.segments = Segments(0)

    def call(self, method: str, params: Any) -> Raw:
        """A method's result. Raises its error."""
        reply, descriptors = self.request(method, params)
        close_all(descriptors)
        return core.result_of(reply)

    def request(self, method: str, params: Any) -> tuple[Reply, list[int]]:
        """A method's reply, and the descriptors that came with it."""
        number = next(self._ids)
        frame = core.request_frame(number, method, params, self.welcome.limits.max_frame_bytes)
        return self.exchange(frame, {number})[0]

    def pipeline(self, method: str, every: list[Any]) -> list[Raw]:
        """The results of one method for many parameters: all are sent before the first answer is read."""
        numbers = [next(self._ids) for _ in every]
        limit = self.welcome.limits.max_frame_bytes
        frames = [core.request_frame(number, method, one, limit) for number, one in zip(numbers, every, strict=True)]
        answers = {reply.id: reply for reply, _descriptors in self.exchange(b"".join(frames), set(numbers))}
        return [core.result_of(answers[number]) for number in numbers]

    def tell(self, report: Report) -> None:
        """Report without waiting for a daemon that may have stopped; it is a count, no promise."""
        if self.is_open:
            with contextlib.suppress(OSError):
                self._socket.send(core.request_frame(next(self._ids), "report", report, None), socket.MSG_DONTWAIT)

    # -- segments -----------------------------------------------------------------------------------------------------

    def reference(self, name: str, array: Any, staged: list[int]) -> ArrayRef:
        """How to send an array, copied to a staging segment if it must be; that one's number is added to ``staged``."""
        ref = self.segments.locate(name, array)
        if ref is not None:
            return ref
        number = self.segments.take_staging(array.nbytes)
        if number is None:
            number = self.alloc(whole_pages(array.nbytes))
        staged.append(number)
        return self.segments.fill(number, array)

    def alloc(self, size: int) -> int:
        """The number of a new segment, mapped writable."""
        reply, descriptors = self.request("alloc", Alloc(size))
        core.adopt(reply, descriptors, self.segments, output=False)
        return core.segment_decoder.decode(core.result_of(reply)).segment

    def constant(self, array: Any) -> int:
        """The number of a new segment with this array, mapped read-only, which nobody can change."""
        reply, descriptors = self.request("alloc", Alloc(array.nbytes))
        try:
            info = core.poured(reply, descriptors, array)
            try:
                self.call("freeze", Freeze(info.segment))
            except RouterdError:
                with contextlib.suppress(RouterdError):
                    self.call("free", Free((info.segment,)))
                raise
            self.segments.adopt_constant(info, descriptors[0])
        finally:
            close_all(descriptors)
        return info.segment

    # -- bytes --------------------------------------------------------------------------------------------------------

    def exchange(self, frames: bytes, numbers: set[int]) -> list[tuple[Reply, list[int]]]:
        """Send requests and return their replies. Reading goes on while sending, or a long pipeline would lock up."""
        if not self.is_open:
            raise DaemonUnreachable(f"the connection to {self._path} is closed")
        found: list[tuple[Reply, list[int]]] = []
        try:
            rest = memoryview(frames)
            while len(rest) > _SURE_BYTES:
                ready = self._wait_for_either()
                if ready & ~select.POLLOUT:
                    found += self._next(numbers)
                if ready & select.POLLOUT:
                    with contextlib.suppress(BlockingIOError):
                        rest = rest[self._socket.send(rest[:_SURE_BYTES], socket.MSG_DONTWAIT) :]
            with contextlib.suppress(BrokenPipeError):  # who hung up may have said why: it can still be read
                self._socket.sendall(rest)
            while len(found) < len(numbers):
                found += self._next(numbers)
        except TimeoutError:
            self.close("it did not answer")
            raise
        except OSError as error:
            self.close(f"the connection broke ({error.strerror or error})")
            raise DaemonUnreachable(f"the connection to {self._path} broke: {error.strerror or error}") from error
        except BaseException as error:  # an interrupt (Ctrl-C) leaves half a request or a reply that nobody reads
            self.close(str(error) or type(error).__name__)
            raise
        return found

    def _wait_for_either(self) -> int:
        """Wait until the socket can be read or written; what ``poll`` says about it."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        return poller.poll()[0][1]

    def _next(self, numbers: set[int]) -> list[tuple[Reply, list[int]]]:
        data, descriptors = receive(self._socket, core.CHUNK)
        if not data:
            raise DaemonUnreachable(f"the daemon at {self._path} closed the connection")
        found = []
        for reply, mine in self._replies.feed(data, descriptors):
            if reply.id not in numbers:  # an error about the connection as a whole has id 0
                core.result_of(reply)
                raise RouterdError(f"the daemon answered request {reply.id}, which was not asked")
            found.append((reply, mine))
        return found


def _open(path: Path, wait_seconds: float) -> socket.socket:
    deadline = monotonic() + wait_seconds
    while True:
        try:
            return core.open_socket(path)
        except DaemonUnreachable as error:
            if not error.detail.get("may_come") or monotonic() >= deadline:
                raise
        sleep(core.RETRY_SECONDS)
