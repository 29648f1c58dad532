"""One connection of the asyncio client, from hello until it is lost or closed: any number of requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from msgspec import Raw

from routerd.client import core
from routerd.client.arrays import Segments, whole_pages
from routerd.client.result import TaskResult
from routerd.errors import DaemonUnreachable, RouterdError, from_wire
from routerd.memory import receive
from routerd.outbox import Outbox, close_all
from routerd.protocol import Alloc, Cancel, Free, Freeze, Hello, Reply, Report, Run
from routerd.types import ArrayRef, Scalar

_Answer: TypeAlias = asyncio.Future[tuple[Reply, list[int]]]


class _Asked(NamedTuple):
    """A request that was sent."""

    number: int
    answer: _Answer


class Stream:
    """A connection on the running loop. :meth:`greet` comes first.

    Raises ``DaemonUnreachable`` when the connection is lost, and what the daemon said where it ended the connection itself.
    """

    def __init__(self, path: Path, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._path = path
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(connection, self._unwritable)
        self._replies = core.ReplyStream()
        self._waiting: dict[int, _Answer] = {}
        self._ids = itertools.count(1)
        self._retired = False
        self.is_open = True
        self.lost_because = ""
        self.segments = Segments(0)
        self._loop.add_reader(connection, self._readable)

    async def greet(self, hello: Hello, seconds: float) -> None:
        """Exchange hello within so many seconds. Raises what the daemon refuses with."""
        try:
            async with asyncio.timeout(seconds):
                reply, descriptors = await self._send(0, core.hello_frame(hello))
        except TimeoutError:
            raise core.no_hello(self._path, seconds) from None
        except DaemonUnreachable as error:  # it ended while it greeted: the next one may not
            error.detail["may_come"] = True
            raise
        self.welcome = core.welcome_decoder.decode(core.result_of(reply))
        self.reader = core.map_table(reply, descriptors, self.welcome)
        self.segments = Segments(self.welcome.limits.inline_array_bytes)
        self._turns = asyncio.Semaphore(self.welcome.limits.max_in_flight_per_client)

    @property
    def is_usable(self) -> bool:
        """Whether new requests can be sent."""
        return self.is_open and not self._retired

    def retire(self) -> None:
        """Close once everything in flight is answered. New requests are for another connection."""
        self._retired = True
        self.lost_because = "the daemon shut down"
        self._close_if_done()

    def close(self, why: str) -> None:
        """Disconnect. Requests in flight fail; arrays stay readable."""
        self._fail(DaemonUnreachable(f"{self._path}: {why}"))

    # -- requests -----------------------------------------------------------------------------------------------------

    async def call(self, method: str, params: Any) -> Raw:
        """A method's result. Raises its error. When it is cancelled, so is the request."""
        asked = self._ask(method, params)
        try:
            reply, descriptors = await asked.answer
        except asyncio.CancelledError:
            self._cancel(asked)
            raise
        close_all(descriptors)
        return core.result_of(reply)

    async def run(self, workload: str, params: dict[str, Scalar], arrays: dict[str, Any], task_id: str) -> TaskResult:
        """The result of a task. When it is cancelled, so is the task."""
        staged: list[int] = []
        try:
            refs = {name: await self._reference(name, array, staged) for name, array in arrays.items()}
            asked = await self._ask_in_turn(
                "run",
                lambda: Run(workload, params, refs, *self.segments.give_back(in_flight=bool(self._waiting)), task_id),
            )
        except BaseException:  # nothing was asked, so nobody reads them
            self.segments.unstage(staged)
            raise
        try:
            reply, descriptors = await asyncio.shield(asked.answer)
        except asyncio.CancelledError:
            self.segments.drop(
                staged
            )  # a worker may read them until it has heard of the end, and is told to forget them
            asked.answer.add_done_callback(self._abandon)
            self._cancel(asked)
            raise
        except BaseException:
            self.segments.unstage(staged)
            raise
        self.segments.unstage(staged)
        return self._finish(reply, descriptors)

    async def alloc(self, size: int) -> int:
        """The number of a new segment, mapped writable."""
        asked = await self._ask_in_turn("alloc", lambda: Alloc(size))
        try:
            reply, descriptors = await asyncio.shield(asked.answer)
        except asyncio.CancelledError:
            asked.answer.add_done_callback(self._abandon_segment)
            raise
        return self._adopt_segment(reply, descriptors)

    async def constant(self, array: Any) -> int:
        """The number of a new segment with this array, mapped read-only, which nobody can change."""
        asked = await self._ask_in_turn("alloc", lambda: Alloc(array.nbytes))
        try:
            reply, descriptors = await asyncio.shield(asked.answer)
        except asyncio.CancelledError:
            asked.answer.add_done_callback(self._abandon_segment)
            raise
        try:
            info = core.poured(reply, descriptors, array)
            try:
                await self.call("freeze", Freeze(info.segment))
            except BaseException:
                self._tell("free", Free((info.segment,)))
                raise
            self.segments.adopt_constant(info, descriptors[0])
        finally:
            close_all(descriptors)
        return info.segment

    def tell(self, report: Report) -> None:
        """Report. Nobody waits for the answer: it is a count, no promise."""
        self._tell("report", report)

    def _tell(self, method: str, params: Any) -> None:
        if self.is_open:
            self._ask(method, params)

    def _ask(self, method: str, params: Any) -> _Asked:
        number = next(self._ids)
        frame = core.request_frame(number, method, params, self.welcome.limits.max_frame_bytes)
        return _Asked(number, self._send(number, frame))

    async def _ask_in_turn(self, method: str, make: Callable[[], Any]) -> _Asked:
        """Send a request once fewer are in flight than the daemon takes. The turn ends with its reply, awaited or not."""
        await self._turns.acquire()
        try:
            asked = self._ask(method, make())
        except BaseException:
            self._turns.release()
            raise
        asked.answer.add_done_callback(lambda _answer: self._turns.release())
        return asked

    def _cancel(self, asked: _Asked) -> None:
        """Tell the daemon that nobody waits any more, unless it has answered."""
        if asked.number in self._waiting:
            self._tell("cancel", Cancel(asked.number))

    def _finish(self, reply: Reply, descriptors: list[int]) -> TaskResult:
        core.adopt(reply, descriptors, self.segments, output=True)
        result = core.result_decoder.decode(core.result_of(reply))
        self.segments.taken(result.outputs)
        return TaskResult(result, self.segments.results(result.outputs))

    def _abandon(self, answer: _Answer) -> None:
        """The result of a cancelled run came after all: accept it and let it go, so that its segment is used again."""
        if answer.exception() is None:
            with contextlib.suppress(RouterdError):
                self._finish(*answer.result())

    async def _reference(self, name: str, array: Any, staged: list[int]) -> ArrayRef:
        ref = self.segments.locate(name, array)
        if ref is not None:
            return ref
        number = self.segments.take_staging(array.nbytes)
        if number is None:
            number = await self.alloc(whole_pages(array.nbytes))
        staged.append(number)
        return self.segments.fill(number, array)

    def _adopt_segment(self, reply: Reply, descriptors: list[int]) -> int:
        core.adopt(reply, descriptors, self.segments, output=False)
        return core.segment_decoder.decode(core.result_of(reply)).segment

    def _abandon_segment(self, answer: _Answer) -> None:
        """The segment of a cancelled call arrived: keep it for staging."""
        if answer.exception() is None:
            with contextlib.suppress(RouterdError):
                self.segments.unstage([self._adopt_segment(*answer.result())])

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _send(self, number: int, frame: bytes) -> _Answer:
        if not self.is_open:
            raise DaemonUnreachable(f"{self._path}: {self.lost_because}")
        answer: _Answer = self._loop.create_future()
        self._waiting[number] = answer
        self._outbox.put(frame)
        return answer

    def _readable(self) -> bool:
        """Take what has come; ``False`` if there is no more."""
        try:
            data, descriptors = receive(self._socket, core.CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.close(f"connection lost: {error.strerror}")
            return False
        if not data:
            self.close("the daemon closed the connection")
            return False
        for reply, mine in self._replies.feed(data, descriptors):
            answer = self._waiting.pop(reply.id, None)
            if answer is not None and not answer.done():
                answer.set_result((reply, mine))
            else:  # a call that was cancelled carries no descriptors; runs are shielded and never end up here
                close_all(mine)
                if reply.id == 0 and reply.error is not None:  # about the connection as a whole
                    self._fail(from_wire(reply.error.code, reply.error.message, reply.error.detail))
                    return False
        self._close_if_done()
        return self.is_open

    def _unwritable(self, reason: str) -> None:
        """Who hung up may have said why: that can still be read."""
        while self._readable():
            pass
        self.close(reason)

    def _close_if_done(self) -> None:
        if self._retired and not self._waiting:
            self.close(self.lost_because)

    def _fail(self, error: RouterdError) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self.lost_because = self.lost_because or error.message
        self._loop.remove_reader(self._socket)
        self._outbox.close()
        self._replies.close()
        self._socket.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(type(error)(error.message, **error.detail))
                answer.exception()  # whoever waits still gets it; nobody waiting is no fault
        self._waiting.clear()
