"""Timing teams of backends in idle time: tasks that are really shared, over the sizes that their members are timed at."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from time import perf_counter

from msgspec import MsgspecError, msgpack

from routerd.costs.model import CostModel
from routerd.costs.timing import Request, Timed, sizes
from routerd.errors import ExecutionError, RouterdError, Unavailable
from routerd.hybrid import Partner, Shared, share
from routerd.interfaces import HYBRID_BACKEND
from routerd.logs import get_logger
from routerd.store import Store
from routerd.worker import messages
from routerd.worker.fleet import BackendState, Fleet, Knowledge
from routerd.worker.queue import BACKGROUND, NOBODY
from routerd.worker.teams import Team

_log = get_logger("calibration")

_RETRY_SECONDS = 600.0
_WAY_SECONDS = 100e-6  # to a worker and back
_IDLE_POLL_SECONDS = 0.05


class TeamTiming:
    """Brings teams from unknown to timed. ``form_teams`` forms those that tasks could be given to.

    ``fingerprint_of(backend, workload)`` is what a pair's measurements are kept under, or ``None``.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        run_seconds: float,
        fingerprint_of: Callable[[str, str], str | None],
        form_teams: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._run_seconds = run_seconds
        self._fingerprint_of = fingerprint_of
        self._form_teams = form_teams
        self._retry_at: dict[Team, float] = {}
        self._sought: set[Team] = set()

    def open(self, workloads: Collection[str] = ()) -> list[Team]:
        """The teams of these workloads (of all, when empty) that are to be timed, and could be now."""
        self._form_teams()
        now = asyncio.get_running_loop().time()
        found = []
        for team in self._fleet.teams:
            if team not in self._sought:
                self._sought.add(team)
                self._restore(team)
            wanted = not workloads or team.workload in workloads
            if wanted and (not team.model.calibrated or team.model.drifted) and self._retry_at.get(team, 0.0) <= now:
                members = self._members(team)
                if members and all(member.objection(team.workload) is None for member in members):
                    found.append(team)
        return found

    def start_again(self, workloads: Collection[str]) -> None:
        """What was timed for these workloads holds no more."""
        for team in self._fleet.teams:
            if team.workload in workloads:
                team.model, team.problem = CostModel(), None
                self._retry_at.pop(team, None)

    async def advance(self, team: Team) -> None:
        """Time a team. What keeps it from being timed is noted; it is tried again later."""
        try:
            await self._time(team)
        except (Unavailable, ExecutionError) as error:
            team.problem = error.message
            self._retry_at[team] = asyncio.get_running_loop().time() + _RETRY_SECONDS
            _log.warning("team could not be timed", team=team.label, workload=team.workload, reason=error.message)
            return
        team.problem = None
        # A team whose tasks differ from its examples drifts again: once in a while is often enough.
        self._retry_at[team] = asyncio.get_running_loop().time() + _RETRY_SECONDS
        await self._keep(team)

    async def keep_learnt(self) -> None:
        """Keep what executions have taught."""
        for team in self._fleet.teams:
            if team.model.calibrated and team.model.observations:
                await self._keep(team)

    def due_in(self) -> float:
        """Seconds until a team that was put off is due."""
        now = asyncio.get_running_loop().time()
        return min((at - now for at in self._retry_at.values() if at > now), default=_RETRY_SECONDS)

    async def _time(self, team: Team) -> None:
        series = sizes(self._fleet.workloads[team.workload].work_range, self._run_seconds)
        request = next(series)
        try:
            while True:
                await asyncio.sleep(request.pause_seconds)
                timed = await self._measure(team, request)
                try:
                    request = series.send(timed)
                except StopIteration as done:
                    team.model.calibrate(done.value)
                    return
        finally:
            for member in self._members(team):  # they keep nothing of the results
                member.worker.tell(messages.Forget(client=NOBODY))

    async def _measure(self, team: Team, request: Request) -> Timed:
        """Like one :class:`~routerd.worker.messages.Measure`, the first run of which warms up; held-up runs do not count."""
        members = self._members(team)
        shared = Shared(
            workload=team.workload,
            work=request.work,
            sample=messages.Sample(request.work),
            priority=BACKGROUND,
        )
        await self._idle(members)
        begin = perf_counter()
        work = request.work
        seconds: list[float] = []
        held_up: list[float] = []
        for repeat in range(messages.MEASURE_CALLS):
            partners = [Partner(member, _WAY_SECONDS, team.slowdown(member.spec.name)) for member in members]
            ended = await share(shared, partners)
            work = ended.work
            if ended.undisturbed:
                team.note_slowdowns(ended.slowdowns)
            if repeat > 0:
                took = ended.answer.total_seconds - ended.answer.queue_seconds
                (seconds if ended.undisturbed else held_up).append(took)
            elapsed = perf_counter() - begin
            if repeat > 0 and elapsed + elapsed / (repeat + 1) > self._run_seconds:
                break
        return Timed(work, seconds or held_up)

    async def _idle(self, members: Collection[BackendState]) -> None:
        """Wait until none of the devices computes."""
        while not all(self._fleet.is_idle(kind) for kind in {member.spec.device_kind for member in members}):
            await asyncio.sleep(_IDLE_POLL_SECONDS)

    def _members(self, team: Team) -> list[BackendState]:
        return [self._fleet.backends[name] for name in team.members]

    # -- what is kept -------------------------------------------------------------------------------------------------

    def _key(self, team: Team) -> str | None:
        """The fingerprint of all members together."""
        keys = [self._fingerprint_of(member, team.workload) for member in team.members]
        return None if None in keys else hashlib.sha256(repr(keys).encode()).hexdigest()[:32]

    def _restore(self, team: Team) -> None:
        key = self._key(team)
        if key is None or team.model.calibrated:
            return
        try:
            known = self._store.load_calibrations(key).get((HYBRID_BACKEND, team.workload))
            if known is not None:
                team.model = CostModel(msgpack.decode(known, type=Knowledge).model)
        except (RouterdError, MsgspecError, ValueError) as error:
            _log.error("kept calibration not usable", team=team.label, workload=team.workload, reason=str(error))

    async def _keep(self, team: Team) -> None:
        key = self._key(team)
        if key is None:
            return
        known = msgpack.encode(Knowledge(0.0, None, team.model.state()))
        try:
            await asyncio.to_thread(self._store.save_calibration, key, HYBRID_BACKEND, team.workload, known)
        except RouterdError as error:
            _log.error("calibration not kept", team=team.label, workload=team.workload, reason=error.message)
