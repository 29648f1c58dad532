"""Jobs of one worker that wait for their turn: fair between clients, by priority, and nobody waits for ever.

The order is that of start-time fair queueing (Goyal, Vin and Cheng 1996, "Start-time Fair Queueing"): every client has a
virtual clock that its jobs advance by their predicted seconds, and the job whose client's clock is furthest behind is next.
A client with one job so waits for at most one job of every other client, however many these have queued. A step of priority
puts a job ahead by :data:`PRIORITY_SECONDS` of such service, and no more: what others were given meanwhile makes up for it,
so that work of the lowest priority is served too. That this holds where every job is of another client, the virtual time
advances by what was served, up to what waits next.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from routerd.costs.curve import Curve
from routerd.worker import messages

#: Seconds of service to others that outweigh one step of priority.
PRIORITY_SECONDS: Final = 1.0
#: The priority of what somebody waits for, unless they say more.
FOREGROUND: Final = 0
#: Proofs and calibration yield to every task for a long time.
BACKGROUND: Final = -100
#: The client number of work that no client asked for.
NOBODY: Final = -1

_SPARE = 64  # entries that are of no more use, before they are looked for and dropped


class Together(NamedTuple):
    """The execution that computed a task together with others: how many, their work and service seconds in all.

    ``first`` is true of one of them, which speaks for all; ``alone`` where the job held no other execution.
    """

    members: int
    work: float
    seconds: float
    first: bool
    alone: bool


class Answer(NamedTuple):
    """An outcome, the descriptors that came with it (the receiver closes them), and the seconds it waited and took."""

    outcome: Any
    descriptors: list[int]
    queue_seconds: float
    total_seconds: float
    together: Together | None = None


class Joinable(NamedTuple):
    """What decides about joining a task with others of the same ``key``: its cost, the bytes that are its own, its segments."""

    key: Hashable
    curve: Curve
    work: float
    nbytes: int
    segments: tuple[int, ...] = ()


#: Builds a job's message and names the descriptors to send with it, when its turn has come.
Make: TypeAlias = Callable[[int], "tuple[messages.Job, Sequence[int]]"]


class Job:
    """One piece of work for a worker.

    ``seconds`` is how long it is predicted to run, ``limit`` after how many it counts as hung, ``expires_at`` the time after
    which it is not worth starting; times are those of the queue's owner. Jobs that are ``joinable`` by the same key may run as
    one, which is then a job with these ``members``; one that has ``waited`` for company waits no more.
    """

    __slots__ = (
        "client",
        "expires_at",
        "future",
        "joinable",
        "limit",
        "listed",
        "make",
        "members",
        "number",
        "order",
        "priority",
        "queued",
        "queued_at",
        "seconds",
        "start",
        "started_at",
        "waited",
    )

    def __init__(
        self,
        make: Make,
        *,
        seconds: float,
        limit: float,
        future: asyncio.Future[Answer],
        queued_at: float,
        client: int = NOBODY,
        priority: int = 0,
        expires_at: float | None = None,
        joinable: Joinable | None = None,
        members: Sequence[Job] = (),
    ) -> None:
        self.make = make
        self.seconds = seconds
        self.limit = limit
        self.future = future
        self.queued_at = queued_at
        self.client = client
        self.priority = priority
        self.expires_at = expires_at
        self.joinable = joinable
        self.members = members
        self.waited = False
        self.started_at = 0.0
        self.number = 0
        self.start = 0.0
        self.order = (0.0, 0)
        self.queued = False
        self.listed = False  # in the heap, queued or not

    def __lt__(self, other: Job) -> bool:
        return self.order < other.order


class _Backlog:
    """What one client has in the queue."""

    __slots__ = ("count", "finish", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.count = 0
        self.finish = 0.0  # where its virtual clock stands


class JobQueue:
    """Jobs by the order in which they are to start."""

    def __init__(self) -> None:
        self._heap: list[Job] = []
        self._clients: dict[int, _Backlog] = {}
        self._now = 0.0  # the virtual time: the start tag of what was served last
        self._numbers = 0
        self._count = 0
        self._sweep_at = _SPARE

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job]:
        """The jobs, in no order."""
        return (job for job in self._heap if job.queued)

    def push(self, job: Job) -> None:
        """Queue a job behind what its client has queued already."""
        backlog = self._clients.get(job.client)
        if backlog is None:
            self._sweep_clients()
            backlog = self._clients[job.client] = _Backlog()
        if not job.number:  # a job that comes back keeps its place
            self._numbers += 1
            job.number = self._numbers
            job.start = max(self._now, backlog.finish)
            backlog.finish = job.start + job.seconds
            job.order = (job.start - job.priority * PRIORITY_SECONDS, job.number)
        backlog.seconds += job.seconds
        backlog.count += 1
        self._count += 1
        job.queued = True
        if not job.listed:
            job.listed = True
            heapq.heappush(self._heap, job)

    def peek(self) -> Job | None:
        """The next job, left where it is."""
        while self._heap and not self._heap[0].queued:
            heapq.heappop(self._heap).listed = False
        return self._heap[0] if self._heap else None

    def pop(self) -> Job | None:
        """Take the next job."""
        job = self.peek()
        if job is not None:
            heapq.heappop(self._heap).listed = False
            self._now = max(self._now, job.start)
            self._leave(job)
            following = self.peek()
            if (
                following is not None and following.start <= self._now
            ):  # only its priority holds it back: it comes nearer
                self._now = max(self._now, min(self._now + job.seconds, following.order[0]))
        return job

    def joinable(self, key: Hashable) -> list[Job]:
        """The jobs that may run as one with a job of this key, in their order; they stay in the queue."""
        return sorted(job for job in self if job.joinable is not None and job.joinable.key == key)

    def discard(self, job: Job) -> None:
        """Take a job out, if it is in."""
        if job.queued:
            self._leave(job)
            if len(self._heap) > 2 * self._count + _SPARE:
                self._rebuild([one for one in self._heap if one.queued])

    def clear(self) -> list[Job]:
        """Take every job."""
        jobs = sorted(self)
        for job in jobs:
            self._leave(job)
        return jobs

    def seconds_ahead(self, client: int) -> float:
        """Predicted seconds of the jobs that would be served before a new one of this client, of usual priority."""
        own = self._clients.get(client)
        own_seconds = 0.0 if own is None else own.seconds
        ahead = own_seconds
        for other, backlog in self._clients.items():
            if other not in (client, NOBODY) and backlog.count:
                ahead += min(backlog.seconds, own_seconds + backlog.seconds / backlog.count)
        return ahead

    def _leave(self, job: Job) -> None:
        job.queued = False
        self._count -= 1
        backlog = self._clients[job.client]
        backlog.count -= 1
        backlog.seconds = backlog.seconds - job.seconds if backlog.count else 0.0
        if not self._count:  # all start anew, together
            self._rebuild([])
            self._now = max(self._now, *(one.finish for one in self._clients.values()))
            self._clients.clear()

    def _rebuild(self, jobs: list[Job]) -> None:
        for job in self._heap:
            job.listed = False
        for job in jobs:
            job.listed = True
        heapq.heapify(jobs)
        self._heap = jobs

    def _sweep_clients(self) -> None:
        """Forget clients that have nothing here and whose clocks others have passed: they start anew with no loss to anybody."""
        if len(self._clients) >= self._sweep_at:
            self._clients = {
                number: one for number, one in self._clients.items() if one.count or one.finish > self._now
            }
            self._sweep_at = 2 * len(self._clients) + _SPARE
