"""Parts of a daemon without processes: a fleet whose workers are stand-ins, a session, a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routerd.costs.model import CostModel, ModelState, Point
from routerd.facts import FactSource
from routerd.flags import load_flags
from routerd.interfaces import DEVICE_KINDS, BackendSpec
from routerd.planner import ActivePolicy
from routerd.policy import Vocabulary, compile_policy, load_policy
from routerd.protocol import Limits
from routerd.router import Router
from routerd.session import Session
from routerd.store import Store
from routerd.types import Device
from routerd.worker import messages
from routerd.worker.fleet import Fleet, Pair
from routerd.worker.supervisor import Answer, WorkerSettings
from routerd.workloads import builtin_workloads

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
LIMITS = Limits(
    max_frame_bytes=1 << 20,
    max_in_flight=8,
    max_arrays=8,
    max_segment_bytes=1 << 20,
    max_client_bytes=1 << 22,
    inline_array_bytes=8192,
)


class StandIn:
    """A worker that answers as it is told: an exception, or seconds that the kernel takes."""

    def __init__(self, name: str, specs: tuple[BackendSpec, ...]) -> None:
        self.name = name
        self.specs = specs
        self.incarnation = 1
        self.known_segments: set[int] = set()
        self.up = True
        self.idle = True
        self.queued = 0.0
        self.outcome: Exception | float = 1e-3
        self.made: list[messages.Job] = []
        self.told: list[messages.Notice] = []

    def queue_seconds(self) -> float:
        return self.queued

    def tell(self, notice: messages.Notice) -> None:
        self.told.append(notice)

    async def ask(self, make: Callable[..., Any], *, seconds: float, priority: int = 0) -> Answer:
        job, _descriptors = make(len(self.made) + 1)
        self.made.append(job)
        await asyncio.sleep(0)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        executed = messages.Executed(job.id, {}, 0.0, self.outcome, 0)
        return Answer(executed, [], 0.0, self.outcome)


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
        backend.worker = StandIn(backend.worker.name, (backend.spec,))  # type: ignore[assignment]
        made.workers.append(backend.worker)
        backend.state, backend.reason = "ready", ""
        backend.device = Device(kind=backend.spec.device_kind, name="stand-in")
        for workload in WORKLOADS:
            pair = backend.pairs[workload] = Pair(workload, None)
            pair.error = 0.0 if name == "cpu.numpy" else 1e-7
            points = tuple(Point(work, 1e-5 + rate * work, 0.05) for work in (1e3, 1e6, 1e9))
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
        backends=frozenset({"cpu.numpy", "metal.mlx", "ane.coreml"}),
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

    def make(body: str = "", environment: dict[str, str] | None = None) -> Router:
        flags = load_flags(environment or {})
        return Router(fleet, store, flags, FactSource(fleet, flags.as_mapping()), policy_of(body))

    return make


@pytest.fixture
def parts() -> SimpleNamespace:
    """The classes that tests cannot import from here."""
    return SimpleNamespace(StandIn=StandIn, LIMITS=LIMITS, WORKLOADS=WORKLOADS)
