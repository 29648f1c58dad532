"""What is timed is the call alone, with the arguments in their order; frames are counted however they arrive."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks import _frames as frames
from benchmarks import _harness as harness
from routerd.protocol import HEADER, Ask

ASK = Ask("linalg.gemm", {"m": 1})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that only moves when told to."""
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    yield now


def test_taking_an_argument_is_not_timed(clock: list[float]) -> None:
    def arguments() -> Iterator[float]:
        for seconds in (1.0, 2.0, 4.0):
            clock[0] += 100.0
            yield seconds

    def call(seconds: float) -> None:
        clock[0] += seconds

    given = arguments()
    measure = harness.timed_each(call, given)
    assert measure(2) == [1.0, 2.0]
    assert next(given) == 4.0


def test_a_batch_gives_one_calls_share(clock: list[float]) -> None:
    def call(seconds: float) -> None:
        clock[0] += seconds

    assert harness.timed_batches(call, [1.0, 2.0, 6.0])(2) == [3.0, 3.0]


def test_a_pipeline_ends_with_its_last_answer_though_their_sizes_differ() -> None:
    mine, theirs = socket.socketpair()
    windows, asked = 3, len(frames.decide_frame(ASK)) * frames.WINDOW
    sizes = itertools.islice(itertools.cycle((0, 700, 3)), frames.WINDOW)
    answers = b"".join(HEADER.pack(size) + bytes(size) for size in sizes)

    def serve() -> None:
        for _ in range(windows):
            left = asked
            while left:
                left -= len(theirs.recv(left))
            for start in range(0, len(answers), 1001):
                theirs.sendall(answers[start : start + 1001])

    with mine, theirs:
        server = threading.Thread(target=serve)
        server.start()
        frames.pipeline(mine, ASK, windows)
        server.join()
        mine.setblocking(False)
        with pytest.raises(BlockingIOError):
            mine.recv(1)


def test_a_round_trip_reads_one_whole_frame() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall(HEADER.pack(5) + b"12345")
        assert frames.round_trip(mine, b"question") == HEADER.size + 5
        assert theirs.recv(100) == b"question"
        theirs.close()
        with pytest.raises((EOFError, BrokenPipeError)):
            frames.round_trip(mine, b"question")
