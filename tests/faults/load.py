"""A client process of a storm: asks random tasks until SIGTERM, checks every answer, and writes down both.

``python -m tests.faults.load --style sync|asyncio|wire …``. The same seed asks the same tasks in the same order; when they are
sent is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from routerd import aio, connect
from routerd.client import Router
from routerd.errors import DaemonUnreachable, RouterdError, ShuttingDown, from_wire
from routerd.types import Result
from tests.faults.journal import Journal
from tests.faults.tasks import Task, draw
from tests.processes import Wire

CONCURRENCY = 6  #: requests of an asyncio or wire client that are in flight together
STYLES = ("sync", "asyncio", "wire")
_CONNECT_SECONDS = 1.0
_HELD = 6
#: How a request of a client ends that does not ask the next daemon again when this one goes.
_CONNECTION_CODES = (DaemonUnreachable.code, ShuttingDown.code)
_CANCELLED = 0.08


class Client(NamedTuple):
    """What every style of client works with."""

    path: Path
    name: str
    journal: Journal
    rng: random.Random
    stop: threading.Event
    orders: tuple[str, ...]
    table: bool

    def draw(self) -> tuple[Task, int]:
        """The next task, and its number in the journal."""
        task = draw(self.rng, self.orders)
        return task, self.journal.asked(task.kind, task.may, task.order)

    def failed(self, number: int, error: Exception) -> None:
        """An error came in place of a result; one that is not of the tree says nothing that a program could act on."""
        if isinstance(error, RouterdError):
            self.journal.answered(number, error.code, why=error.message)
        else:
            self.journal.answered(number, "untyped", why=repr(error))

    def check(self, number: int, task: Task, result: Any, outputs: Mapping[str, Any]) -> bool:
        """Note whether the result is what NumPy gives here."""
        problem = task.problem(outputs)
        facts = {
            "decision": result.decision.decision_id,
            "ran_on": result.ran_on.backend,
            "fallback": result.fallback_reason,
        }
        self.journal.answered(number, "wrong" if problem else "right", why=problem, **facts)
        return not problem


class Held:
    """Results that are kept for a while: what they show must not change under their reader."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._results: deque[tuple[int, Any, dict[str, Any]]] = deque()

    def keep(self, number: int, result: Any) -> None:
        self._results.append((number, result, {name: np.copy(result[name]) for name in result}))
        if len(self._results) > _HELD:
            self.let_go()

    def let_go(self) -> None:
        number, result, copies = self._results.popleft()
        for name, copy in copies.items():
            if not np.array_equal(copy, result[name], equal_nan=copy.dtype.kind == "f"):
                self._journal.noted(f"{name} of result {number} changed while it was held")

    def clear(self) -> None:
        while self._results:
            self.let_go()


# -- one request after the other ----------------------------------------------------------------------------------------


def run_sync(client: Client) -> None:
    """A synchronous client that connects again whenever its connection ends."""
    held = Held(client.journal)
    while not client.stop.is_set():
        with contextlib.suppress(DaemonUnreachable):
            router = connect(client.path, name=client.name, timeout=_CONNECT_SECONDS, table=client.table)
            with router:
                while not client.stop.is_set() and _ask(client, router, held):
                    pass
    held.clear()


def _ask(client: Client, router: Router, held: Held) -> bool:
    """One request; whether the connection can be used for another."""
    task, number = client.draw()
    try:
        arrays = {name: _in_place(router, array) for name, array in task.arrays.items()} if _is_placed(task) else {}
        result = router.run(task.workload, **{**task.arguments, **arrays})
    except Exception as error:
        client.failed(number, error)
        return not isinstance(error, DaemonUnreachable)
    if client.check(number, task, result, result) and client.rng.random() < 0.3:
        held.keep(number, result)
    return True


def _is_placed(task: Task) -> bool:
    return task.kind == "product in place"


def _in_place(router: Router, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    placed = router.empty(array.shape)
    placed[...] = array
    return placed


# -- several at a time --------------------------------------------------------------------------------------------------


class _Line:
    """The connection that all coroutines of a process share; whoever finds it broken makes it anew for all."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._router: aio.AsyncRouter | None = None

    async def router(self) -> aio.AsyncRouter | None:
        """An open connection, or ``None`` when the client is to stop."""
        async with self._lock:
            while not self._client.stop.is_set():
                if self._router is not None and self._router.is_open:
                    return self._router
                with contextlib.suppress(DaemonUnreachable):
                    self._router = await aio.connect(
                        self._client.path, name=self._client.name, timeout=_CONNECT_SECONDS, table=self._client.table
                    )
            return None

    async def close(self) -> None:
        if self._router is not None:
            await self._router.close()


def run_asyncio(client: Client) -> None:
    """An asyncio client with several requests in flight, some of which it takes back."""
    asyncio.run(_gather(client))


async def _gather(client: Client) -> None:
    line, held = _Line(client), Held(client.journal)
    await asyncio.gather(*(_ask_on(client, line, held) for _ in range(CONCURRENCY)))
    held.clear()
    await line.close()


async def _ask_on(client: Client, line: _Line, held: Held) -> None:
    while (router := await line.router()) is not None:
        task, number = client.draw()
        asking = asyncio.ensure_future(_run(router, task))
        if client.rng.random() < _CANCELLED:
            asyncio.get_running_loop().call_later(10.0 ** client.rng.uniform(-4.0, -1.5), asking.cancel)
        try:
            result = await asking
        except asyncio.CancelledError:
            client.journal.answered(number, "withdrawn")
        except Exception as error:
            client.failed(number, error)
            await asyncio.sleep(0)
        else:
            if client.check(number, task, result, result) and client.rng.random() < 0.3:
                held.keep(number, result)


async def _run(router: aio.AsyncRouter, task: Task) -> Any:
    arrays = {}
    if _is_placed(task):
        for name, array in task.arrays.items():
            arrays[name] = await router.empty(array.shape)
            arrays[name][...] = array
    return await router.run(task.workload, **{**task.arguments, **arrays})


# -- without the library ------------------------------------------------------------------------------------------------


def run_wire(client: Client) -> None:
    """Frames by hand, several in flight: it sees replies that nobody asked for, and those that come twice."""
    while not client.stop.is_set():
        try:
            wire = Wire(client.path)
        except OSError:
            client.stop.wait(0.02)
            continue
        try:
            _converse(client, wire)
        finally:
            wire.close()


def _converse(client: Client, wire: Wire) -> None:
    open_tasks: dict[int, tuple[int, Task]] = {}
    try:
        wire.hello(client.name)
        while open_tasks or not client.stop.is_set():
            while len(open_tasks) < CONCURRENCY and not client.stop.is_set():
                _send(client, wire, open_tasks)
            reply = wire.reply()
            if reply is None:
                raise ConnectionResetError("the daemon closed the connection")
            _receive(client, reply, open_tasks)
    except (OSError, AssertionError) as error:
        for number, _task in open_tasks.values():
            client.journal.answered(number, DaemonUnreachable.code, why=str(error))


def _send(client: Client, wire: Wire, open_tasks: dict[int, tuple[int, Task]]) -> None:
    task = draw(client.rng)
    while task.kind not in ("price", "product"):  # what fits into a message
        task = draw(client.rng)
    number = client.journal.asked(task.kind, (*task.may, *_CONNECTION_CODES))
    arrays = {
        name: {"shape": array.shape, "dtype": str(array.dtype), "data": array.tobytes()}
        for name, array in task.arrays.items()
    }
    params = {"workload": task.workload, "params": {**task.params, **task.options}, "arrays": arrays}
    # Before it is sent: whether a request that broke the connection was taken, nobody knows.
    expected = wire.next_number
    open_tasks[expected] = (number, task)
    assert wire.request("run", params) == expected


def _receive(client: Client, reply: dict[str, Any], open_tasks: dict[int, tuple[int, Task]]) -> None:
    number, task = open_tasks.pop(reply["id"], (0, None))
    if task is None:
        client.journal.noted(f"a reply to {reply['id']}, which was answered before or never asked: {reply}")
    elif "error" in reply:
        error = reply["error"]
        client.failed(number, from_wire(error["code"], error["message"], error.get("detail", {})))
    else:
        result = msgspec.convert(reply["result"], Result)
        outputs = {
            name: np.frombuffer(ref.data or b"", dtype=ref.dtype).reshape(ref.shape)
            for name, ref in result.outputs.items()
        }
        client.check(number, task, result, outputs)


def main() -> None:
    """Run one client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--style", choices=STYLES, required=True)
    parser.add_argument("--orders", default="")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    orders = tuple(filter(None, arguments.orders.split(",")))
    client = Client(
        arguments.socket,
        arguments.name,
        Journal(arguments.journal, arguments.name),
        random.Random(arguments.seed),
        stop,
        orders,
        arguments.table,
    )
    {"sync": run_sync, "asyncio": run_asyncio, "wire": run_wire}[arguments.style](client)
    client.journal.done()


if __name__ == "__main__":
    main()
