"""The decision table in the daemon: which entries there are, when they are compiled anew, and that they are kept up to date.

Entries are made when a client first asks for one, are shared by all clients that the policy does not tell apart, and follow
every change of policy, model and hardware. See :mod:`routerd.routing` for what an entry says and how it is read.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from routerd.device_memory import LIMITED_KINDS
from routerd.errors import Unavailable, UnknownModel, UnknownWorkload
from routerd.interfaces import HYBRID_BACKEND, IN_PROCESS_BACKEND
from routerd.logs import get_logger
from routerd.memory import create_published
from routerd.policy import CompiledPolicy, Verdict
from routerd.protocol import Locate, Located
from routerd.router import Router
from routerd.routing import entry as entries
from routerd.routing.entry import ASK, NOT_KNOWN, Entry, Plane, spans_of
from routerd.routing.ground import Ground
from routerd.routing.slots import BEAT_SECONDS, SIZE, SLOTS, SlotWriter
from routerd.session import Session
from routerd.types import Task
from routerd.worker.fleet import Fleet
from routerd.workloads.ml import MODEL

_log = get_logger("table")

_COMPILE_SECONDS = 0.02  # changes that come closer together are compiled once …
_MINOR_SECONDS = 1.0  # … and so are those of figures alone, until which the table says what it said
_SLICE_SECONDS = 0.002  # of the event loop at a time
_MOST_PLANES = 32
#: Facts that may be different at every question: what depends on them is asked about.
_FLEETING = ("queue_ms", "utilisation", "free_bytes", "watts")


class Client(NamedTuple):
    """What a policy can tell clients apart by, and whether the client can run work itself."""

    name: str
    uid: int
    gid: int
    in_process: bool


class _Slot(NamedTuple):
    client_class: str
    client: Client
    workload: str


class DecisionTable:
    """Owns the shared memory. Nothing is kept up to date before :meth:`start`. Raises ``OSError`` without memory for it."""

    def __init__(self, router: Router, fleet: Fleet) -> None:
        self._router = router
        self._fleet = fleet
        self._memory, self._descriptor = create_published(SIZE)
        self._writer = SlotWriter(self._memory)
        self._slots: list[_Slot] = []
        self._places: dict[tuple[str, str], int] = {}
        self._classes: dict[Hashable, str] = {}
        # Never again the same number, or a client might take others' answers for its own.
        self._class_numbers = itertools.count()
        self._silent: set[int] = set()  # slots that say nothing until they are compiled anew
        self._moved: set[int] = set()  # slots whose figures have moved a little
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._heart: asyncio.TimerHandle | None = None
        self._ambient: Mapping[str, Any] = {}
        self._generation = router.active.generation
        self.compiled = 0
        self.compile_seconds = 0.0
        self.too_large = 0

    @property
    def entries(self) -> int:
        """Entries that clients have asked for."""
        return len(self._slots)

    def start(self) -> None:
        """Follow the router and the fleet, and beat."""
        self._router.on_change = self.changed
        self._fleet.on_busy = self._writer.set_busy
        self._writer.set_busy(self._fleet.busy)
        self._beat()

    def stop(self) -> None:
        """Clients ask from now on, and find nobody."""
        for timer in (self._timer, self._heart):
            if timer is not None:
                timer.cancel()
        self._withdraw_all()

    def descriptor(self) -> int:
        """A descriptor to send: read-only, and the receiver's to close. Raises ``OSError`` when there are no more."""
        return os.dup(self._descriptor)

    def locate(self, session: Session, params: Locate) -> Located:
        """Where the entry for this client and workload is; it is compiled if there is none. Raises ``UnknownWorkload``."""
        workload = self._router.workload(params.workload)
        if workload.name == MODEL:
            return Located(ASK, "", f"{MODEL} depends on which model is asked for")
        client = Client(session.name, session.uid, session.gid, session.in_process)
        client_class = self._class_of(client)
        place = (client_class, workload.name)
        slot = self._places.get(place)
        if slot is None:
            if len(self._slots) == SLOTS:
                self._forget_all()
                client_class = self._class_of(client)
                place = (client_class, workload.name)
            slot = self._places[place] = len(self._slots)
            self._slots.append(_Slot(client_class, client, workload.name))
            self._fleet.want(workload.name)
            self._compile(slot)
        return Located(slot, client_class)

    def changed(self, workload: str | None, minor: bool) -> None:
        """Entries of this workload, or all, are to be compiled anew. Unless the change is minor, they say nothing until then."""
        if self._router.active.generation != self._generation:  # classes of clients may be others now
            self._generation = self._router.active.generation
            self._forget_all()
        for slot, held in enumerate(self._slots):
            if workload not in (None, held.workload):
                continue
            if minor:
                self._moved.add(slot)
            else:
                self._writer.withdraw(slot)
                self._silent.add(slot)
        if self._silent:
            self._compile_in(_COMPILE_SECONDS)
        elif self._moved:
            self._compile_in(_MINOR_SECONDS)

    def _compile_in(self, seconds: float) -> None:
        """Compile after so many seconds, unless it is to be sooner anyway."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._timer, self._due = loop.call_later(seconds, self._compile_some), due

    def _class_of(self, client: Client) -> str:
        compiled = self._router.active.compiled
        key = (compiled.client_key(client.name, client.uid, client.gid), client.in_process)
        known = self._classes.get(key)
        if known is None:
            known = self._classes[key] = f"{self._router.active.generation}.{next(self._class_numbers)}"
        return known

    def _forget_all(self) -> None:
        self._withdraw_all()
        self._slots.clear()
        self._places.clear()
        self._classes.clear()
        self._silent.clear()
        self._moved.clear()

    def _withdraw_all(self) -> None:
        for slot in range(len(self._slots)):
            self._writer.withdraw(slot)

    def _beat(self) -> None:
        self._heart = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)
        self._writer.beat()
        if self._slots:
            ambient = self._lasting(self._router.ambient())
            if ambient != self._ambient:
                self._ambient = ambient
                self.changed(None, minor=False)

    def _compile_some(self) -> None:
        """Compile what has changed, first what says nothing until then, but let requests in between."""
        self._timer = None
        until = perf_counter() + _SLICE_SECONDS
        while self._silent or self._moved:
            slot = (self._silent or self._moved).pop()
            self._moved.discard(slot)
            self._compile(slot)
            if perf_counter() >= until:
                self._compile_in(0.0)
                return

    def _compile(self, slot: int) -> None:
        held = self._slots[slot]
        started = perf_counter()
        try:
            payload = entries.encode(self._entry(held))
        except (UnknownWorkload, UnknownModel, Unavailable):  # a model that was removed
            self._writer.withdraw(slot)
            return
        if not self._writer.write(slot, payload):
            self.too_large += 1
            _log.warning("entry too large for the table, clients ask", workload=held.workload, bytes=len(payload))
        self.compiled += 1
        self.compile_seconds += perf_counter() - started

    def _entry(self, held: _Slot) -> Entry:
        active, workload = self._router.active, self._router.workload(held.workload)
        compiled = active.compiled
        batches: tuple[float, ...] = ()
        sizes: tuple[float, ...] = ()
        if not self._decided(
            held, frozenset({"task.batch", "task.bytes"})
        ):  # some rule for this workload looks at them
            batches = _told_apart(compiled, "task.batch") if workload.batch_dim else ()
            sizes = _told_apart(compiled, "task.bytes")
        grounds: list[Ground] = []
        planes = []
        for batch, nbytes in _places(batches, sizes):
            values = {"task.batch": _value(batches, batch), "task.bytes": _value(sizes, nbytes)}
            pieces = [
                (start, self._ground(held, {"task.work": start, **values}, grounds))
                for start in compiled.pieces("task.work")
            ]
            planes.append(Plane(batch, nbytes, spans_of(pieces, grounds)))
        return Entry(
            client_class=held.client_class,
            workload=workload.name,
            tolerance=workload.tolerance,
            generation=active.generation,
            batches=batches,
            sizes=sizes,
            planes=tuple(planes),
            grounds=tuple(grounds),
            most_bytes=self._most_bytes(grounds),
        )

    def _most_bytes(self, grounds: Sequence[Ground]) -> int | None:
        """Of what size tasks are that fit on every device that the grounds know; ``None``: of any."""
        if not any(offer.device_kind in LIMITED_KINDS for ground in grounds for offer in ground.offers):
            return None
        certain = self._router.planner.memory.certain_bytes()
        return None if math.isinf(certain) else int(certain)

    def _decided(self, held: _Slot, unknown: frozenset[str]) -> bool:
        pieces = self._router.active.compiled.pieces("task.work")
        return all(self._verdict(held, {"task.work": start}, unknown) is not None for start in pieces)

    def _verdict(self, held: _Slot, values: Mapping[str, float | None], unknown: frozenset[str]) -> Verdict | None:
        """What the policy says of such tasks; ``None`` where that depends on what only the moment of asking tells."""
        active, workload = self._router.active, self._router.workload(held.workload)
        task = Task(workload.name, {}, {}, {}, values["task.work"] or 0.0, 0, workload.tolerance)
        facts = self._router.facts.gather(task, workload, held.client, active.compiled.facts_used)
        facts |= {name: value for name, value in values.items() if value is not None}
        backends = [(name, backend.spec.device_kind) for name, backend in self._fleet.backends.items()]
        backends.append((HYBRID_BACKEND, "hybrid"))
        if held.client.in_process:
            backends.append((IN_PROCESS_BACKEND, "in_process"))
        return active.compiled.verdict_unless(facts, lambda fact: fact in unknown or _is_fleeting(fact), backends)

    def _ground(self, held: _Slot, values: Mapping[str, float | None], grounds: list[Ground]) -> int:
        """The index among ``grounds`` (to which it is added) of the ground for such tasks, or :data:`ASK`."""
        verdict = self._verdict(held, values, frozenset())
        if verdict is None:
            return ASK
        tolerance = self._router.workload(held.workload).tolerance
        ground = self._router.planner.ground(
            held.workload,
            tolerance,
            verdict,
            self._router.active,
            in_process=held.client.in_process,
            large=False,
        )
        if not ground.offers or not all(offer.curve.timed for offer in ground.offers):
            return ASK  # soon there is more to say
        if "energy" in verdict.objective and "sensor" in ground.preference.watts_from:
            return ASK  # watts are read anew for every question
        if ground in grounds:
            return grounds.index(ground)
        grounds.append(ground)
        return len(grounds) - 1

    def _lasting(self, ambient: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: value for name, value in ambient.items() if not _is_fleeting(name)}


def _is_fleeting(fact: str) -> bool:
    return fact.startswith("time.") or (fact.startswith("hardware.") and fact.rpartition(".")[2] in _FLEETING)


def _places(batches: tuple[float, ...], sizes: tuple[float, ...]) -> list[tuple[int, int]]:
    """Every plane that an entry has: each piece of batch with each piece of bytes, and both not known."""
    found = [(batch, size) for batch in _pieces(batches) for size in _pieces(sizes)]
    return found if len(found) <= _MOST_PLANES else [one for one in found if NOT_KNOWN in one][:_MOST_PLANES]


def _told_apart(compiled: CompiledPolicy, fact: str) -> tuple[float, ...]:
    """Where the pieces of a fact start; none if no condition asks about it, not even whether it is known."""
    return compiled.pieces(fact) if fact in compiled.facts_used else ()


def _pieces(starts: tuple[float, ...]) -> list[int]:
    return [NOT_KNOWN, *range(len(starts))] if starts else [0]


def _value(starts: tuple[float, ...], piece: int) -> float | None:
    """What stands for a piece; nothing where it is not known, or makes no difference."""
    return starts[piece] if starts and piece != NOT_KNOWN else None
