"""The synchronous client: one request after the other, safe to share between threads, through restarts of the daemon."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Raw

from routerd.client import core, retry
from routerd.client.link import Link
from routerd.client.result import TaskResult
from routerd.client.shortcut import Shortcut
from routerd.client.table import Decider, View, decider
from routerd.errors import DaemonUnreachable, InvalidParameter, RouterdError, ShuttingDown
from routerd.protocol import Locate, Nothing, Run, Welcome
from routerd.types import Decision, Scalar

_T = TypeVar("_T")
_routers: weakref.WeakSet[Router] = weakref.WeakSet()  # those that a forked child must not share with its parent


def connect(
    path: str | Path | None = None,
    *,
    name: str | None = None,
    timeout: float = core.CONNECT_SECONDS,
    table: bool = True,
    reconnect: float = retry.RECONNECT_SECONDS,
) -> Router:
    """Connect to the daemon of this user, waiting up to ``timeout`` seconds for one that is starting.

    Args:
        path: the daemon's socket; by default ``$ROUTERD_SOCKET`` or the place where a daemon of this user listens.
        name: what policies and logs call this client; by default the program's name.
        timeout: seconds to wait for the daemon.
        table: answer ``decide`` from the daemon's decision table where that can, and run tiny work in this process where
            the daemon's policy and measurements say so. Without, the daemon is asked about everything.
        reconnect: seconds that a call waits for the next daemon when the connection is lost or the daemon shuts down,
            before it fails. What was in flight is asked again then, but for changes of policy and calibrations. 0: every
            call that loses its connection fails at once, and all after it.

    Raises:
        DaemonUnreachable: nobody answered in time.
        PermissionDenied: the daemon gives this user no role.
        LimitExceeded: the daemon has as many clients as it takes.
    """
    return Router(core.socket_path(path), core.client_name(name), timeout, table=table, reconnect=reconnect)


class Router:
    """A connection to the daemon, made again when it is lost. Use as a context manager, or call :meth:`close`.

    Threads may share it; their requests are served one after the other. It belongs to the process that made it: in a forked
    child it is closed, connect again there.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        timeout: float,
        *,
        table: bool = True,
        reconnect: float = retry.RECONNECT_SECONDS,
    ) -> None:
        self._path = path
        self._open_link = partial(Link, path, name, max(timeout, core.LEAST_HELLO_SECONDS), table=table)
        self._reconnect_seconds = reconnect
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._task_ids = retry.TaskIds()
        self._shortcut: Shortcut | None = None
        self._use(self._open_link(wait_seconds=timeout))
        _routers.add(self)

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def welcome(self) -> Welcome:
        """What the daemon said when it was last connected to."""
        return self._link.welcome

    def close(self) -> None:
        """Disconnect. Arrays stay readable; the daemon frees its side, and nothing is kept for reuse on this one."""
        self._ended.set()
        if self._shortcut is not None:
            report = self._shortcut.take_report()
            if report is not None:
                self._link.tell(report)
            self._shortcut.close()
        self._link.close()

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
        answers = self._persist(lambda link: link.pipeline("decide", asks))
        return [core.decision_decoder.decode(answer) for answer in answers]

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
        task_id = self._task_ids.next()
        return self._persist(lambda link: _run(link, workload, params, arrays, task_id))

    def empty(self, shape: int | tuple[int, ...], dtype: Any = "float64") -> np.ndarray[Any, Any]:
        """An uninitialised array in shared memory: ``run`` passes it, or a contiguous part of it, without a copy.

        When the daemon was restarted it stays as it is, and is copied from then on.
        """
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        size = core.empty_bytes(lengths, kind)
        return self._persist(lambda link: link.segments.empty(link.alloc(size), lengths, kind))

    def constant(self, array: Any) -> np.ndarray[Any, Any]:
        """A read-only copy in shared memory that can never change: ``run`` passes it, or a contiguous part, without a copy.

        Workers remember what they have found out about it, and tasks of several clients with equal ones can be joined; so it
        is for what many tasks share, such as the weights of a model. (On macOS it cannot be sealed: it saves the copy alone.)
        """
        given = core.constant_of(array)
        return self._persist(lambda link: link.segments.empty(link.constant(given), given.shape, given.dtype))

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
        """Report what was done without the daemon. Where that fails the connection has failed, and the next call mends it."""
        if shortcut.is_due and self._lock.acquire(blocking=False):  # a thread that reconnects may hold it for long
            try:
                report = shortcut.take_report()
                if report is not None:
                    with contextlib.suppress(RouterdError):
                        self._link.call("report", report)
            finally:
                self._lock.release()

    # -- connections --------------------------------------------------------------------------------------------------

    def _call(self, method: str, params: Any) -> Raw:
        return self._persist(lambda link: link.call(method, params), once=method if method in retry.ONCE else "")

    def _persist(self, attempt: Callable[[Link], _T], *, once: str = "") -> _T:
        """What ``attempt`` gives, made again with the next daemon if this one goes. ``once``: a method not to be repeated."""
        began = monotonic()
        with self._lock:
            for losses in itertools.count(1):
                link = self._connected(began, sure=bool(once))
                try:
                    return attempt(link)
                except DaemonUnreachable as error:
                    self._lose()
                    if once:
                        raise retry.not_known(once, error) from error
                    if not self._reconnect_seconds or losses >= retry.MOST_LOSSES:
                        raise
                except ShuttingDown as error:
                    if once or not self._reconnect_seconds or losses >= retry.MOST_LOSSES:
                        raise
                    link.close(error.message)
        raise AssertionError("the count has no end")

    def _connected(self, began: float, *, sure: bool = False) -> Link:
        """A connection, made again if it was lost. ``began``: since when the call waits; ``sure``: look before it is used."""
        link = self._link
        if link.is_open and (not sure or link.is_alive()):
            return link
        link.close("the daemon closed the connection")
        if self._ended.is_set() or not self._reconnect_seconds:
            raise retry.closed(self._path)
        deadline = max(began, link.lost_at) + self._reconnect_seconds
        for pause in retry.pauses():
            try:
                self._use(self._open_link())
                break
            except DaemonUnreachable as error:
                if not error.detail.get("may_come"):
                    raise
                if monotonic() + pause >= deadline:
                    raise retry.given_up(self._path, self._reconnect_seconds, link.lost_because, error) from error
            if self._ended.wait(pause):
                break
        if self._ended.is_set():
            self._link.close()
            raise retry.closed(self._path)
        return self._link

    def _use(self, link: Link) -> None:
        self._link = link
        if link.reader is None:
            return
        if self._shortcut is None:
            self._shortcut = Shortcut(link.reader)
        else:
            self._shortcut.table.renew(link.reader)

    def _lose(self) -> None:
        """The daemon is gone, and its table says nothing any more."""
        if self._shortcut is not None:
            self._shortcut.close()

    def _leave_to_parent(self) -> None:
        """Close in a forked child, where other threads are gone and may have left a lock behind."""
        self._lock, self._ended = threading.RLock(), threading.Event()
        if self._shortcut is not None:
            self._shortcut.close()
            self._shortcut = None  # what it has counted is the parent's to report
        self.close()


def _run(
    link: Link, workload: str, params: dict[str, Scalar], arrays: Mapping[str, np.ndarray[Any, Any]], task_id: str
) -> TaskResult:
    segments, staged = link.segments, list[int]()
    try:
        refs = {name: link.reference(name, one, staged) for name, one in arrays.items()}
        reuse, free = segments.give_back(in_flight=False)
        reply, descriptors = link.request("run", Run(workload, params, refs, reuse, free, task_id))
    finally:
        segments.unstage(staged)
    core.adopt(reply, descriptors, segments, output=True)
    result = core.result_decoder.decode(core.result_of(reply))
    segments.taken(result.outputs)
    return TaskResult(result, segments.results(result.outputs))


def _leave_to_parent() -> None:
    """A forked child has the parent's sockets: used by both, each would read the other's replies as its own."""
    for router in _routers:
        router._leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
