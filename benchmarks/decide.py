"""What a decision over the socket costs: one at a time, repeated and new, and as many as possible.

``python -m benchmarks.decide [--quick] [--awake] [--json FILE] [--markdown]``
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from statistics import median

from benchmarks._harness import (
    MICROSECOND,
    Options,
    PrivateDaemon,
    Subject,
    interleave,
    over_blocks,
    quiet_machine,
    timed,
)
from benchmarks._peers import echo, read_exactly
from benchmarks._report import Figure, publish
from routerd.client import Router, core
from routerd.protocol import HEADER, Ask

MEDIAN_MICROSECONDS, TAIL_MICROSECONDS, RATE = 15.0, 60.0, 200_000.0

_WORKLOAD, _SIDE = "linalg.gemm", 64
_FIRST_ID = 1 << 8  # request ids from here to 65535 take three bytes, so that all frames have one size
_WINDOW = 128  # questions sent before their answers are read; two windows are on their way at a time


def main() -> None:
    options = Options(str(__doc__))
    blocks, calls, windows = (2, 20, 4) if options.quick else (20, 250, 24)
    with PrivateDaemon() as daemon:
        daemon.start()
        if not options.quick:
            daemon.calibrate(_WORKLOAD)
        with quiet_machine(options) as conditions, daemon.connect() as router, _raw(daemon) as raw:
            frame, reply_bytes = _frame(_FIRST_ID), _reply_bytes(raw)
            with echo("echo", len(frame), reply_bytes) as blocking, echo("uvloop", len(frame), reply_bytes) as looped:
                single = interleave(
                    {
                        "repeated": timed(lambda: router.decide(_WORKLOAD, m=_SIDE, k=_SIDE, n=_SIDE)),
                        "new": _new_questions(router),
                        "raw": timed(lambda: _round_trip(raw, frame, reply_bytes)),
                        "blocking": timed(lambda: _round_trip(blocking, frame, reply_bytes)),
                        "uvloop": timed(lambda: _round_trip(looped, frame, reply_bytes)),
                    },
                    blocks=blocks,
                    calls=calls,
                )
                questions = [(_WORKLOAD, {"m": _SIDE, "k": _SIDE, "n": _SIDE})] * 2 * _WINDOW
                together = interleave(
                    {
                        "raw": timed(lambda: _pipeline(raw, windows, reply_bytes)),
                        "uvloop": timed(lambda: _pipeline(looped, windows, reply_bytes)),
                        "library": timed(lambda: router.decide_many(questions)),
                    },
                    blocks=max(blocks // 4, 1),
                    calls=4,
                )
    figures = [
        *_latency("repeated question, client library", single["repeated"], single["blocking"], targeted=True),
        *_latency("new question every time, client library", single["new"], single["blocking"], targeted=True),
        *_latency("repeated question, bare frames", single["raw"], single["blocking"]),
        *_latency("peer: uvloop server that answers with zeros", single["uvloop"], single["blocking"]),
        *_latency("floor: blocking socket echo", single["blocking"]),
        _rate("pipelined, bare frames", together["raw"], windows * _WINDOW, together["uvloop"], RATE),
        _rate("pipelined, decide_many", together["library"], len(questions)),
        _rate("floor: pipelined, uvloop server that answers with zeros", together["uvloop"], windows * _WINDOW),
    ]
    sizes = {"frames": f"{len(frame)} bytes there, {reply_bytes} bytes back", "blocks": f"{blocks} of {calls} calls"}
    publish("decide", figures, {**conditions, **sizes}, options)


def _raw(daemon: PrivateDaemon) -> socket.socket:
    """A connection that has said hello and is otherwise left to the caller."""
    connection = core.open_socket(daemon.socket)
    connection.sendall(core.hello_frame("benchmark"))
    _read_frame(connection)
    return connection


def _frame(number: int) -> bytes:
    ask = Ask(_WORKLOAD, {"m": _SIDE, "k": _SIDE, "n": _SIDE})
    return core.request_frame(number, "decide", ask, None)


def _reply_bytes(connection: socket.socket) -> int:
    """Size of the answer's frame, which is the same every time."""
    connection.sendall(_frame(_FIRST_ID))
    return _read_frame(connection)


def _read_frame(connection: socket.socket) -> int:
    (length,) = HEADER.unpack(read_exactly(connection, HEADER.size))
    read_exactly(connection, length)
    return HEADER.size + int(length)


def _round_trip(connection: socket.socket, frame: bytes, reply_bytes: int) -> None:
    connection.sendall(frame)
    read_exactly(connection, reply_bytes)


def _new_questions(router: Router) -> Subject:
    """Every question has a work that was never asked about; making it is not timed."""
    numbers: Iterator[int] = itertools.count(1)

    def measure(count: int) -> list[float]:
        samples = []
        for number in itertools.islice(numbers, count):
            started = time.perf_counter()
            router.decide(_WORKLOAD, m=_SIDE, k=_SIDE, n=number)
            samples.append(time.perf_counter() - started)
        return samples

    return measure


def _pipeline(connection: socket.socket, windows: int, reply_bytes: int) -> None:
    window = b"".join(_frame(_FIRST_ID + number) for number in range(_WINDOW))
    connection.sendall(window)
    for number in range(windows):
        if number + 1 < windows:
            connection.sendall(window)
        _skip(connection, _WINDOW * reply_bytes)


def _skip(connection: socket.socket, size: int) -> None:
    while size > 0:
        read = connection.recv_into(_scratch, min(size, len(_scratch)))
        if read == 0:
            raise EOFError("the daemon closed the connection")
        size -= read


_scratch = bytearray(1 << 16)


def _latency(
    name: str, blocks: list[list[float]], floor: list[list[float]] | None = None, *, targeted: bool = False
) -> Iterator[Figure]:
    for label, share, target in (("p50", 0.5, MEDIAN_MICROSECONDS), ("p99", 0.99, TAIL_MICROSECONDS)):
        yield Figure(
            f"{name}, {label}",
            over_blocks(blocks, share) * MICROSECOND,
            "µs",
            target if targeted else None,
            floor=None if floor is None else over_blocks(floor, share) * MICROSECOND,
        )


def _rate(
    name: str,
    blocks: list[list[float]],
    questions: int,
    floor: list[list[float]] | None = None,
    target: float | None = None,
) -> Figure:
    return Figure(
        name,
        questions / median(median(block) for block in blocks),
        "/s",
        target,
        at_least=True,
        floor=None if floor is None else questions / median(median(block) for block in floor),
    )


if __name__ == "__main__":
    main()
