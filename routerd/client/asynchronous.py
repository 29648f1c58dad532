"""The asyncio client: one connection, any number of requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable, Callable, Generator
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
from routerd.client.table import View
from routerd.errors import DaemonUnreachable, InvalidParameter, RouterdError
from routerd.memory import receive
from routerd.outbox import Outbox, close_all
from routerd.protocol import Alloc, Locate, Nothing, Reply, Run
from routerd.types import ArrayRef, Decision


class AsyncRouter:
    """A connection to the daemon for asyncio. Made by :func:`connect`; belongs to the loop it was made in."""

    def __init__(self, path: Path, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._path = path
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(connection, self._fail)
        self._replies = core.ReplyStream()
        self._waiting: dict[int, asyncio.Future[tuple[Reply, list[int]]]] = {}
        self._ids = itertools.count(1)
        self._open = True
        self._segments = Segments(0)
        self._shortcut: Shortcut | None = None
        self._loop.add_reader(connection, self._readable)

    async def __aenter__(self) -> AsyncRouter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def greet(self, name: str, *, table: bool) -> None:
        """Exchange hello. Raises what the daemon refuses with."""
        reply, descriptors = await self._send(0, core.hello_frame(name, table=table))
        self.welcome = core.welcome_decoder.decode(core.result_of(reply))
        reader = core.map_table(reply, descriptors, self.welcome)
        self._shortcut = None if reader is None else Shortcut(reader)
        self._segments = Segments(self.welcome.limits.inline_array_bytes)
        self._turns = asyncio.Semaphore(self.welcome.limits.max_in_flight)

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._open

    async def close(self) -> None:
        """Disconnect. Requests in flight fail; arrays stay readable."""
        if self._shortcut is not None:
            self._report(self._shortcut)
        self._fail("closed by this client")

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
        """See :meth:`routerd.client.Router.run`. Input arrays must not change until the result is there."""
        params, arrays = core.split_arguments(workload, arguments)
        if self._shortcut is not None:
            view = self._shortcut.local.view(workload)
            if view is not None:
                await self._locate(view)
                local = self._shortcut.local.run(view, params, arrays)
                if local is not None:
                    self._report_if_due(self._shortcut)
                    return local
        staged: list[int] = []
        try:
            refs = {name: await self._reference(name, array, staged) for name, array in arrays.items()}
            waiting = await self._send_in_turn(
                "run", lambda: Run(workload, params, refs, *self._segments.give_back(in_flight=bool(self._waiting)))
            )
        except BaseException:  # nothing was asked, so nobody reads them
            self._segments.unstage(staged)
            raise
        # The worker reads staged arrays until it replies, even if nobody here waits any more.
        waiting.add_done_callback(lambda _future: self._segments.unstage(staged))
        try:
            reply, descriptors = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._abandon)
            raise
        return self._finish(reply, descriptors)

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
        return self._segments.empty(await self._alloc(core.empty_bytes(lengths, kind)), lengths, kind)

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
        """Tell the daemon what was done without it. Nobody waits for the answer: it is a count, no promise."""
        report = shortcut.take_report() if self._open else None
        if report is not None:
            number = next(self._ids)
            self._send(number, self._frame(number, "report", report))

    def _finish(self, reply: Reply, descriptors: list[int]) -> TaskResult:
        core.adopt(reply, descriptors, self._segments, output=True)
        result = core.result_decoder.decode(core.result_of(reply))
        self._segments.taken(result.outputs)
        return TaskResult(result, self._segments.results(result.outputs))

    def _abandon(self, waiting: asyncio.Future[tuple[Reply, list[int]]]) -> None:
        """The result of a cancelled run arrived: accept it and let it go, so that its segment is used again."""
        if waiting.exception() is None:
            with contextlib.suppress(RouterdError):
                self._finish(*waiting.result())

    async def _reference(self, name: str, array: np.ndarray[Any, Any], staged: list[int]) -> ArrayRef:
        ref = self._segments.locate(name, array)
        if ref is not None:
            return ref
        number = self._segments.take_staging(array.nbytes)
        if number is None:
            number = await self._alloc(whole_pages(array.nbytes))
        staged.append(number)
        return self._segments.fill(number, array)

    async def _alloc(self, size: int) -> int:
        waiting = await self._send_in_turn("alloc", lambda: Alloc(size))
        try:
            reply, descriptors = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._abandon_segment)
            raise
        return self._adopt_segment(reply, descriptors)

    async def _send_in_turn(self, method: str, make: Callable[[], Any]) -> asyncio.Future[tuple[Reply, list[int]]]:
        """Send a request once fewer are in flight than the daemon takes. The turn ends with its reply, awaited or not."""
        await self._turns.acquire()
        try:
            number = next(self._ids)
            waiting = self._send(number, self._frame(number, method, make()))
        except BaseException:
            self._turns.release()
            raise
        waiting.add_done_callback(lambda _future: self._turns.release())
        return waiting

    def _adopt_segment(self, reply: Reply, descriptors: list[int]) -> int:
        core.adopt(reply, descriptors, self._segments, output=False)
        return core.segment_decoder.decode(core.result_of(reply)).segment

    def _abandon_segment(self, waiting: asyncio.Future[tuple[Reply, list[int]]]) -> None:
        """The segment of a cancelled call arrived: keep it for staging."""
        if waiting.exception() is None:
            with contextlib.suppress(RouterdError):
                self._segments.unstage([self._adopt_segment(*waiting.result())])

    async def _call(self, method: str, params: Any) -> Raw:
        number = next(self._ids)
        reply, _descriptors = await self._send(number, self._frame(number, method, params))
        return core.result_of(reply)

    def _frame(self, number: int, method: str, params: Any) -> bytes:
        return core.request_frame(number, method, params, self.welcome.limits.max_frame_bytes)

    def _send(self, number: int, frame: bytes) -> asyncio.Future[tuple[Reply, list[int]]]:
        if not self._open:
            raise DaemonUnreachable(f"the connection to {self._path} is closed")
        future: asyncio.Future[tuple[Reply, list[int]]] = self._loop.create_future()
        self._waiting[number] = future
        self._outbox.put(frame)
        return future

    def _readable(self) -> None:
        try:
            data, descriptors = receive(self._socket, core.CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(f"connection lost: {error.strerror}")
            return
        if not data:
            self._fail("the daemon closed the connection")
            return
        for reply, mine in self._replies.feed(data, descriptors):
            future = self._waiting.pop(reply.id, None)
            if future is not None and not future.done():
                future.set_result((reply, mine))
            else:  # a call that was cancelled carries no descriptors; runs are shielded and never end up here
                close_all(mine)
                if reply.id == 0 and reply.error is not None:  # about the connection as a whole
                    self._fail(reply.error.message)
                    return

    def _fail(self, reason: str) -> None:
        if not self._open:
            return
        self._open = False
        if self._shortcut is not None:
            self._shortcut.close()
        self._loop.remove_reader(self._socket)
        self._outbox.close()
        self._replies.close()
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(DaemonUnreachable(f"{self._path}: {reason}"))
                future.exception()  # whoever waits still gets it; nobody waiting is no fault
        self._waiting.clear()


def connect(
    path: str | Path | None = None,
    *,
    name: str | None = None,
    timeout: float = core.CONNECT_SECONDS,
    table: bool = True,
) -> Connecting:
    """The asyncio twin of :func:`routerd.connect`: ``async with connect() as router``, or ``router = await connect()``."""
    return Connecting(core.socket_path(path), core.client_name(name), timeout, table=table)


class Connecting(Awaitable[AsyncRouter]):
    """A connection to be made: await it for the router, or enter it and have the router closed at the end."""

    def __init__(self, path: Path, name: str, timeout: float, *, table: bool) -> None:
        self._path, self._name, self._timeout, self._table = path, name, timeout, table

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
        router = AsyncRouter(self._path, await _open(self._path, self._timeout))
        try:
            await router.greet(self._name, table=self._table)
        except BaseException:
            await router.close()
            raise
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
