"""A plain connection to the daemon for methods that carry no arrays.

The client library needs NumPy, whose import takes longer than most commands of ``routerctl``; this does not.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from routerd.errors import DaemonUnreachable, RouterdError, from_wire
from routerd.paths import check_socket_path, default_socket_path
from routerd.protocol import PROTOCOL_VERSIONS, FrameBuffer, Hello, Reply, Request, encode, encode_frame

CLIENT_NAME: Final = "routerctl"

#: A daemon may be starting: wait this long for its socket.
WAIT_SECONDS: Final = 1.0
#: No method but ``calibrate`` takes long; beyond this the daemon hangs.
ANSWER_SECONDS: Final = 60.0

_RETRY_SECONDS = 0.02
_CHUNK = 1 << 18
_MAX_REPLY = 1 << 30
_decoder = msgspec.msgpack.Decoder(Reply)


def socket_path(given: Path | None) -> Path:
    """The socket to connect to. Raises ``ConfigurationError`` for a path that is too long."""
    if given is None:
        return default_socket_path(os.environ, sys.platform)
    return check_socket_path(given.expanduser(), "--socket")


class Link:
    """One connection: requests one after the other. Use as a context manager.

    Raises ``DaemonUnreachable`` where nobody answers, and what the daemon refuses with.
    """

    def __init__(self, given: Path | None) -> None:
        self._path = socket_path(given)
        self._socket = _connect(self._path)
        self._ids = itertools.count(1)
        self._frames = FrameBuffer(_MAX_REPLY)
        self._replies: list[Reply] = []
        try:
            self._send(0, "hello", Hello(PROTOCOL_VERSIONS, CLIENT_NAME))
            self.wait(ANSWER_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def call(self, method: str, params: Any = None) -> Any:
        """A method's result as plain data."""
        self.send(method, params)
        return self.wait(ANSWER_SECONDS)

    def send(self, method: str, params: Any = None) -> None:
        """Ask without waiting for the answer."""
        self._send(next(self._ids), method, {} if params is None else params)

    def answered(self, timeout: float) -> bool:
        """Whether an answer has come, after waiting up to ``timeout`` seconds for it; :meth:`wait` then returns it."""
        deadline = time.monotonic() + timeout
        while not self._replies:
            left = deadline - time.monotonic()
            if not select.select([self._socket], [], [], max(left, 0.0))[0]:
                return False
            self._receive()
        return True

    def wait(self, timeout: float) -> Any:
        """The next answer as plain data, or its error as an exception."""
        if not self.answered(timeout):
            raise DaemonUnreachable(f"the daemon at {self._path} did not answer within {timeout:g} s; see its log")
        reply = self._replies.pop(0)
        if reply.error is not None:
            raise from_wire(reply.error.code, reply.error.message, reply.error.detail)
        if not bytes(reply.result):
            raise RouterdError("the daemon sent a reply without result or error")
        return msgspec.msgpack.decode(reply.result)

    def _send(self, number: int, method: str, params: Any) -> None:
        try:
            self._socket.sendall(encode_frame(Request(number, method, msgspec.Raw(encode(params)))))
        except OSError as error:
            raise self._broken(error) from error

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except OSError as error:
            raise self._broken(error) from error
        if not data:
            raise DaemonUnreachable(f"the daemon at {self._path} closed the connection")
        self._replies += [_decoder.decode(body) for body in self._frames.feed(data)]

    def _broken(self, error: OSError) -> DaemonUnreachable:
        return DaemonUnreachable(f"the connection to {self._path} broke: {error.strerror or error}")


def _connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            may_come = isinstance(error, FileNotFoundError | ConnectionRefusedError | BlockingIOError)
            if not may_come or time.monotonic() >= deadline:
                raise DaemonUnreachable(
                    f"no daemon answers on {path} ({error.strerror or error}); start one with: routerd",
                    socket=str(path),
                ) from error
        else:
            return connection
        time.sleep(_RETRY_SECONDS)
