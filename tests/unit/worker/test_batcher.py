"""Which jobs of a queue run together, and which wait for company, by a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from routerd.costs.batching import MOST_MEMBERS
from routerd.costs.curve import Curve, curve_through
from routerd.memory import MAX_DESCRIPTORS
from routerd.protocol import Failure, SegmentInfo
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.batcher import Batcher, join_messages, predicted_seconds, split_answers
from routerd.worker.queue import Job, JobQueue, Joinable

SIZES = tuple(10.0**power for power in range(7))
LAUNCHING = curve_through(SIZES, [10e-3 + 1e-6 * work for work in SIZES], [0.03] * len(SIZES))
COMPUTING = curve_through(SIZES, [1e-3 * work for work in SIZES], [0.03] * len(SIZES))


class Timer:
    def __init__(self, at: float, call: Any) -> None:
        self.at, self.call, self.cancelled = at, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    """A queue and a batcher with time in the test's hands."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, enabled: bool = True) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []
        self.known: set[int] = set()
        self.queue = JobQueue()
        self.batcher = Batcher(self.queue, lambda: self.now, self._later, lambda: self.known, enabled=enabled)
        self._loop = loop

    def _later(self, seconds: float, call: Any) -> Timer:
        assert seconds > 0.0
        self.timers.append(Timer(self.now + seconds, call))
        return self.timers[-1]

    def job(
        self,
        client: int = 1,
        key: object = "k",
        curve: Curve = LAUNCHING,
        work: float = 1.0,
        segments: tuple[int, ...] = (),
        expires_in: float | None = None,
    ) -> Job:
        """A job that has just been asked for, and is in the queue."""
        job = Job(
            lambda _number: pytest.fail("no message is made before its turn"),
            seconds=1e-3,
            limit=1.0,
            future=self._loop.create_future(),
            queued_at=self.now,
            client=client,
            expires_at=None if expires_in is None else self.now + expires_in,
            joinable=None if key is None else Joinable(key, curve, work, 100, segments),
        )
        self.batcher.arrived(job)
        self.queue.push(job)
        return job

    def gather(self, *, idle: bool = False) -> list[Job]:
        job = self.queue.pop()
        assert job is not None
        return list(self.batcher.gather(job, idle=idle))

    def stream(self, interval: float, count: int = 10) -> None:
        """Requests of two clients in turn, all answered."""
        for step in range(count):
            self.now += interval
            self.queue.discard(self.job(client=90 + step % 2))

    def ring(self) -> None:
        (timer,) = [one for one in self.timers if not one.cancelled]
        self.timers.clear()
        self.now = timer.at
        timer.call()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def bench(loop: asyncio.AbstractEventLoop) -> Bench:
    return Bench(loop)


class TestTogether:
    def test_what_has_piled_up_goes_together_in_its_order(self, bench: Bench) -> None:
        jobs = [bench.job(client) for client in range(5)]
        assert bench.gather() == jobs
        assert len(bench.queue) == 0

    def test_only_those_of_the_same_key(self, bench: Bench) -> None:
        first, other, plain, second = bench.job(1), bench.job(2, key="other"), bench.job(3, key=None), bench.job(4)
        assert bench.gather() == [first, second]
        assert bench.gather() == [other]
        assert bench.gather() == [plain]

    def test_no_more_than_there_may_be(self, bench: Bench) -> None:
        jobs = [bench.job(client) for client in range(MOST_MEMBERS + 5)]
        assert bench.gather() == jobs[:MOST_MEMBERS]
        assert bench.gather() == jobs[MOST_MEMBERS:]

    def test_none_where_joining_gains_nothing(self, bench: Bench) -> None:
        first, second = (bench.job(client, curve=COMPUTING, work=10.0) for client in (1, 2))
        assert [bench.gather(), bench.gather()] == [[first], [second]]

    def test_none_where_it_is_switched_off(self, loop: asyncio.AbstractEventLoop) -> None:
        bench = Bench(loop, enabled=False)
        jobs = [bench.job(client) for client in range(3)]
        assert [bench.gather(idle=True) for _ in jobs] == [[job] for job in jobs]

    def test_not_those_that_nobody_waits_for(self, bench: Bench) -> None:
        first, gone, last = (bench.job(client) for client in range(3))
        gone.future.cancel()
        assert bench.gather() == [first, last]

    def test_not_those_whose_deadline_the_joined_execution_would_miss(self, bench: Bench) -> None:
        # Alone 0.11 s, two together 0.12 s.
        curve = curve_through(SIZES, [0.1 + 1e-2 * work for work in SIZES], [0.03] * len(SIZES))
        first, hasty, last = (
            bench.job(1, curve=curve), bench.job(2, curve=curve, expires_in=0.115), bench.job(3, curve=curve)
        )  # fmt: skip
        assert bench.gather() == [first, last]
        assert bench.gather() == [hasty]

    def test_a_message_carries_so_many_descriptors(self, bench: Bench) -> None:
        half = MAX_DESCRIPTORS // 2
        first = bench.job(1, segments=tuple(range(half)))
        shared = bench.job(2, segments=tuple(range(half)))
        bench.job(3, segments=tuple(range(half, MAX_DESCRIPTORS + 1)))
        rest = bench.job(4, segments=tuple(range(half, MAX_DESCRIPTORS)))
        assert bench.gather() == [first, shared, rest]

    def test_segments_that_the_worker_has_count_for_nothing(self, bench: Bench) -> None:
        bench.known = set(range(1000))
        jobs = [bench.job(client, segments=tuple(range(20 * client, 20 * client + 20))) for client in range(10)]
        assert bench.gather() == jobs

    def test_what_its_content_keeps_apart_is_soon_left_apart(self, bench: Bench) -> None:
        for _ in range(4):
            jobs = [bench.job(client) for client in range(3)]
            assert bench.gather() == jobs
            bench.batcher.note(jobs, executed([(0,), (1,), (2,)]))
        jobs = [bench.job(client) for client in range(3)]
        assert [bench.gather() for _ in jobs] == [[job] for job in jobs]
        assert bench.batcher.joined == (0, 0)

    def test_joined_executions_and_their_tasks_are_counted(self, bench: Bench) -> None:
        jobs = [bench.job(client) for client in range(4)]
        bench.batcher.note(bench.gather(), executed([(0, 2, 3), (1,)]))
        assert len(jobs) == 4
        assert bench.batcher.joined == (1, 3)


class TestWaiting:
    def test_a_lonely_request_goes_at_once(self, bench: Bench) -> None:
        for _ in range(10):
            bench.now += 1e-4
            job = bench.job(client=1)
            assert bench.gather(idle=True) == [job]
        assert not bench.timers

    def test_on_a_busy_worker_nobody_is_held(self, bench: Bench) -> None:
        bench.stream(1e-4)
        job = bench.job()
        assert bench.gather(idle=False) == [job]

    def test_company_on_its_way_is_waited_for_and_goes_along(self, bench: Bench) -> None:
        bench.stream(1e-4)
        first = bench.job(1)
        assert bench.gather(idle=True) == []
        assert (bench.batcher.held, len(bench.queue)) == (1, 0)
        bench.now += 1e-4
        second = bench.job(2)
        assert bench.gather(idle=True) == []
        assert bench.batcher.held == 2
        bench.ring()
        assert bench.now - first.queued_at <= 5e-3
        assert bench.batcher.held == 0
        assert bench.gather(idle=True) == [first, second]

    def test_a_wait_is_no_longer_for_later_ones(self, bench: Bench) -> None:
        bench.stream(1e-4)
        bench.job(1)
        bench.gather(idle=True)
        (timer,) = bench.timers
        bench.now += 1e-4
        bench.job(2)
        bench.gather(idle=True)
        assert bench.timers == [timer]

    def test_a_full_batch_goes_before_its_time(self, bench: Bench) -> None:
        bench.stream(1e-5)
        jobs = []
        for client in range(MOST_MEMBERS):
            bench.now += 1e-6
            jobs.append(bench.job(client))
            gathered = bench.gather(idle=True)
        assert gathered == [jobs[-1], *jobs[:-1]]
        assert bench.batcher.held == 0
        assert all(timer.cancelled for timer in bench.timers)

    def test_a_worker_that_gets_other_work_takes_the_held_along_when_it_has_room(self, bench: Bench) -> None:
        bench.stream(1e-4)
        held = bench.job(1)
        assert bench.gather(idle=True) == []
        other = bench.job(2, key="other")
        assert bench.gather(idle=True) == [other]
        late = bench.job(3)
        assert bench.gather(idle=False) == [late, held]
        assert bench.timers[0].cancelled

    def test_waits_in_vain_end(self, bench: Bench) -> None:
        bench.stream(1e-4)
        waits = 0
        while not bench.gather(idle=True) if bench.job(1) else False:
            waits += 1
            assert waits < 20
            bench.ring()
            assert len(bench.gather(idle=True)) == 1
            bench.now += 1.0
        assert waits > 0

    def test_a_deadline_is_not_risked(self, bench: Bench) -> None:
        bench.stream(1e-4)
        job = bench.job(1, expires_in=10.2e-3)  # it takes 10 ms
        assert bench.gather(idle=True) == [job]

    def test_a_held_one_that_nobody_waits_for_leaves_and_the_others_stay(self, bench: Bench) -> None:
        bench.stream(1e-4)
        gone, stays = bench.job(1), bench.job(2)
        assert bench.gather(idle=True) == []
        bench.batcher.discard(gone)
        assert bench.batcher.held == 1
        bench.ring()
        assert bench.gather(idle=True) == [stays]

    def test_when_all_leave_no_timer_is_left(self, bench: Bench) -> None:
        bench.stream(1e-4)
        job = bench.job(1)
        bench.gather(idle=True)
        bench.batcher.discard(job)
        assert (bench.batcher.held, bench.timers[0].cancelled) == (0, True)

    def test_everything_held_can_be_taken(self, bench: Bench) -> None:
        bench.stream(1e-4)
        jobs = [bench.job(1), bench.job(2)]
        bench.gather(idle=True)
        assert bench.batcher.clear() == jobs
        assert (bench.batcher.held, bench.timers[0].cancelled) == (0, True)


class TestPipelining:
    def test_a_job_with_company_on_its_way_is_not_handed_over_alone(self, bench: Bench) -> None:
        bench.stream(1e-5)
        assert bench.batcher.expects_company(bench.job(), 1e-4)
        assert not bench.batcher.expects_company(bench.job(), 1e-6)

    def test_others_are(self, bench: Bench) -> None:
        bench.stream(1e-5)
        assert not bench.batcher.expects_company(bench.job(key=None), 1.0)
        assert not bench.batcher.expects_company(bench.job(curve=COMPUTING, work=10.0), 1.0)
        assert not bench.batcher.expects_company(bench.job(key="unheard of"), 1.0)


def executed(executions: list[tuple[int, ...]], members: tuple[Any, ...] = ()) -> messages.ExecutedJoined:
    return messages.ExecutedJoined(1, members, tuple(messages.Execution(places, 1e-3, 2e-3) for places in executions))


def execute(client: int, attach: tuple[int, ...], frozen: tuple[int, ...] = ()) -> messages.Execute:
    refs = {f"a{segment}": ArrayRef((1, 2), "float64", segment) for segment in attach}
    infos = tuple(SegmentInfo(segment, 4096) for segment in attach)
    return messages.Execute(7, "x.y", "w", {"p": 1}, refs, {"m": 1}, client, f"d{client}", infos, (client,), frozen)


def test_messages_become_one(loop: asyncio.AbstractEventLoop) -> None:
    def job(client: int, attach: tuple[int, ...], frozen: tuple[int, ...]) -> Job:
        def make(_number: int) -> tuple[messages.Execute, list[int]]:
            return execute(client, attach, frozen), [100 + segment for segment in attach]

        return Job(make, seconds=1.0, limit=1.0, future=loop.create_future(), queued_at=0.0)

    message, descriptors = join_messages([job(1, (5,), (5,)), job(2, (), (5,)), job(3, (6, 7), ())])(42)
    assert isinstance(message, messages.ExecuteJoined)
    assert (message.id, message.backend, message.workload) == (42, "x.y", "w")
    assert [(one.client, one.decision_id, one.recycle) for one in message.members] == [
        (1, "d1", (1,)), (2, "d2", (2,)), (3, "d3", (3,))
    ]  # fmt: skip
    assert [info.segment for info in message.attach] == [5, 6, 7]
    assert list(descriptors) == [105, 106, 107]
    assert message.frozen == (5,)


class TestAnswers:
    def test_everybody_gets_the_descriptors_of_its_own_segments(self, bench: Bench) -> None:
        jobs = [bench.job(client) for client in range(3)]
        whole = bench.job(9)
        whole.members, whole.started_at = jobs, 100.5
        members = (
            messages.Executed(0, 0, {}, 0.0, 0.0, (SegmentInfo(1, 8), SegmentInfo(2, 8))),
            messages.Failed(1, Failure("invalid_array", "no")),
            messages.Executed(2, 2, {}, 0.0, 0.0, (SegmentInfo(3, 8),)),
        )
        answers = split_answers(whole, executed([(0, 2)], members), [11, 12, 13], 101.0)
        assert [answer.outcome for answer in answers] == list(members)
        assert [answer.descriptors for answer in answers] == [[11, 12], [], [13]]
        assert {(answer.queue_seconds, answer.total_seconds) for answer in answers} == {(0.5, 1.0)}

    def test_one_member_speaks_for_its_execution(self, bench: Bench) -> None:
        jobs = [bench.job(client, work=10.0**client) for client in range(4)]
        whole = bench.job(9)
        whole.members = jobs
        jobs[0].future.cancel()  # it will not be heard
        members = tuple(messages.Executed(place, place, {}, 0.0, 0.0) for place in range(4))
        answers = split_answers(whole, executed([(0, 1, 3), (2,)], members), [], 101.0)
        assert [answer.together.first for answer in answers if answer.together] == [False, True, True, False]
        together = answers[1].together
        assert together is not None
        assert (together.members, together.work, together.alone) == (3, 1011.0, False)
        assert together.seconds == pytest.approx(3e-3)


def test_the_prediction_is_that_of_all_the_work(bench: Bench) -> None:
    jobs = [bench.job(1, work=2.0), bench.job(2, work=3.0)]
    assert predicted_seconds(jobs) == LAUNCHING.predict(5.0).seconds
