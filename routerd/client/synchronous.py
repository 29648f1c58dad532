"""The synchronous client: one connection, one request after the other, safe to share between threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from routerd.client import core
from routerd.client.arrays import Segments, whole_pages
from routerd.client.result import TaskResult
from routerd.client.shortcut import Shortcut
from routerd.client.table import Decider, View, decider
from routerd.errors import DaemonUnreachable, InvalidParameter, RouterdError
from routerd.memory import receive
from routerd.protocol import Alloc, Locate, Nothing, Reply, Run
from routerd.types import ArrayRef, Decision

_SURE_BYTES = 1 << 15  # a socket with nothing unread takes this much without waiting for its reader
_routers: weakref.WeakSet[Router] = weakref.WeakSet()  # those that a forked child must not share with its parent


def connect(
    path: str | Path | None = None,
    *,
    name: str | None = None,
    timeout: float = core.CONNECT_SECONDS,
    table: bool = True,
) -> Router:
    """Connect to the daemon of this user, waiting up to ``timeout`` seconds for one that is starting.

    Args:
        path: the daemon's socket; by default ``$ROUTERD_SOCKET`` or the place where a daemon of this user listens.
        name: what policies and logs call this client; by default the program's name.
        timeout: seconds to wait for the daemon.
        table: answer ``decide`` from the daemon's decision table where that can, and run tiny work in this process where
            the daemon's policy and measurements say so. Without, the daemon is asked about everything.

    Raises:
        DaemonUnreachable: nobody answered in time.
        PermissionDenied: the daemon gives this user no role.
    """
    return Router(core.socket_path(path), core.client_name(name), timeout, table=table)


class Router:
    """A connection to the daemon. Use as a context manager, or call :meth:`close`.

    It belongs to the process that made it: in a forked child it is closed, connect again there.
    """

    def __init__(self, path: Path, name: str, timeout: float, *, table: bool = True) -> None:
        self._path = path
        self._socket = _connect(path, timeout)
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._replies = core.ReplyStream()
        self._segments = Segments(0)
        self._shortcut: Shortcut | None = None
        self._socket.settimeout(max(timeout, 1.0))  # a daemon that is stopped accepts, but does not answer
        reply, descriptors = self._exchange(core.hello_frame(name, table=table), {0})[0]
        self._socket.settimeout(None)
        try:
            self.welcome = core.welcome_decoder.decode(core.result_of(reply))
            reader = core.map_table(reply, descriptors, self.welcome)
        except BaseException:
            self._socket.close()
            raise
        self._segments = Segments(self.welcome.limits.inline_array_bytes)
        self._shortcut = None if reader is None else Shortcut(reader)
        _routers.add(self)

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. Arrays stay readable; the daemon frees its side, and nothing is kept for reuse on this one."""
        if self._shortcut is not None:
            self._tell_last(self._shortcut)
        self._disconnect()

    def _disconnect(self) -> None:
        """Close without another word: where half a request was sent, it would be taken for the rest of that."""
        if self._shortcut is not None:
            self._shortcut.close()
        self._socket.close()
        self._replies.close()
        self._segments = Segments(0)

    def decide(self, workload: str, **arguments: Any) -> Decision:
        """Where the task should run, and why. Arrays may be given by their shape: ``returns=(1250, 5000)``.

        Raises the ``BadRequest`` kinds for a bad task and ``NoCandidate`` if nothing may run it.
        """
        if self._shortcut is not None:
            decision = self._shortcut.decide(workload, arguments, self._locate)
            if decision is not None:
                self._tell_if_due(self._shortcut)
                return decision
        return core.decision_decoder.decode(self._call("decide", core.ask_of(workload, arguments)))

    def decider(self, workload: str) -> Decider:
        """A callable for hot loops: ``decide(work)``, or ``decide(**parameters)``, gives a decision.

        By its work alone a task is decided from the decision table in well under a microsecond. The figures of such a
        decision are those of the middle of a range of work (a factor of 4 at most) around the task's; the choice is exact.

        Raises ``UnknownWorkload``.
        """
        if self._shortcut is None:
            self._call("table", Locate(workload))  # whether there is such a workload
            return self._decide_work_or_whole(workload)
        shortcut, view = self._shortcut, self._shortcut.table.view(workload)
        self._locate(view)

        def slow(work: float) -> Decision:
            self._tell_if_due(shortcut)
            self._locate(view)
            return view.by_work(work) or self._decide_work(workload, work)

        return decider(view, slow, self._decide_work_or_whole(workload))

    def decide_many(self, tasks: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Decision]:
        """Several decisions in one go: all questions are sent before the first answer is read.

        Args:
            tasks: pairs of workload name and arguments, as for :meth:`decide`.
        """
        asks = [core.ask_of(workload, arguments) for workload, arguments in tasks]
        with self._lock:
            numbers = [next(self._ids) for _ in asks]
            limit = self.welcome.limits.max_frame_bytes
            frames = [
                core.request_frame(number, "decide", ask, limit) for number, ask in zip(numbers, asks, strict=True)
            ]
            replies = self._exchange(b"".join(frames), set(numbers))
        answers = {reply.id: reply for reply, _descriptors in replies}
        return [core.decision_decoder.decode(core.result_of(answers[number])) for number in numbers]

    def run(self, workload: str, **arguments: Any) -> TaskResult:
        """Run a task on the hardware that the daemon chooses and wait for its outputs.

        Scalars are parameters (``num_simulations=…``, also ``tolerance``, ``deadline_ms``, ``priority``), arrays are
        inputs; an array from :meth:`empty` is passed without a copy.
        """
        params, arrays = core.split_arguments(workload, arguments)
        if self._shortcut is not None:
            local = self._shortcut.run(workload, params, arrays, self._locate)
            if local is not None:
                self._tell_if_due(self._shortcut)
                return local
        with self._lock:
            segments, staged = self._segments, list[int]()
            try:
                refs = {name: self._reference(name, one, staged) for name, one in arrays.items()}
                reuse, free = segments.give_back(in_flight=False)
                reply, descriptors = self._request("run", Run(workload, params, refs, reuse, free))
            finally:
                segments.unstage(staged)
            core.adopt(reply, descriptors, segments, output=True)
            result = core.result_decoder.decode(core.result_of(reply))
            segments.taken(result.outputs)
            return TaskResult(result, segments.results(result.outputs))

    def empty(self, shape: int | tuple[int, ...], dtype: Any = "float64") -> np.ndarray[Any, Any]:
        """An uninitialised array in shared memory: ``run`` passes it, or a contiguous part of it, without a copy."""
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        with self._lock:
            return self._segments.empty(self._alloc(core.empty_bytes(lengths, kind)), lengths, kind)

    def price_option_metal(
        self, *, spot_price: float, strike_price: float, volatility: float, num_simulations: int
    ) -> TaskResult:
        """Price a European call (one year, rate 0.05) by Monte Carlo; ``price`` and ``standard_error``.

        The name says Metal; the daemon places it on the hardware that is fastest here.
        """
        return self.run(
            "options.monte_carlo_european",
            spot_price=spot_price,
            strike_price=strike_price,
            volatility=volatility,
            num_simulations=num_simulations,
        )

    def call(self, method: str, params: Any = None) -> Any:
        """Any method of the protocol, its result as plain data. ``params`` is a mapping or a protocol struct."""
        return msgspec.msgpack.decode(self._call(method, Nothing() if params is None else params))

    def _decide_work(self, workload: str, work: float) -> Decision:
        return core.decision_decoder.decode(self._call("decide", core.ask_of_work(workload, work)))

    def _decide_work_or_whole(self, workload: str) -> Decider:
        def decide(work: float | None = None, /, **parameters: Any) -> Decision:
            if work is not None and parameters:
                raise InvalidParameter("give the work, or the task's parameters, not both", parameter="work")
            return self.decide(workload, **parameters) if work is None else self._decide_work(workload, work)

        return decide

    def _locate(self, view: View) -> None:
        if view.wants_place():
            view.place(core.located_decoder.decode(self._call("table", Locate(view.workload))))

    def _tell_if_due(self, shortcut: Shortcut) -> None:
        """Report what was done without the daemon. Where that fails the connection has failed, and the next call says so."""
        report = shortcut.take_report() if shortcut.is_due else None
        if report is not None:
            with contextlib.suppress(RouterdError):
                self._call("report", report)

    def _tell_last(self, shortcut: Shortcut) -> None:
        """Report what is still to be told, without waiting for a daemon that may have stopped; it is a count, no promise."""
        report = shortcut.take_report() if self._socket.fileno() >= 0 else None
        if report is not None:
            frame = core.request_frame(next(self._ids), "report", report, None)
            with contextlib.suppress(OSError):
                self._socket.send(frame, socket.MSG_DONTWAIT)

    def _reference(self, name: str, array: np.ndarray[Any, Any], staged: list[int]) -> ArrayRef:
        ref = self._segments.locate(name, array)
        if ref is not None:
            return ref
        number = self._segments.take_staging(array.nbytes)
        if number is None:
            number = self._alloc(whole_pages(array.nbytes))
        staged.append(number)
        return self._segments.fill(number, array)

    def _alloc(self, size: int) -> int:
        reply, descriptors = self._request("alloc", Alloc(size))
        core.adopt(reply, descriptors, self._segments, output=False)
        return core.segment_decoder.decode(core.result_of(reply)).segment

    def _call(self, method: str, params: Any) -> Raw:
        with self._lock:
            reply, _descriptors = self._request(method, params)
        return core.result_of(reply)

    def _request(self, method: str, params: Any) -> tuple[Reply, list[int]]:
        number = next(self._ids)
        frame = core.request_frame(number, method, params, self.welcome.limits.max_frame_bytes)
        return self._exchange(frame, {number})[0]

    def _exchange(self, frames: bytes, numbers: set[int]) -> list[tuple[Reply, list[int]]]:
        """Send requests and return their replies. Reading goes on while sending, or a long pipeline would lock up."""
        if self._socket.fileno() < 0:
            raise DaemonUnreachable(f"the connection to {self._path} is closed; connect again")
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
        except OSError as error:
            self._disconnect()
            raise DaemonUnreachable(f"the connection to {self._path} broke: {error.strerror or error}") from error
        except BaseException:  # an interrupt (Ctrl-C) leaves half a request or a reply that nobody reads: start afresh
            self._disconnect()
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


def _leave_to_parent() -> None:
    """A forked child has the parent's sockets: used by both, each would read the other's replies as its own."""
    for router in _routers:
        if router._shortcut is not None:
            router._shortcut.close()
            router._shortcut = None  # what it has counted is the parent's to report
        router.close()


os.register_at_fork(after_in_child=_leave_to_parent)


def _connect(path: Path, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return core.open_socket(path)
        except DaemonUnreachable as error:
            if not error.detail.get("may_come") or time.monotonic() >= deadline:
                raise
        time.sleep(core.RETRY_SECONDS)
