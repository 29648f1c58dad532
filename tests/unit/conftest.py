"""Parts of a daemon without processes: a fleet whose workers are stand-ins, a session, a store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from routerd.client.table import Table, View
from routerd.costs.model import CostModel, ModelState, Point
from routerd.facts import FactSource
from routerd.flags import load_flags
from routerd.interfaces import DEVICE_KINDS, BackendSpec
from routerd.memory import map_segment
from routerd.outbox import close_all
from routerd.planner import ActivePolicy, Planner
from routerd.policy import Vocabulary, compile_policy, load_policy
from routerd.protocol import Ask, Limits, Locate
from routerd.router import Router
from routerd.routing.entry import Entry, decode
from routerd.routing.slots import SIZE, SlotReader
from routerd.session import Session
from routerd.store import Store
from routerd.table import DecisionTable
from routerd.types import Decision, Device
from routerd.worker import messages
from routerd.worker.batcher import Joined
from routerd.worker.fleet import Fleet, Pair
from routerd.worker.launch import WorkerSettings
from routerd.worker.queue import Answer
from routerd.workloads import builtin_workloads

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
SIZES = tuple(10.0**power for power in range(3, 10))
LIMITS = Limits(
    max_frame_bytes=1 << 20,
    max_in_flight_per_client=8,
    max_arrays_per_task=8,
    max_segment_bytes=1 << 20,
    max_segment_bytes_per_client=1 << 22,
    inline_array_bytes=8192,
)


class StandIn:
    """A worker that answers as it is told: an exception, or seconds that the kernel takes. ``idle`` is for the test to say.

    ``script`` holds the outcomes of the first tasks, ``outcome`` is that of all others. A coroutine function takes the job and
    gives an outcome, or raises it. ``asked`` keeps what each job was asked for with.
    """

    def __init__(self, name: str, specs: tuple[BackendSpec, ...], on_busy: Callable[[bool], None]) -> None:
        self.name = name
        self.specs = specs
        self.incarnation = 1
        self.known_segments: set[int] = set()
        self.up = True
        self.state = "up"
        self.batching = False
        self.private_bytes = 0
        self.joined = Joined()
        self.idle = True
        self.queued = 0.0
        self._on_busy = on_busy
        self.outcome: Any = 1e-3
        self.script: list[Any] = []
        self.made: list[messages.Job] = []
        self.asked: list[dict[str, Any]] = []
        self.told: list[messages.Notice] = []

    def queue_seconds(self, client: int = -1) -> float:
        return self.queued

    def hang_seconds(self, seconds: float) -> float:
        return 50.0 * seconds

    def load(self, seconds: float) -> None:
        """From now on so many seconds of work wait here; 0: none."""
        self.queued, self.idle = seconds, seconds == 0.0
        self._on_busy(not self.idle)

    def tell(self, notice: messages.Notice) -> None:
        self.told.append(notice)

    async def ask(self, make: Callable[..., Any], **options: Any) -> Answer:
        job, _descriptors = make(len(self.made) + 1)
        self.made.append(job)
        self.asked.append(options)
        outcome = self.script.pop(0) if self.script else self.outcome
        await asyncio.sleep(0)
        if callable(outcome):
            outcome = await outcome(job)
        if isinstance(outcome, Exception):
            raise outcome
        return Answer(messages.Executed(job.id, job.client, {}, 0.0, outcome), [], 0.0, outcome)


class TableReader:
    """A client of the table in this process."""

    def __init__(self, table: DecisionTable, session: Session) -> None:
        descriptor = table.descriptor()
        self.reader = SlotReader(map_segment(descriptor, SIZE, writable=False))
        close_all([descriptor])
        self.table = Table(self.reader)
        self._daemon, self._session = table, session

    def view(self, workload: str) -> View:
        """The entry, after the daemon was asked where it is."""
        view = self.table.view(workload)
        if not view.refresh():
            view.place(self._daemon.locate(self._session, Locate(workload)))
        return view

    def decide(self, workload: str, arguments: dict[str, Any]) -> Decision | None:
        """What a client does for ``decide``."""
        return self.view(workload).by_question(self.table.question(workload, arguments))

    def entry(self, workload: str) -> Entry | None:
        """All that the table says."""
        slot = self._daemon.locate(self._session, Locate(workload)).slot
        found = self.reader.read(slot)
        return None if found is None else decode(found[1])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What tests compute in this process is small: a pool of threads mostly spins, while other processes want the cores."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def fleet() -> Fleet:
    """``cpu.numpy`` (1 ns a unit of work), ``metal.mlx`` (0.1 ns) and ``ane.coreml`` (0.5 ns), all proved and timed."""
    kinds = {"cpu.numpy": ("cpu", 1e-9), "metal.mlx": ("metal_gpu", 1e-10), "ane.coreml": ("neural_engine", 5e-10)}
    specs = [
        BackendSpec(name=name, device_kind=kind, precision="float32", factory="none:None")
        for name, (kind, _rate) in kinds.items()
    ]
    made = Fleet(specs, WORKLOADS, WorkerSettings(1, 8192, 60.0, 60.0))
    made.workers = []
    for name, backend in made.backends.items():
        rate = kinds[name][1]
        on_busy = partial(made._worker_busy, 1 << backend.worker_number)
        backend.worker = StandIn(backend.worker.name, (backend.spec,), on_busy)  # type: ignore[assignment]
        made.workers.append(backend.worker)
        backend.state, backend.reason = "ready", ""
        backend.device = Device(kind=backend.spec.device_kind, name="stand-in")
        for workload in WORKLOADS:
            pair = backend.pairs[workload] = Pair(workload, None)
            pair.error = 0.0 if name == "cpu.numpy" else 1e-7
            points = tuple(Point(work, 1e-5 + rate * work, 0.05) for work in SIZES)
            pair.model = CostModel(ModelState(points))
    return made


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session("tester", 1000, 1000, 4321, "execute", LIMITS)
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state", buffer_limit=1000, kept=1000)
    yield made
    made.close()


@pytest.fixture
def policy_of(tmp_path: Path) -> Callable[..., ActivePolicy]:
    """Compiles policy text."""
    vocabulary = Vocabulary(
        workloads=frozenset(WORKLOADS),
        families=frozenset(workload.family for workload in WORKLOADS.values()),
        engines=frozenset(engine for workload in WORKLOADS.values() for engine in workload.engines),
        backends=frozenset({"cpu.numpy", "metal.mlx", "ane.coreml", "in_process.numpy"}),
        device_kinds=frozenset(DEVICE_KINDS),
    )

    def make(body: str = "", generation: int = 1) -> ActivePolicy:
        path = tmp_path / "test.yaml"
        path.write_text(f"apiVersion: routerd/v1\nkind: Policy\nmetadata: {{name: test}}\n{body}")
        policy = load_policy([path], vocabulary, load_flags({}).as_mapping())
        return ActivePolicy(policy, compile_policy(policy, self_uid=1000), generation)

    return make


@pytest.fixture
def make_router(fleet: Fleet, store: Store, policy_of: Callable[..., ActivePolicy]) -> Callable[..., Router]:
    """A router over the stand-in fleet, under a policy and environment flags."""

    def make(body: str = "", environment: dict[str, str] | None = None, *, in_process_seconds: float = 0.0) -> Router:
        flags = load_flags(environment or {})
        facts = FactSource(fleet, flags.as_mapping())
        planner = Planner(fleet, flags, power=facts.power, in_process_seconds=in_process_seconds)
        return Router(fleet, store, flags, facts, policy_of(body), planner=planner)

    return make


@pytest.fixture
def make_table(fleet: Fleet) -> Iterator[Callable[[Router], DecisionTable]]:
    """Decision tables over the stand-in fleet, not started."""
    made: list[DecisionTable] = []

    def make(router: Router) -> DecisionTable:
        made.append(DecisionTable(router, fleet))
        return made[-1]

    yield make
    for table in made:
        table.stop()
        os.close(table._descriptor)


@pytest.fixture
def table_setting(
    fleet: Fleet,
    make_table: Callable[[Router], DecisionTable],
    make_router: Callable[..., Router],
    monkeypatch: pytest.MonkeyPatch,
) -> type:
    """A router under a policy, its table, and a client, for whom the daemon's heart has always just beaten."""
    monkeypatch.setattr("routerd.client.table.monotonic_ns", lambda: 0)
    monkeypatch.setattr("routerd.table._MINOR_SECONDS", 0.02)  # not a second for each change

    class Setting:
        def __init__(self, body: str = "", *, in_process_seconds: float = 0.0, **client: Any) -> None:
            self.router = make_router(body, in_process_seconds=in_process_seconds)
            self.table, self.fleet = make_table(self.router), fleet
            self.session = self.client(**client)
            self.reader = self.reads(self.session)

        def client(
            self, name: str = "tester", uid: int = 1000, gid: int = 1000, *, in_process: bool = False
        ) -> Session:
            return Session(name, uid, gid, 1, "execute", LIMITS, in_process=in_process)

        def reads(self, session: Session) -> TableReader:
            return TableReader(self.table, session)

        def answer(self, workload: str, work: float) -> Decision:
            """The daemon's own, for work alone."""
            return self.router.plan(Ask(workload, work=work), self.session).decision

        async def recompiled(self) -> None:
            """Until all that has changed is in the table."""
            async with asyncio.timeout(20.0):
                while self.table._timer is not None:
                    await asyncio.sleep(0.001)

    return Setting


@pytest.fixture
def parts() -> SimpleNamespace:
    """The classes that tests cannot import from here."""
    return SimpleNamespace(StandIn=StandIn, LIMITS=LIMITS, WORKLOADS=WORKLOADS, SIZES=SIZES)
