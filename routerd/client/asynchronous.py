"""The asyncio client: any number of requests at once, through restarts of the daemon."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Raw

from routerd.client import core, retry
from routerd.client.result import TaskResult
from routerd.client.shortcut import Shortcut
from routerd.client.stream import Stream
from routerd.client.table import View
from routerd.errors import DaemonUnreachable, InvalidParameter, ShuttingDown
from routerd.protocol import Locate, Nothing, Welcome
from routerd.types import Decision

_T = TypeVar("_T")


class AsyncRouter:
    """A connection to the daemon for asyncio, made again when it is lost. Made by :func:`connect`; belongs to its loop."""

    def __init__(self, path: Path, name: str, hello_seconds: float, *, table: bool, reconnect: float) -> None:
        self._path = path
        self._hello = core.hello(name, table=table)
        self._hello_seconds = hello_seconds
        self._reconnect_seconds = reconnect
        self._loop = asyncio.get_running_loop()
        self._task_ids = retry.TaskIds()
        self._shortcut: Shortcut | None = None
        self._renewing: asyncio.Task[Stream] | None = None
        self._open = True

    async def __aenter__(self) -> AsyncRouter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def welcome(self) -> Welcome:
        """What the daemon said when it was last connected to."""
        return self._stream.welcome

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent, perhaps after connecting again."""
        return self._open and (self._reconnect_seconds > 0.0 or self._stream.is_usable)

    async def close(self) -> None:
        """Disconnect. Requests in flight fail; arrays stay readable."""
        if not self._open:
            return
        if self._shortcut is not None:
            self._report(self._shortcut)
            self._shortcut.close()
        self._open = False
        if self._renewing is not None:
            self._renewing.cancel()
        self._stream.close("closed by this client")

    async def decide(self, workload: str, **arguments: Any) -> Decision:
        """See :meth:`routerd.client.Router.decide`."""
        if self._shortcut is not None:
            question = self._shortcut.table.question(workload, arguments)
            if question is not None:
                view = self._shortcut.table.view(workload)
                await self._locate(view)
                decision = view.by_question(question)
                if decision is not None:
                    self._report_if_due(self._shortcut)
                    return decision
        return core.decision_decoder.decode(await self._call("decide", core.ask_of(workload, arguments)))

    async def run(self, workload: str, **arguments: Any) -> TaskResult:
        """See :meth:`routerd.client.Router.run`. Input arrays must not change until the result is there.

        A call that is cancelled, by a timeout for instance, takes its task back from the daemon.
        """
        params, arrays = core.split_arguments(workload, arguments)
        if self._shortcut is not None:
            view = self._shortcut.local.view(workload)
            if view is not None:
                await self._locate(view)
                local = self._shortcut.local.run(view, params, arrays)
                if local is not None:
                    self._report_if_due(self._shortcut)
                    return local
        task_id = self._task_ids.next()
        return await self._persist(lambda stream: stream.run(workload, params, arrays, task_id))

    def decider(self, workload: str) -> Callable[..., Awaitable[Decision]]:
        """A coroutine function for hot loops: ``await decide(work)``. See :meth:`routerd.client.Router.decider`."""
        view = None if self._shortcut is None else self._shortcut.table.view(workload)

        async def decide(work: float | None = None, /, **parameters: Any) -> Decision:
            if work is None:
                return await self.decide(workload, **parameters)
            if parameters:
                raise InvalidParameter("give the work, or the task's parameters, not both", parameter="work")
            if view is not None:
                await self._locate(view)
                decision = view.by_work(work)
                if decision is not None:
                    if self._shortcut is not None:
                        self._report_if_due(self._shortcut)
                    return decision
            return core.decision_decoder.decode(await self._call("decide", core.ask_of_work(workload, work)))

        return decide

    async def empty(self, shape: int | tuple[int, ...], dtype: Any = "float64") -> np.ndarray[Any, Any]:
        """See :meth:`routerd.client.Router.empty`."""
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        size = core.empty_bytes(lengths, kind)

        async def attempt(stream: Stream) -> np.ndarray[Any, Any]:
            return stream.segments.empty(await stream.alloc(size), lengths, kind)

        return await self._persist(attempt)

    async def constant(self, array: Any) -> np.ndarray[Any, Any]:
        """See :meth:`routerd.client.Router.constant`."""
        given = core.constant_of(array)

        async def attempt(stream: Stream) -> np.ndarray[Any, Any]:
            return stream.segments.empty(await stream.constant(given), given.shape, given.dtype)

        return await self._persist(attempt)

    async def price_option_metal(
        self, *, spot_price: float, strike_price: float, volatility: float, num_simulations: int
    ) -> TaskResult:
        """See :meth:`routerd.client.Router.price_option_metal`."""
        return await self.run(
            "options.monte_carlo_european",
            spot_price=spot_price,
            strike_price=strike_price,
            volatility=volatility,
            num_simulations=num_simulations,
        )

    async def call(self, method: str, params: Any = None) -> Any:
        """See :meth:`routerd.client.Router.call`."""
        return msgspec.msgpack.decode(await self._call(method, Nothing() if params is None else params))

    async def _locate(self, view: View) -> None:
        if view.wants_place():
            view.place(core.located_decoder.decode(await self._call("table", Locate(view.workload))))

    def _report_if_due(self, shortcut: Shortcut) -> None:
        if shortcut.is_due:
            self._report(shortcut)

    def _report(self, shortcut: Shortcut) -> None:
        """Tell the daemon what was done without it."""
        report = shortcut.take_report() if self._stream.is_usable else None
        if report is not None:
            self._stream.tell(report)

    # -- connections --------------------------------------------------------------------------------------------------

    async def _call(self, method: str, params: Any) -> Raw:
        once = method if method in retry.ONCE else ""
        return await self._persist(lambda stream: stream.call(method, params), once=once)

    async def _persist(self, attempt: Callable[[Stream], Awaitable[_T]], *, once: str = "") -> _T:
        """What ``attempt`` gives, made again with the next daemon if this one goes. ``once``: a method not to be repeated."""
        for losses in itertools.count(1):
            stream = self._stream if self._open and self._stream.is_usable else await self._connected()
            try:
                return await attempt(stream)
            except DaemonUnreachable as error:
                self._lose(stream)
                if once:
                    raise retry.not_known(once, error) from error
                if not self._reconnect_seconds or losses >= retry.MOST_LOSSES:
                    raise
            except ShuttingDown:
                if once or not self._reconnect_seconds or losses >= retry.MOST_LOSSES:
                    raise
                stream.retire()
        raise AssertionError("the count has no end")

    async def _connected(self) -> Stream:
        """A connection in place of the lost one. Whoever needs it waits for the same."""
        if not self._open or not self._reconnect_seconds:
            raise retry.closed(self._path)
        if self._renewing is None or self._renewing.done():
            self._renewing = self._loop.create_task(self._renew(self._stream.lost_because))
            self._renewing.add_done_callback(_seen)
        try:
            return await asyncio.shield(self._renewing)
        except asyncio.CancelledError:
            if self._open:
                raise
            raise retry.closed(self._path) from None

    async def _renew(self, why: str) -> Stream:
        deadline = self._loop.time() + self._reconnect_seconds
        for pause in retry.pauses():
            try:
                return await self.greet(core.open_socket(self._path))
            except DaemonUnreachable as error:
                if not error.detail.get("may_come"):
                    raise
                if self._loop.time() + pause >= deadline:
                    raise retry.given_up(self._path, self._reconnect_seconds, why, error) from error
            await asyncio.sleep(pause)
        raise AssertionError("pauses have no end")

    async def greet(self, connection: socket.socket) -> Stream:
        """Exchange hello on this connection and use it from now on. Raises what the daemon refuses with."""
        stream = Stream(self._path, connection)
        try:
            await stream.greet(self._hello, self._hello_seconds)
        except BaseException:
            stream.close("the daemon did not welcome this client")
            raise
        self._stream = stream
        if stream.reader is not None:
            if self._shortcut is None:
                self._shortcut = Shortcut(stream.reader)
            else:
                self._shortcut.table.renew(stream.reader)
        return stream

    def _lose(self, stream: Stream) -> None:
        """The daemon is gone, and its table says nothing any more."""
        if stream is self._stream and self._shortcut is not None:
            self._shortcut.close()


def _seen(renewing: asyncio.Task[Stream]) -> None:
    """If nobody waits any more, a failure to connect is no fault."""
    if not renewing.cancelled():
        renewing.exception()


def connect(
    path: str | Path | None = None,
    *,
    name: str | None = None,
    timeout: float = core.CONNECT_SECONDS,
    table: bool = True,
    reconnect: float = retry.RECONNECT_SECONDS,
) -> Connecting:
    """The asyncio twin of :func:`routerd.connect`: ``async with connect() as router``, or ``router = await connect()``."""
    return Connecting(core.socket_path(path), core.client_name(name), timeout, table=table, reconnect=reconnect)


class Connecting(Awaitable[AsyncRouter]):
    """A connection to be made: await it for the router, or enter it and have the router closed at the end."""

    def __init__(self, path: Path, name: str, timeout: float, *, table: bool, reconnect: float) -> None:
        self._path, self._name, self._timeout, self._table = path, name, timeout, table
        self._reconnect = reconnect

    def __await__(self) -> Generator[Any, None, AsyncRouter]:
        return self._connect().__await__()

    async def __aenter__(self) -> AsyncRouter:
        self._router = await self
        return self._router

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._router.close()

    async def _connect(self) -> AsyncRouter:
        hello_seconds = max(self._timeout, core.LEAST_HELLO_SECONDS)
        router = AsyncRouter(self._path, self._name, hello_seconds, table=self._table, reconnect=self._reconnect)
        await router.greet(await _open(self._path, self._timeout))
        return router


async def _open(path: Path, timeout: float) -> socket.socket:
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        try:
            return core.open_socket(path)
        except DaemonUnreachable as error:
            if not error.detail.get("may_come") or asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(core.RETRY_SECONDS)
