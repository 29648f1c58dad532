"""A storm: a daemon, client processes that load it, faults at random, and the account that is taken of it afterwards."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from routerd import connect
from routerd.errors import RouterdError
from tests.faults import ledger, levels
from tests.faults.injectors import Injector
from tests.faults.load import CONCURRENCY
from tests.faults.tasks import WORKLOADS, draw
from tests.faults.watch import PINNED_WORKER, Fault, Watch, lies
from tests.processes import START_SECONDS, DaemonProcess

_ROOT = Path(__file__).parents[2]
_GAP_SECONDS = (0.05, 0.5)
_STOP_SECONDS = 30.0
#: What differs between problems of one kind: who asked, and numbers.
_VARYING = re.compile(r"[\w-]+#\d+ \(.*?\)|\d[\d.]*")
_STRICT = ledger.Terms()
#: Orders that end or stop the worker of ``fickle.one``: each is a fault of its own.
DEADLY = ("exit", "segfault", "stop", "never", "bomb")


class Style(NamedTuple):
    """A kind of client. ``pinned``: the policy sends it to ``fickle.one``, and its inputs may carry ``orders``."""

    style: str
    pinned: bool = False
    table: bool = False
    orders: tuple[str, ...] = ()


USUAL = (Style("sync", pinned=True), Style("asyncio"), Style("wire"), Style("sync", table=True))


class ClientProcess:
    """One process of :mod:`tests.faults.load`."""

    def __init__(self, world: World, style: Style, number: int) -> None:
        self.style = style
        self.name = f"{'fickle' if style.pinned else 'load'}-{style.style}-{number}"
        self.journal = world.directory / f"{self.name}.jsonl"
        words = [
            "--socket", str(world.daemon.socket), "--journal", str(self.journal), "--name", self.name,
            "--seed", f"{world.seed}/{number}", "--style", style.style, "--orders", ",".join(style.orders),
            *(["--table"] if style.table else []),
        ]  # fmt: skip
        self.errors = world.directory / f"{self.name}.err"
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.load", *words], env=world.daemon.env, cwd=_ROOT, stderr=errors
            )

    @property
    def has_answers(self) -> bool:
        return self.journal.exists() and '"answered"' in self.journal.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once it is handled: the journal is made after that."""
        _wait(lambda: self.journal.exists() or self._process.poll() is not None, f"{self.name} starts")
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> str:
        """What is wrong with its end, or an empty string."""
        try:
            code = self._process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self.name} did not end: it waits for answers that do not come"
        return "" if code == 0 else f"{self.name} ended with {code}: {self.errors.read_text()[-1500:]}"


class World:
    """What faults are done to."""

    def __init__(self, daemon: DaemonProcess, directory: Path, seed: str) -> None:
        self.daemon = daemon
        self.directory = directory
        self.seed = seed
        self.rng = random.Random(seed)
        self.watch = Watch(daemon.socket, directory / "fickle-watch.jsonl")
        self.clients: list[ClientProcess] = []
        self.vanished: set[str] = set()
        self.former_pids: set[int] = set()
        self.faults: list[Fault] = []
        self.problems: list[str] = []
        self.uncounted = 0  #: requests of clients that keep no journal
        self._made = 0

    def add(self, style: Style) -> None:
        self._made += 1
        self.clients.append(ClientProcess(self, style, self._made))

    def replace(self, client: ClientProcess) -> None:
        """A client was killed: another of its kind takes its place."""
        self.vanished.add(client.name)
        self.clients.remove(client)
        self.add(client.style)

    def wait_served(self) -> None:
        """Until a newly started daemon serves."""
        self.daemon.connect(name="load-waiting", table=False).close()


class Report(NamedTuple):
    """How a storm went."""

    problems: list[str]
    summary: str
    accounts: list[ledger.Account]
    faults: list[Fault]
    watch: Watch

    def check(self) -> None:
        """Fail with everything that was wrong."""
        kinds: dict[str, list[str]] = {}
        for problem in self.problems:
            kinds.setdefault(_VARYING.sub("", problem)[:120], []).append(problem)
        shown = [f"{len(alike)} ×, such as: {alike[0][:1000]}" for alike in list(kinds.values())[:20]]
        assert not self.problems, "\n".join([self.summary, *shown])


def storm(
    daemon: DaemonProcess,
    directory: Path,
    injectors: Sequence[Injector],
    *,
    seed: str,
    seconds: float,
    styles: Sequence[Style] = USUAL,
    terms: ledger.Terms = _STRICT,
    counted: bool = True,
    gap_seconds: tuple[float, float] = _GAP_SECONDS,
    order_window_seconds: float = 0.75,
    excuse: Callable[[World], Callable[[ledger.Request, ledger.Answer], bool]] | None = None,
) -> Report:
    """Load a running, ready daemon and do random faults to it for ``seconds``; then account for everything.

    ``counted``: the daemon lives through the storm, so its count of executions must agree with what clients got.
    ``order_window_seconds``: how long the daemon may take to notice that an order has ended or stopped a worker.
    """
    world = World(daemon, directory, seed)
    _warm(daemon, world.rng)
    everybody = _states(daemon)
    before = levels.take(daemon, world.former_pids)
    executed = _executed(daemon)
    world.watch.start()
    for style in styles:
        world.add(style)
    _wait(lambda: all(client.has_answers for client in world.clients), "clients get answers")
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            fault = world.rng.choice(injectors)(world) if injectors else None
            if fault is not None:
                world.faults.append(fault)
            time.sleep(world.rng.uniform(*gap_seconds))
    finally:
        world.problems += _stop_clients(world.clients)
        world.watch.stop()
    if world.watch.failure is not None:
        world.problems.append(f"the watch failed: {world.watch.failure!r}")
    world.problems += _recovered(daemon, everybody)
    world.problems += levels.settle(daemon, before, world.former_pids)
    accounts = [ledger.read(path) for path in sorted(directory.glob("*.jsonl"))]
    terms = terms._replace(vanished=frozenset(world.vanished), concurrency=CONCURRENCY)
    if excuse is not None:
        terms = terms._replace(excused=excuse(world))
    world.problems += ledger.judge(accounts, terms)
    world.problems += lies(
        world.watch.samples, world.watch.probes, [*world.faults, *_ordered(accounts, order_window_seconds)]
    )
    if counted:
        world.problems += _miscounted(_executed(daemon) - executed, world.uncounted, accounts)
    world.problems += _complaints(daemon)
    counts = ", ".join(
        f"{sum(fault.name == name for fault in world.faults)} × {name}"
        for name in sorted({f.name for f in world.faults})
    )
    told = f"seed {seed}: {ledger.summary(accounts)}; faults: {counts or 'none'}"
    print(told)
    return Report(world.problems, told, accounts, world.faults, world.watch)


def serves(daemon: DaemonProcess) -> None:
    """Every backend that is ready takes the next request that the policy sends to it."""
    with connect(daemon.socket, name="fickle-after", timeout=START_SECONDS, table=False) as router:
        result = router.run("linalg.gemm", a=[[1.0, 2.0]], b=[[3.0], [4.0]])
        assert result["c"][0, 0] == 11.0
        assert result.ran_on.backend == "fickle.one", result.fallback_reason


def _stop_clients(clients: Sequence[ClientProcess]) -> list[str]:
    for client in clients:
        client.ask_to_stop()
    deadline = time.monotonic() + _STOP_SECONDS
    return [problem for client in clients if (problem := client.wait(deadline - time.monotonic()))]


def _warm(daemon: DaemonProcess, rng: random.Random) -> None:
    """Have the daemon open what it opens once: its decision table, and the database when the first decision is recorded."""
    with daemon.connect(name="load-warming") as router, daemon.connect(name="load-asking", table=False) as asking:
        for task in [draw(rng) for _ in range(4 * len(WORKLOADS))]:
            arguments = {**task.params, **task.arrays}
            router.decide(task.workload, **arguments)
            asking.run(task.workload, **arguments)
        _wait(lambda: asking.call("status")["decisions"]["recorded"] > 0, "a decision is recorded")


def _states(daemon: DaemonProcess) -> dict[str, str]:
    with daemon.connect(name="load-looking", table=False) as router:
        states: dict[str, str] = router.call("status")["backends"]
        return states


def _recovered(daemon: DaemonProcess, expected: dict[str, str]) -> list[str]:
    """Wait until every backend is in its state of before; which are not in time."""
    deadline = time.monotonic() + levels.SETTLE_SECONDS
    while True:
        try:
            states = _states(daemon)
        except RouterdError as error:
            return [f"the daemon does not serve after the storm: {error.message}"]
        other = [f"{name} is {states[name]}, was {state}" for name, state in expected.items() if states[name] != state]
        if not other or time.monotonic() > deadline:
            return other
        time.sleep(0.05)


def _executed(daemon: DaemonProcess) -> int:
    with daemon.connect(name="load-counting", table=False) as router:
        count: int = router.call("stats")["executed"]
        return count


def _miscounted(counted: int, uncounted: int, accounts: Sequence[ledger.Account]) -> list[str]:
    least, most = ledger.executions(accounts)
    if least <= counted <= most + uncounted:
        return []
    return [f"the daemon counts {counted} executions, its clients know of {least} to {most + uncounted}"]


def _ordered(accounts: Sequence[ledger.Account], window_seconds: float) -> list[Fault]:
    """The faults that clients ordered from ``fickle.one``."""
    return [
        Fault(f"order {request.order}", request.at, request.answers[-1].at if request.answers else request.at,
              window_seconds=window_seconds, worker=PINNED_WORKER)
        for account in accounts
        for request in account.requests.values()
        if request.order in DEADLY
    ]  # fmt: skip


def _complaints(daemon: DaemonProcess) -> list[str]:
    """Defects that the daemon itself has noticed."""
    lines = daemon.log.read_text().splitlines()
    return [
        f"the daemon's log: {line}" for line in lines if "internal error" in line or "Exception in callback" in line
    ][:5]


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen that {what}"
        time.sleep(0.02)


def prepare(daemon: DaemonProcess) -> None:
    """Prove and time the storm's workloads on every backend."""
    with daemon.connect(name="load-setup", table=False) as router:
        router.call("calibrate", {"workloads": list(WORKLOADS)})
