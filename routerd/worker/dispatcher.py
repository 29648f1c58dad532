"""A worker's jobs: in which order, how many at once, which as one, and whose answer is whose."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from time import perf_counter

from routerd.errors import LimitExceeded, OutOfMemory, Overloaded, TaskTimeout, Unavailable, from_wire
from routerd.logs import get_logger
from routerd.outbox import close_all
from routerd.protocol import failure
from routerd.worker import messages
from routerd.worker.batcher import Batcher, Joined, join_messages, predicted_seconds, split_answers
from routerd.worker.channel import Channel
from routerd.worker.launch import WorkerSettings
from routerd.worker.queue import NOBODY, Answer, Job, JobQueue, Joinable, Make

_log = get_logger("worker")

_DEPTH = 2  # tiny jobs handed to the process: one runs, one waits in its socket so that it never idles between them
_PIPELINED_SECONDS = 500e-6  # what two such jobs take at most; beside longer ones the gap is small, and what is handed
# over can no longer be overtaken
_TICK_SECONDS = 1e-3  # what the event loop's timers can tell apart
_NO_DESCRIPTORS = (
    "the daemon has no descriptor left for the segment of the result (Too many open files); free segments, or raise the "
    "daemon's limit (RLIMIT_NOFILE)"
)


class Displaced(Unavailable):
    """The worker ended before it had started the job, which may be asked for again.

    ``detail["alone"]``: it ran the job together with others, and it is not known whose fault its end was; each is to run
    alone.
    """


class Dispatcher:
    """The jobs of one worker: queues them and hands them to its process, as long as there is one.

    ``known_segments`` are those that the process has mapped. ``on_busy(busy)`` is called when there is work after none, and when
    there is none again.
    """

    def __init__(self, name: str, settings: WorkerSettings, on_busy: Callable[[bool], None]) -> None:
        self.name = name
        self.known_segments: set[int] = set()
        self._settings = settings
        self._on_busy = on_busy
        self._busy = False
        self._channel: Channel | None = None
        self._queue = JobQueue()
        self._batcher = Batcher(
            self._queue, perf_counter, self._later, lambda: self.known_segments, enabled=settings.batching
        )
        self._running: dict[int, Job] = {}
        self._ids = itertools.count(1)

    def attach(self, channel: Channel) -> None:
        """There is a new process."""
        self.known_segments = set()
        self._channel = channel

    def detach(self) -> None:
        """The process is gone, or to go. Its jobs stay, until :meth:`give_up`."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @property
    def up(self) -> bool:
        """Whether there is a process to hand jobs to."""
        return self._channel is not None

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._queue and not self._batcher.held

    @property
    def batching(self) -> bool:
        """Whether tasks may run together with others."""
        return self._settings.batching

    @property
    def joined(self) -> Joined:
        """What was joined so far."""
        return self._batcher.joined

    @property
    def waiting(self) -> int:
        """Jobs that wait or run."""
        running = sum(len(job.members) or 1 for job in self._running.values())
        return len(self._queue) + self._batcher.held + running

    def queue_seconds(self, client: int = NOBODY) -> float:
        """Predicted seconds until a job that this client queues now would start."""
        if not self._running:
            return 0.0
        jobs = iter(self._running.values())
        first = next(jobs)
        left = max(first.seconds - (perf_counter() - first.started_at), 0.0)
        return left + sum(job.seconds for job in jobs) + self._queue.seconds_ahead(client)

    @property
    def current(self) -> Job | None:
        """What the process runs."""
        return next(iter(self._running.values()), None)

    async def ask(
        self,
        make: Make,
        *,
        seconds: float,
        priority: int = 0,
        limit: float | None = None,
        client: int = NOBODY,
        expires_at: float | None = None,
        joinable: Joinable | None = None,
    ) -> Answer:
        """Queue a job, expected to take ``seconds``, and wait for its outcome. Higher ``priority`` runs earlier.

        ``limit`` bounds it in place of the limit of tasks, in seconds. One that is ``joinable`` may run together with others,
        and its message is then an :class:`~routerd.worker.messages.Execute`. It is not started after ``expires_at`` (``perf_counter``).

        Raises what the worker reported; ``WorkerCrashed``, ``TaskTimeout`` or ``OutOfMemory``, with ``detail["worker"]``,
        if the process ended, or was ended, while it ran the job; ``Displaced`` if it ended before, or is down; ``TaskTimeout``
        for an expired job; ``Overloaded`` if too much waits.
        """
        if self._channel is None:
            raise Displaced(f"worker {self.name} is down and will be restarted")
        if client != NOBODY and len(self._queue) >= self._settings.queue_limit:
            wait = self.queue_seconds(client)
            raise Overloaded(
                f"{len(self._queue)} tasks wait for worker {self.name}, which is the limit (max_queued_per_backend); "
                f"retry later",
                retry_after_seconds=wait,
            )
        job = self.put(make, seconds, limit, priority, client, expires_at, joinable)
        try:
            answer = await job.future
        except asyncio.CancelledError:
            if job.future.done() and not job.future.cancelled() and job.future.exception() is None:
                answer = job.future.result()  # it came in the same moment
                self._abandon(answer.outcome, answer.descriptors)
            self._queue.discard(job)
            self._batcher.discard(job)
            self._note_busy()
            raise
        if isinstance(answer.outcome, messages.Failed):
            error = answer.outcome.error
            if answer.outcome.trace:
                _log.error("job failed", worker=self.name, reason=error.message, trace=answer.outcome.trace)
            raise from_wire(error.code, error.message, error.detail)
        return answer

    def hang_seconds(self, seconds: float) -> float:
        """After how many seconds a task that is predicted to take ``seconds`` counts as hung."""
        settings = self._settings
        return min(max(settings.hang_factor * seconds, settings.hang_floor_seconds), settings.task_timeout_seconds)

    def tell(self, notice: messages.Notice) -> None:
        """Send a message that has no reply, ahead of the jobs to come."""
        if self._channel is not None:
            self._channel.post(notice)

    def give_up(self, why: Exception, why_begun: Exception | None = None) -> None:
        """Fail all jobs; the one that the process had begun for a reason of its own, where there is one."""
        begun = self.current
        if begun is not None and why_begun is not None:
            fail(begun, why_begun)
        jobs = [*self._running.values(), *self._queue.clear(), *self._batcher.clear()]
        self._running.clear()
        for job in jobs:
            fail(job, why)
        self._note_busy()

    def put(
        self,
        make: Make,
        seconds: float,
        limit: float | None,
        priority: int,
        client: int = NOBODY,
        expires_at: float | None = None,
        joinable: Joinable | None = None,
    ) -> Job:
        """Queue a job; see :meth:`ask`."""
        job = Job(
            make,
            seconds=seconds,
            limit=limit or self._settings.task_timeout_seconds,
            future=asyncio.get_running_loop().create_future(),
            queued_at=perf_counter(),
            client=client,
            priority=priority,
            expires_at=expires_at,
            joinable=joinable,
        )
        self._batcher.arrived(job)
        self._queue.push(job)
        self._dispatch()
        return job

    def _dispatch(self) -> None:
        while self._channel is not None and self._has_room():
            job = self._queue.pop()
            if job is None:
                break
            now = perf_counter()
            if job.expires_at is not None and now >= job.expires_at:
                fail(job, TaskTimeout(_expired_words(self.name, now - job.queued_at)))
                continue
            members = self._batcher.gather(job, idle=not self._running)
            if len(members) > 1:
                self._hand_over(self._channel, self._joined(members), now)
            elif members:
                self._hand_over(self._channel, job, now)
        self._note_busy()

    def _joined(self, members: Sequence[Job]) -> Job:
        """Jobs as one. Should they fail together, they are run each alone, which is what the time limit allows for."""
        seconds = predicted_seconds(members)
        alone = sum(job.seconds for job in members)
        limit = max(*(job.limit for job in members), self.hang_seconds(seconds + alone))
        return Job(
            join_messages(members),
            seconds=seconds,
            limit=limit,
            future=asyncio.get_running_loop().create_future(),
            queued_at=members[0].queued_at,
            members=members,
        )

    def _later(self, seconds: float, release: Callable[[], None]) -> asyncio.Handle:
        """Release held jobs after this time: after one turn of the loop where its clock cannot tell less."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            release()
            self._dispatch()

        ticks = int(seconds / _TICK_SECONDS)  # rounded down: it must not become more than was promised
        return loop.call_later(ticks * _TICK_SECONDS, wake) if ticks else loop.call_soon(wake)

    def _has_room(self) -> bool:
        """Whether the process may be handed the next job now."""
        if not self._running:
            return True
        job = self._queue.peek()
        if job is None or len(self._running) >= _DEPTH:
            return False
        first = next(iter(self._running.values()))
        return job.seconds + first.seconds <= _PIPELINED_SECONDS and not self._batcher.expects_company(
            job, first.seconds
        )

    def _hand_over(self, channel: Channel, job: Job, now: float) -> None:
        number = next(self._ids)
        job.started_at = now
        self._running[number] = job
        message, descriptors = job.make(number)
        try:
            channel.send(message, descriptors)
        except OSError as error:  # out of descriptors: this task fails, the next may find some
            del self._running[number]
            if isinstance(message, messages.Execute | messages.ExecuteJoined | messages.ExecutePart | messages.Merge):
                self.known_segments -= {info.segment for info in message.attach}
            fail(job, Unavailable(f"worker {self.name} cannot be handed the task: {error.strerror}"))

    def _note_busy(self) -> None:
        busy = not self.idle
        if busy is not self._busy:
            self._busy = busy
            self._on_busy(busy)

    def _outcome(self, outcome: messages.Outcome, descriptors: list[int]) -> None:
        now = perf_counter()
        if len(descriptors) < len(getattr(outcome, "created", ())):
            self._abandon(outcome, descriptors)
            outcome = messages.Failed(outcome.id, failure(LimitExceeded(_NO_DESCRIPTORS)))
        elif isinstance(outcome, messages.Failed) and outcome.error.code == OutOfMemory.code:
            # It may have had no room to map one: it lets go of all, and the next task that needs one brings it again.
            self.tell(messages.Forget(segments=tuple(self.known_segments)))
            self.known_segments.clear()
        job = self._running.pop(outcome.id, None)
        if job is not None and job.members:
            self._answer_members(job, outcome, descriptors, now)
        elif job is None or job.future.done():
            self._abandon(outcome, descriptors)
        if job is not None:
            for waiting in self._running.values():  # what waited in the socket starts now
                waiting.started_at = now
            if job.joinable is not None and isinstance(outcome, messages.Executed):
                self._batcher.ran_alone(job, outcome.transfer_seconds + outcome.kernel_seconds)
            if not job.future.done() and not job.members:
                job.future.set_result(Answer(outcome, descriptors, job.started_at - job.queued_at, now - job.queued_at))
        self._dispatch()

    def _answer_members(self, job: Job, outcome: messages.Outcome, descriptors: list[int], now: float) -> None:
        """Give each member of a joined job what is its own."""
        if isinstance(outcome, messages.ExecutedJoined):
            self._batcher.note(job.members, outcome)
        for member, part in zip(job.members, split_answers(job, outcome, descriptors, now), strict=True):
            if member.future.done():
                self._abandon(part.outcome, part.descriptors)
            else:
                member.future.set_result(part)

    def _abandon(self, outcome: messages.Outcome, descriptors: list[int]) -> None:
        """Nobody waits any more (a deadline passed, a client left): the result's memory goes back."""
        close_all(descriptors)
        if isinstance(outcome, messages.ExecutedJoined):
            for member in outcome.members:
                self._abandon(member, [])
        if isinstance(outcome, messages.Executed):
            created = {info.segment for info in outcome.created}
            used = {ref.segment for ref in outcome.outputs.values() if ref.segment is not None}
            self.tell(messages.Recycle(outcome.client, tuple(used - created)))
            self.tell(messages.Discard(outcome.client, tuple(created)))


def fail(job: Job, why: Exception) -> None:
    """Answer a job with an error, if it is not answered yet."""
    if job.members and "worker" in getattr(why, "detail", {}):  # it ended under them, and nobody knows by whose fault
        why = Displaced(f"{why}, while it ran tasks of several clients as one", alone=True)
    for member in job.members:
        fail(member, why)
    if not job.future.done():
        job.future.set_exception(why)
        job.future.exception()  # mark as seen: a load job has nobody who waits for it


def _expired_words(name: str, waited: float) -> str:
    return f"the deadline passed while the task waited {waited * 1000:.3g} ms for worker {name}; it was not started"
