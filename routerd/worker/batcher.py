"""Joining jobs of one worker: which run together, which wait a moment for company, and what each is answered.

While the worker is busy, jobs that may run as one pile up in its queue; when it has room, they are taken together. On an idle
worker a job is held back only where others like it are on their way and what they save is worth the wait
(:mod:`routerd.costs.batching`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from routerd.costs.batching import MOST_DELAY_SECONDS, Arrivals, Batch, Sizes, best_members, delay_seconds
from routerd.memory import MAX_DESCRIPTORS
from routerd.outbox import close_all
from routerd.worker import messages
from routerd.worker.queue import Answer, Job, JobQueue, Joinable, Make, Together

_KEPT_KEYS: Final = 256


class Timer(Protocol):
    """What can be cancelled."""

    def cancel(self) -> None:
        """Do not call back any more."""


#: Calls back after so many seconds, or a little earlier.
Later: TypeAlias = Callable[[float, Callable[[], None]], Timer]


class Joined(NamedTuple):
    """Executions that joined several tasks, and the tasks that they computed."""

    executions: int = 0
    tasks: int = 0


class Batcher:
    """Decides which jobs of a queue run as one. A job that is held is out of the queue until it is released into it.

    ``known`` gives the segments that the worker has mapped: a message cannot carry more than so many new ones.
    """

    def __init__(
        self,
        queue: JobQueue,
        clock: Callable[[], float],
        later: Later,
        known: Callable[[], Collection[int]],
        *,
        enabled: bool,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._later = later
        self._known = known
        self._enabled = enabled
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._held: dict[Hashable, _Held] = {}
        self.joined = Joined()

    @property
    def held(self) -> int:
        """How many jobs wait for company."""
        return sum(len(held.jobs) for held in self._held.values())

    def arrived(self, job: Job) -> None:
        """A job was asked for."""
        if job.joinable is not None and self._enabled:
            self._kind_of(job.joinable).arrivals.note(job.client, self._clock())

    def gather(self, job: Job, *, idle: bool) -> Sequence[Job]:
        """The jobs that run now, as one, with a job that was taken from the queue; none if they wait for more."""
        if job.joinable is None or not self._enabled or self._is_lonely(job, job.joinable, idle=idle):
            return [job]
        if not self._kind_of(job.joinable).arrivals.joinable():
            return [job]
        now = self._clock()
        batch, members = self._batch(job, job.joinable, now)
        if idle and self._waits(batch, members, job.joinable, now):
            return []
        held = self._held.get(job.joinable.key)
        for member in members:
            self._queue.discard(member)
            if held is not None and member in held.jobs:
                held.jobs.remove(member)
        if held is not None and not held.jobs:
            held.timer.cancel()
            del self._held[job.joinable.key]
        if len(members) == 1 and job.waited:
            self._kind_of(job.joinable).arrivals.waited(now - job.queued_at)
        return members

    def _is_lonely(self, job: Job, first: Joinable, *, idle: bool) -> bool:
        """Whether there is plainly nobody to join, now or soon: told without asking the curve, as most tasks of one client are."""
        if self._queue or job.waited or first.key in self._held:
            return False
        return not idle or self._kind_of(first).arrivals.interval_seconds() > MOST_DELAY_SECONDS

    def expects_company(self, job: Job, seconds: float) -> bool:
        """Whether another job like this is likely to come within this time, so that it is better not handed over alone."""
        if job.joinable is None or not self._enabled:
            return False
        arrivals, sizes = self._kind_of(job.joinable)
        near = arrivals.interval_seconds() < seconds
        return near and arrivals.joinable() and best_members(job.joinable.curve, job.joinable.work, sizes=sizes) > 1

    def note(self, members: Sequence[Job], outcome: messages.ExecutedJoined) -> None:
        """What has become of a joined job."""
        sizes = [len(execution.members) for execution in outcome.executions if len(execution.members) > 1]
        self.joined = Joined(self.joined.executions + len(sizes), self.joined.tasks + sum(sizes))
        first = members[0].joinable
        ran = sum(len(execution.members) for execution in outcome.executions)
        if first is not None and ran:
            kind = self._kind_of(first)
            kind.arrivals.joined(ran, len(outcome.executions))
            for execution in outcome.executions:
                kind.sizes.note(len(execution.members), execution.transfer_seconds + execution.kernel_seconds)

    def ran_alone(self, job: Job, seconds: float) -> None:
        """A job that was joined with nothing took so long."""
        if job.joinable is not None and self._enabled:
            self._kind_of(job.joinable).sizes.note(1, seconds)

    def discard(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        if job.joinable is None:
            return
        held = self._held.get(job.joinable.key)
        if held is not None and job in held.jobs:
            held.jobs.remove(job)
            if not held.jobs:
                held.timer.cancel()
                del self._held[job.joinable.key]

    def clear(self) -> list[Job]:
        """Take every held job."""
        jobs: list[Job] = []
        for held in self._held.values():
            held.timer.cancel()
            jobs += held.jobs
        self._held.clear()
        return jobs

    def _batch(self, job: Job, first: Joinable, now: float) -> tuple[Batch, list[Job]]:
        """The job with all that wait and fit, in their order."""
        batch = Batch(first.curve, first.work, first.nbytes, job.expires_at, self._kind_of(first).sizes)
        members, known = [job], self._known()
        fresh = {segment for segment in first.segments if segment not in known}
        held = self._held.get(first.key)
        waiting = [*(held.jobs if held is not None else ()), *self._queue.joinable(first.key)]
        for other in waiting if not batch.full else ():
            if other.joinable is None or other.future.done():
                continue
            more = fresh.union(segment for segment in other.joinable.segments if segment not in known)
            if len(more) > MAX_DESCRIPTORS:
                continue
            if batch.admit(other.joinable.work, other.joinable.nbytes, other.expires_at, now):
                members.append(other)
                fresh = more
        return batch, members

    def _waits(self, batch: Batch, members: Sequence[Job], first: Joinable, now: float) -> bool:
        """Hold the members back, if that pays and nobody's deadline is in danger; whether it was done."""
        if batch.full or any(job.waited for job in members):
            return False
        interval = self._kind_of(first).arrivals.interval_seconds()
        delay = delay_seconds(first.curve, batch.work / batch.members, batch.members, interval)
        held = self._held.get(first.key)
        if held is None:
            delay -= now - min(job.queued_at for job in members)  # what they have waited already counts
        largest = best_members(first.curve, first.work) * first.work
        ends_at = now + delay + first.curve.predict(max(largest, batch.work)).seconds
        if delay <= 0.0 or any(job.expires_at is not None and job.expires_at < ends_at for job in members):
            return False
        if held is None:
            held = self._held[first.key] = _Held(self._later(delay, lambda: self._release(first.key)))
        for job in members:
            self._queue.discard(job)
            if job not in held.jobs:
                held.jobs.append(job)
        return True

    def _release(self, key: Hashable) -> None:
        """The time is over: the jobs go back to their places in the queue."""
        held = self._held.pop(key, None)
        for job in held.jobs if held is not None else ():
            job.waited = True
            self._queue.push(job)

    def _kind_of(self, first: Joinable) -> _Kind:
        kind = self._kinds.get(first.key)
        if kind is None:
            kind = self._kinds[first.key] = _Kind(Arrivals(), Sizes())
            if len(self._kinds) > _KEPT_KEYS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(first.key)
        return kind


class _Kind(NamedTuple):
    """What was seen of the requests of one join key."""

    arrivals: Arrivals
    sizes: Sizes


class _Held:
    """Jobs of one key that wait for company until ``timer`` rings."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.jobs: list[Job] = []


def predicted_seconds(members: Sequence[Job]) -> float:
    """What joined jobs take together."""
    joinables = [job.joinable for job in members if job.joinable is not None]
    return joinables[0].curve.predict(sum(one.work for one in joinables)).seconds


def join_messages(members: Sequence[Job]) -> Make:
    """The message of joined jobs, from those of each, which must be ``Execute`` for the same backend and workload."""

    def make(number: int) -> tuple[messages.ExecuteJoined, Sequence[int]]:
        parts: list[messages.Execute] = []
        descriptors: list[int] = []
        for job in members:
            message, more = job.make(number)
            assert isinstance(message, messages.Execute)
            parts.append(message)
            descriptors += more
        joined = messages.ExecuteJoined(
            number,
            parts[0].backend,
            parts[0].workload,
            tuple(
                messages.Member(one.params, one.arrays, one.dims, one.client, one.decision_id, one.recycle)
                for one in parts
            ),
            tuple(info for one in parts for info in one.attach),
            tuple(dict.fromkeys(segment for one in parts for segment in one.frozen)),
        )
        return joined, descriptors

    return make


def split_answers(job: Job, outcome: messages.Outcome, descriptors: list[int], now: float) -> list[Answer]:
    """Each member's own answer, with the descriptors of its own segments; all the same where the job could not be begun."""
    if not isinstance(outcome, messages.ExecutedJoined):
        close_all(descriptors)
        return [
            Answer(outcome, [], job.started_at - member.queued_at, now - member.queued_at) for member in job.members
        ]
    together: dict[int, Together] = {}
    alone = len(outcome.executions) == 1
    for execution in outcome.executions:
        joinables = [job.members[place].joinable for place in execution.members]
        work = sum(one.work for one in joinables if one is not None)
        seconds = execution.transfer_seconds + execution.kernel_seconds
        speaker = next((place for place in execution.members if not job.members[place].future.done()), None)
        for place in execution.members:
            together[place] = Together(len(execution.members), work, seconds, place == speaker, alone)
    answers: list[Answer] = []
    taken = 0
    for place, (member, part) in enumerate(zip(job.members, outcome.members, strict=True)):
        count = len(part.created) if isinstance(part, messages.Executed) else 0
        mine, taken = descriptors[taken : taken + count], taken + count
        waited, took = job.started_at - member.queued_at, now - member.queued_at
        answers.append(Answer(part, mine, waited, took, together.get(place)))
    return answers
