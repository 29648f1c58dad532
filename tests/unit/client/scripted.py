"""Daemons of a few lines, on a thread: each connection is served by the next of several scenes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Raw, msgpack

from routerd.errors import RouterdError
from routerd.protocol import FrameBuffer, Limits, Reply, Request, Welcome, encode, encode_frame, failure

LIMITS = Limits(1 << 24, 8, 8, 1 << 30, 1 << 30, 1 << 23)


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = FrameBuffer(1 << 24)
        self._requests: list[Request] = []

    def request(self) -> Request | None:
        """The next request; ``None`` when the client has left."""
        while not self._requests:
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            self._requests += [msgpack.decode(body, type=Request) for body in self._frames.feed(data)]
        return self._requests.pop(0)

    def answer(self, request_id: int, result: Any = None, error: RouterdError | None = None) -> None:
        reply = Reply(request_id, Raw(encode(result))) if error is None else Reply(request_id, error=failure(error))
        self._socket.sendall(encode_frame(reply))

    def greet(self) -> None:
        """Take hello and welcome the client."""
        hello = self.request()
        assert hello is not None
        assert hello.method == "hello"
        self.answer(hello.id, Welcome(1, "", "admin", LIMITS))


Scene = Callable[[Peer], None]


@contextlib.contextmanager
def daemons(path: Path, *scenes: Scene) -> Iterator[list[BaseException]]:
    """Serve one connection after the other; what a scene raised is in the list, and fails the test at the end."""
    problems: list[BaseException] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10.0)

        def serve() -> None:
            try:
                for scene in scenes:
                    connection, _address = listener.accept()
                    with connection:
                        scene(Peer(connection))
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield problems
        finally:
            thread.join(15.0)
    assert problems == []
    assert not thread.is_alive()


def leaves(peer: Peer) -> None:
    """Greet, take a request, and be gone without a word."""
    peer.greet()
    peer.request()


def echoes(peer: Peer) -> None:
    """Greet, and answer every request with its method."""
    peer.greet()
    while (request := peer.request()) is not None:
        peer.answer(request.id, request.method)


def refuses(error: RouterdError) -> Scene:
    """Greet, and refuse every request."""

    def scene(peer: Peer) -> None:
        peer.greet()
        while (request := peer.request()) is not None:
            peer.answer(request.id, error=error)

    return scene


def turns_away(error: RouterdError) -> Scene:
    """Say why not, before anything is asked, and hang up."""
    return lambda peer: peer.answer(0, error=error)


def is_silent(peer: Peer) -> None:
    """Accept and say nothing until the client leaves."""
    while peer.request() is not None:
        pass
