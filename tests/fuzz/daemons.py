"""Targets with a daemon behind them: its server in this process, without workers, and a whole one in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from routerd.client import Router
from routerd.daemon import Daemon
from routerd.errors import FrameTooLarge, Unavailable
from routerd.flags import load_flags
from routerd.methods import Method
from routerd.plugins import load_plugins
from routerd.policies import PolicyKeeper
from routerd.protocol import UNDECODABLE, Calibrate, FrameBuffer, Request
from routerd.settings import Settings
from routerd.worker.fleet import Fleet
from routerd.worker.launch import WorkerSettings
from tests.fuzz.inputs import MAX_FRAME_BYTES, encode, frame
from tests.processes import DaemonProcess, Wire, daemons

#: Small limits, so that they are passed often.
LIMITS = {
    "max_frame_bytes": MAX_FRAME_BYTES,
    "inline_array_bytes": MAX_FRAME_BYTES // 2,
    "max_segment_bytes": 1 << 20,
    "max_segment_bytes_per_client": 4 << 20,
    "max_in_flight_per_client": 8,
}
_ANSWER_SECONDS = 20.0
_LAST = 1_000_003  # the id of the question that ends a stream
_request_decoder = msgspec.msgpack.Decoder(Request)


class Expected:
    """What a daemon owes for a stream: one reply to each whole frame, by its id, and an end if the stream breaks the protocol.

    The client's own end comes behind it: a last ping, which is answered wherever the stream does not swallow it.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data + frame(encode({"id": _LAST, "method": "ping", "params": {}}))
        buffer, bodies = FrameBuffer(MAX_FRAME_BYTES), []
        self.too_large = False
        try:
            bodies.extend(buffer.feed(self.data))  # those before a frame that is too large stay
        except FrameTooLarge:
            self.too_large = True
        self.ids = Counter(_id_of(body) for body in bodies)
        self.ids[0] += self.too_large

    def check(self, replies: list[dict[str, Any]], *, ended: bool) -> None:
        """Raise if these are not the replies that the stream was owed."""
        for reply in replies:
            error = reply.get("error")
            assert (error is None) != ("result" not in reply), reply
            assert error is None or (error["code"] != "internal" and error["message"]), reply
        given = Counter(reply["id"] for reply in replies)
        assert not given - self.ids, (given, self.ids)
        if not ended:
            assert given == self.ids, (given, self.ids)


def _id_of(body: bytes) -> int:
    try:
        return _request_decoder.decode(body).id
    except UNDECODABLE:
        return 0


# -- the server in this process ---------------------------------------------------------------------------------------


class _Workerless(Daemon):
    """A daemon that serves without starting workers: everything is bound, judged and refused, nothing runs."""

    ready = False

    async def _serve(self, policies: PolicyKeeper, methods: Mapping[str, Method]) -> None:
        del policies
        self._server.listen(methods, self._table)
        self.ready = True
        await self._stopped.wait()
        self._table.stop()

    async def _calibrate(self, params: Calibrate) -> dict[str, object]:
        raise Unavailable(f"nothing here can be timed, and so not {params.workloads}")


@contextlib.contextmanager
def open_server() -> Iterator[Callable[[bytes], None]]:
    """The whole way of a request through the daemon, up to the workers, of which there are none."""
    with tempfile.TemporaryDirectory(prefix="rd-") as name, asyncio.Runner() as runner:
        path = Path(name) / "s.sock"
        settings = Settings(
            socket=path, state_dir=Path(name) / "state", models_dir=Path(name), calibrate_when_idle=False, **LIMITS
        )
        registry = load_plugins(settings)
        workloads = {workload.name: workload for workload in registry.workloads}
        fleet = Fleet(registry.backends, workloads, WorkerSettings(1, int(settings.inline_array_bytes), 60.0, 60.0))
        loop = runner.get_loop()
        daemon = _Workerless(settings, load_flags({}), registry, fleet)
        running = loop.create_task(daemon.run())

        async def until_ready() -> None:
            while not daemon.ready and not running.done():
                await asyncio.sleep(0.001)

        runner.run(until_ready())
        try:
            yield lambda data: runner.run(_converse(path, Expected(data)))
        finally:
            daemon._stopped.set()
            loop.run_until_complete(running)


async def _converse(path: Path, expected: Expected) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(expected.data)
    frames, replies, ended = FrameBuffer(1 << 30), [], False
    async with asyncio.timeout(_ANSWER_SECONDS):
        while not ended and len(replies) < expected.ids.total():
            try:
                data = await reader.read(1 << 16)
            except ConnectionResetError:
                data = b""
            ended = not data
            replies += map(msgspec.msgpack.decode, frames.feed(data))
    writer.close()
    expected.check(replies, ended=ended)


# -- a daemon of its own ----------------------------------------------------------------------------------------------


class Fuzzed:
    """A running daemon, and what is asked of it while it is fuzzed."""

    def __init__(self, process: DaemonProcess) -> None:
        self.process = process
        self.answered = 0

    def check(self, data: bytes) -> None:
        """One client that sends a stream, reads what it is owed in time, and leaves."""
        expected = Expected(data)
        client = Wire(self.process.socket)
        try:
            client.socket.settimeout(_ANSWER_SECONDS)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(expected.data)
            replies: list[dict[str, Any]] = []
            while len(replies) < expected.ids.total() and (reply := client.reply()) is not None:
                replies.append(reply)
            expected.check(replies, ended=len(replies) < expected.ids.total())
            self.answered += len(replies)
        finally:
            client.close()

    def vanish(self, data: bytes) -> None:
        """A client that sends and is gone, with a reset rather than an end."""
        client = Wire(self.process.socket)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(data)
        client.close()

    def ask(self, task: dict[str, Any], method: str) -> dict[str, Any]:
        """The reply to one task on a connection of its own."""
        client = Wire(self.process.socket)
        try:
            client.hello("fuzz")
            return client.ask(method, task)
        finally:
            client.close()


@contextlib.contextmanager
def running_daemon() -> Iterator[Fuzzed]:
    """A daemon that has proved and timed all that it has; at the end it must stop cleanly and have logged nothing unforeseen."""
    with tempfile.TemporaryDirectory(prefix="rd-") as directory, daemons(Path(directory)) as make:
        process = make(calibration_run_seconds=0.001, **LIMITS).start()
        with process.connect(name="setup") as router:
            router.call("calibrate")
        yield Fuzzed(process)
        code = process.stop()
        log = process.log.read_text()
        assert code == 0, log
        assert "internal error" not in log, log
        assert "Traceback" not in log, log


@contextlib.contextmanager
def open_daemon() -> Iterator[Callable[[bytes], None]]:
    """A whole daemon; it must be the same one, with the same workers, after every input."""
    with running_daemon() as daemon, daemon.process.connect(name="bystander", table=False) as bystander:
        before = standing(bystander)

        def check(data: bytes) -> None:
            daemon.check(data)
            assert standing(bystander) == before

        yield check


def standing(bystander: Router) -> tuple[int, list[tuple[int, int]]]:
    """Who serves: the daemon's process, and each worker's with how often it was started again."""
    status = bystander.call("status")
    return status["pid"], [(worker["pid"], worker["restarts"]) for worker in status["workers"]]
