"""The peers' processes: what a daemon that did nothing would cost, and the usual ways to compute elsewhere.

Run as ``python -m benchmarks._peers ROLE …`` with inherited descriptors; each ends with its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from routerd.memory import create_segment, map_segment
from routerd.protocol import HEADER

_SECONDS = struct.Struct("<d")


def product(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """The product and the seconds it took: what a process pool runs."""
    started = time.perf_counter()
    c = np.matmul(a, b)
    return c, time.perf_counter() - started


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes. Raises ``EOFError`` where the stream ends."""
    data = connection.recv(size)
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


@contextlib.contextmanager
def echo(role: str, request_bytes: int, reply_bytes: int) -> Iterator[socket.socket]:
    """A process that answers every request of that size with a frame of that many bytes; ``role``: ``echo`` or ``uvloop``."""
    mine, theirs = socket.socketpair()
    with mine, theirs, _process(role, [theirs], [request_bytes, reply_bytes]):
        theirs.close()
        yield mine


@contextlib.contextmanager
def relay(rows: int, request_bytes: int, reply_bytes: int) -> Iterator[tuple[socket.socket, np.ndarray[Any, Any]]]:
    """A relay and behind it a worker that multiplies ``rows`` numbers in shared memory; the socket and the input array."""
    mine, front = socket.socketpair()
    back, behind = socket.socketpair()
    size = rows * 8
    segments = [create_segment(size), create_segment(size)]
    a = np.frombuffer(map_segment(segments[0], size, writable=True)).reshape(rows, 1)
    sizes = [request_bytes, reply_bytes]
    try:
        with (
            mine, front, back, behind,
            _process("relay", [front, back], sizes),
            _process("worker", [behind], [*sizes, *segments, rows], segments),
        ):  # fmt: skip
            for given in (front, back, behind):
                given.close()
            yield mine, a
            mine.close()
    finally:
        for segment in segments:
            os.close(segment)


def ask_relay(connection: socket.socket, request: bytes, reply_bytes: int) -> float:
    """One round trip; returns the seconds that the worker's product took."""
    connection.sendall(request)
    seconds: float = _SECONDS.unpack_from(read_exactly(connection, reply_bytes))[0]
    return seconds


@contextlib.contextmanager
def _process(
    role: str, sockets: Sequence[socket.socket], numbers: Sequence[int], more: Sequence[int] = ()
) -> Iterator[None]:
    descriptors = [one.fileno() for one in sockets]
    command = [sys.executable, "-m", "benchmarks._peers", role, *map(str, (*descriptors, *numbers))]
    process = subprocess.Popen(command, pass_fds=(*descriptors, *more))
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _echo(descriptor: int, request_bytes: int, reply_bytes: int) -> None:
    connection, reply = socket.socket(fileno=descriptor), _empty_frame(reply_bytes)
    while True:
        read_exactly(connection, request_bytes)
        connection.sendall(reply)


def _uvloop(descriptor: int, request_bytes: int, reply_bytes: int) -> None:
    import uvloop

    reply = _empty_frame(reply_bytes)

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport
            self._read = 0

        def data_received(self, data: bytes) -> None:
            whole, self._read = divmod(self._read + len(data), request_bytes)
            self._transport.write(reply * whole)

        def connection_lost(self, exc: Exception | None) -> None:
            del exc
            ended.set()

    async def serve() -> None:
        await asyncio.get_running_loop().create_unix_connection(Echo, sock=socket.socket(fileno=descriptor))
        await ended.wait()

    ended = asyncio.Event()
    uvloop.run(serve())


def _empty_frame(size: int) -> bytes:
    """A frame of the protocol that is complete and says nothing."""
    return HEADER.pack(size - HEADER.size) + bytes(size - HEADER.size)


def _relay(front: int, back: int, request_bytes: int, reply_bytes: int) -> None:
    client, worker = socket.socket(fileno=front), socket.socket(fileno=back)
    while True:
        worker.sendall(read_exactly(client, request_bytes))
        client.sendall(read_exactly(worker, reply_bytes))


def _worker(descriptor: int, request_bytes: int, reply_bytes: int, source: int, target: int, rows: int) -> None:
    connection = socket.socket(fileno=descriptor)
    a = np.frombuffer(map_segment(source, rows * 8, writable=False)).reshape(rows, 1)
    c = np.frombuffer(map_segment(target, rows * 8, writable=True)).reshape(rows, 1)
    b, rest = np.full((1, 1), 2.0), bytes(reply_bytes - _SECONDS.size)
    while True:
        read_exactly(connection, request_bytes)
        started = time.perf_counter()
        np.matmul(a, b, out=c)
        connection.sendall(_SECONDS.pack(time.perf_counter() - started) + rest)


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {"echo": _echo, "uvloop": _uvloop, "relay": _relay, "worker": _worker}
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        roles[sys.argv[1]](*map(int, sys.argv[2:]))
