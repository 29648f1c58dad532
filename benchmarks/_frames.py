"""Questions as bytes: what a client does that encodes a frame once and skips the answers."""

from __future__ import annotations

import socket

from benchmarks._harness import PrivateDaemon
from routerd.client import core
from routerd.protocol import HEADER, Ask

FIRST_ID = 1 << 8  # request ids from here to 65535 take three bytes, so that all frames have one size
WINDOW = 128  # questions sent before their answers are read; two windows are on their way at a time

_CHUNK = 1 << 16


def open_raw(daemon: PrivateDaemon) -> socket.socket:
    """A connection that has said hello and is otherwise left to the caller."""
    connection = core.open_socket(daemon.socket)
    connection.sendall(core.hello_frame(core.hello("benchmark", table=False)))
    _read_frame(connection)
    return connection


def decide_frame(ask: Ask, number: int = FIRST_ID) -> bytes:
    """The question as one frame."""
    return core.request_frame(number, "decide", ask, None)


def round_trip(connection: socket.socket, frame: bytes) -> int:
    """Ask, and read the answer without looking at it; returns the bytes of its frame."""
    connection.sendall(frame)
    return _read_frame(connection)


def pipeline(connection: socket.socket, ask: Ask, windows: int) -> None:
    """Ask ``windows`` times ``WINDOW`` questions, and skip the answers as they come."""
    window = b"".join(decide_frame(ask, FIRST_ID + number) for number in range(WINDOW))
    sent = answered = 0
    rest = b""
    while answered < windows * WINDOW:
        while sent < windows and answered >= (sent - 1) * WINDOW:
            connection.sendall(window)
            sent += 1
        data = connection.recv(_CHUNK)
        if not data:
            raise EOFError("the daemon closed the connection")
        count, rest = _whole_frames(rest + data)
        answered += count


def _read_frame(connection: socket.socket) -> int:
    """Answers come one at a time, so that a frame is complete when as much has come as its head says."""
    data = connection.recv(_CHUNK)
    while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[0]:
        more = connection.recv(_CHUNK)
        if not more:
            raise EOFError("the daemon closed the connection")
        data += more
    return len(data)


def _whole_frames(data: bytes) -> tuple[int, bytes]:
    """How many frames the bytes begin with, and what is left of them."""
    count = start = 0
    while len(data) - start >= HEADER.size:
        end = start + HEADER.size + HEADER.unpack_from(data, start)[0]
        if end > len(data):
            break
        count, start = count + 1, end
    return count, data[start:]
