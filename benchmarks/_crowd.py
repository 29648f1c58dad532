"""Many clients in one process: bare sockets on one selector, no threads, frames that were encoded before.

The processes are made by ``Crowd`` and are told over a pipe what to do; they end with it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import multiprocessing
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import msgspec

from benchmarks._descriptors import raise_limit
from benchmarks._frames import FIRST_ID
from routerd.client import core
from routerd.protocol import HEADER, FrameBuffer, Reply

_CHUNK = 1 << 16
_GREETED_TOGETHER = 128
_PATIENCE_SECONDS = 30.0
# A reply to a request whose id takes three bytes: the head, a map of two, "id", the id, and then "result" or "error".
_KEY_AT = HEADER.size + 1 + 3 + 3
_RESULT = b"\xa6result"
_LAST_ID = (1 << 16) - 1

_reply_decoder = msgspec.msgpack.Decoder(Reply)


@dataclass(frozen=True)
class Batch:
    """Requests that one client sends together, as bytes, and how many replies they get."""

    frames: bytes
    replies: int


@dataclass(frozen=True)
class Drive:
    """What to send: the batches in turn, each from a client drawn at random, ``waiting`` of them in flight at most.

    With ``interval_seconds`` a batch is due that often whatever became of the earlier ones; with 0 the next goes out when
    one is answered. A client has ``per_client`` batches in flight at most.
    """

    batches: Sequence[Batch]
    seconds: float
    waiting: int
    interval_seconds: float = 0.0
    per_client: int = 1


@dataclass
class Outcome:
    """What came of a drive; ``latencies`` are the seconds from sending a batch to its last reply."""

    answered: int = 0
    refused: int = 0
    lost: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_refusal: str = ""

    @property
    def errors(self) -> int:
        return self.refused + self.lost


@dataclass(frozen=True)
class Joined:
    """Clients that have said hello, the seconds that it took, and why there are not more."""

    clients: int
    seconds: float
    problem: str = ""


def batches_of(method: str, questions: Sequence[Any], *, together: int, count: int, seed: int = 0) -> list[Batch]:
    """``count`` batches of requests whose parameters are drawn from ``questions``. Ids differ while they are not too many."""
    draw, ids = random.Random(seed), itertools.cycle(range(FIRST_ID, _LAST_ID + 1))
    return [
        Batch(
            b"".join(core.request_frame(next(ids), method, draw.choice(questions), None) for _ in range(together)),
            together,
        )
        for _ in range(count)
    ]


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """What several crowds did at the same time, as one."""
    return Outcome(
        sum(one.answered for one in outcomes),
        sum(one.refused for one in outcomes),
        sum(one.lost for one in outcomes),
        max(one.seconds for one in outcomes),
        [latency for one in outcomes for latency in one.latencies],
        next((one.first_refusal for one in outcomes if one.first_refusal), ""),
    )


class Crowd:
    """A process of clients, told what to do. Every ``start`` is followed by one ``finish``, which gives what came of it."""

    def __init__(self, path: Path, name: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, str(path), name), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._pipe.close()
        self._process.join(_PATIENCE_SECONDS)
        self._process.kill()
        self._process.join()

    def start_joining(self, clients: int) -> None:
        self._pipe.send(clients)

    def start(self, drive: Drive) -> None:
        self._pipe.send(drive)

    def stop(self) -> None:
        """End a drive before its time; what is in flight is still waited for."""
        self._pipe.send(None)

    def finish(self) -> Any:
        """The ``Joined`` or ``Outcome`` of what was started."""
        return self._pipe.recv()

    def join(self, clients: int) -> Joined:
        self.start_joining(clients)
        joined: Joined = self.finish()
        return joined

    @contextlib.contextmanager
    def driving(self, drive: Drive) -> Iterator[Outcome]:
        """The drive goes on while the block runs; its outcome is filled in at the end."""
        outcome = Outcome()
        self.start(drive)
        try:
            yield outcome
        finally:
            self.stop()
            outcome.__dict__.update(vars(self.finish()))


def _serve(pipe: Pipe, path: str, name: str) -> None:
    raise_limit()
    gc.disable()  # a collection would count as the daemon's time
    clients = _Clients(pipe, Path(path), name)
    with contextlib.suppress(EOFError):
        while True:
            order = pipe.recv()
            if isinstance(order, Drive):
                pipe.send(clients.drive(order))
            elif order is not None:  # a drive that was told to stop when it had just ended
                pipe.send(clients.join(order))


class _Client:
    __slots__ = ("pending", "rest", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rest = b""
        self.pending: deque[list[float]] = deque()  # when each batch was sent, and how many of its replies are to come


class _Clients:
    """The process's side: its connections and one loop over them."""

    def __init__(self, pipe: Pipe, path: Path, name: str) -> None:
        self._pipe = pipe
        self._path = path
        self._hello = core.hello_frame(core.hello(name, table=False))
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ, None)
        self._all: list[_Client] = []
        self._random = random.Random(name)

    def join(self, count: int) -> Joined:
        """Connect so many more, in groups that the daemon greets together."""
        started = time.perf_counter()
        wanted, problem = len(self._all) + count, ""
        while len(self._all) < wanted and not problem:
            fresh: list[socket.socket] = []
            try:
                for _ in range(min(_GREETED_TOGETHER, wanted - len(self._all))):
                    fresh.append(self._dial())
            except OSError as error:
                problem = error.strerror or str(error)
            for connection in fresh:
                refusal = _refusal(connection)
                if refusal:
                    connection.close()
                    problem = problem or refusal
                    continue
                connection.setblocking(False)
                self._all.append(_Client(connection))
                self._selector.register(connection, selectors.EVENT_READ, self._all[-1])
        return Joined(len(self._all), time.perf_counter() - started, problem)

    def _dial(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_PATIENCE_SECONDS)
            connection.connect(str(self._path))
            connection.sendall(self._hello)
        except OSError:
            connection.close()
            raise
        return connection

    def drive(self, drive: Drive) -> Outcome:
        clock, outcome = time.perf_counter, Outcome()
        idle = self._all * drive.per_client
        batches = itertools.cycle(drive.batches)
        waiting, give_up_at = 0, math.inf
        started = due = clock()
        end = started + drive.seconds
        while waiting or give_up_at == math.inf:
            now = clock()
            if give_up_at < math.inf:
                if now >= give_up_at:
                    outcome.lost += waiting
                    break
                pause = 1.0
            elif now >= end:
                give_up_at = now + _PATIENCE_SECONDS
                continue
            else:
                while waiting < drive.waiting and idle and due <= now:
                    self._send(_draw(idle, self._random), next(batches))
                    waiting += 1
                    due = due + drive.interval_seconds if drive.interval_seconds else now
                to_come = due if waiting < drive.waiting and idle else math.inf
                pause = max(min(to_come, end) - now, 0.0)
            for key, _events in self._selector.select(min(pause, 1.0)):
                if key.data is not None:
                    waiting -= self._read(key.data, outcome, idle)
                elif self._pipe.recv() is None:
                    give_up_at = clock() + _PATIENCE_SECONDS
        outcome.seconds = clock() - started
        return outcome

    def _send(self, client: _Client, batch: Batch) -> None:
        client.pending.append([time.perf_counter(), batch.replies])
        client.socket.sendall(batch.frames)  # a batch is small, and its client's earlier ones are answered

    def _read(self, client: _Client, outcome: Outcome, idle: list[_Client]) -> int:
        """Take what has come for a client; returns how many of its batches are done."""
        data = client.socket.recv(_CHUNK)
        if not data:
            self._selector.unregister(client.socket)
            client.socket.close()
            self._all.remove(client)
            outcome.lost += sum(int(replies) for _sent, replies in client.pending)
            outcome.first_refusal = outcome.first_refusal or "the daemon closed a connection"
            return len(client.pending)
        data, start, done = client.rest + data if client.rest else data, 0, 0
        while len(data) - start >= HEADER.size:
            end = start + HEADER.size + HEADER.unpack_from(data, start)[0]
            if end > len(data):
                break
            outcome.answered += 1
            if not data.startswith(_RESULT, start + _KEY_AT):
                outcome.refused += 1
                outcome.first_refusal = outcome.first_refusal or _words(data[start + HEADER.size : end])
            first = client.pending[0]
            first[1] -= 1
            if not first[1]:
                outcome.latencies.append(time.perf_counter() - first[0])
                client.pending.popleft()
                idle.append(client)
                done += 1
            start = end
        client.rest = data[start:]
        return done


def _draw(idle: list[_Client], source: random.Random) -> _Client:
    """Take one out at random."""
    at = int(source.random() * len(idle))
    idle[at], idle[-1] = idle[-1], idle[at]
    return idle.pop()


def _refusal(connection: socket.socket) -> str:
    """Read the answer to hello; why it is none, or nothing."""
    frames = FrameBuffer(1 << 20)
    try:
        while data := connection.recv(_CHUNK):
            for body in frames.feed(data):
                return _words(body)
    except OSError as error:
        return str(error)
    return "the daemon closed the connection"


def _words(body: bytes) -> str:
    reply = _reply_decoder.decode(body)
    return "" if reply.error is None else f"{reply.error.code}: {reply.error.message}"
