"""One task on several backends: who runs what, what happens when one fails, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from routerd.costs.model import CostModel, ModelState, Point
from routerd.errors import ExecutionError, InvalidArray, Unavailable, WorkerCrashed
from routerd.hybrid import Partner, Shared, share
from routerd.protocol import SegmentInfo
from routerd.session import InputSegment
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.queue import Answer

WORK = 1e9
SIZES = tuple(10.0**power for power in range(3, 10))


class FakeWorker:
    """Keeps to what a worker does with parts; ``fails`` maps the place of a job in its life to what it raises."""

    def __init__(self, name, parts=99):
        self.name, self.parts = name, parts
        self.incarnation = 1
        self.known_segments = set()
        self.fails = {}
        self.jobs, self.told, self.seen = [], [], []
        self.kept = set()
        self.seconds = 0.0
        self.gate = None
        self.queued = 0.0

    def hang_seconds(self, seconds):
        return 10.0 * seconds

    def tell(self, notice):
        self.told.append(notice)

    async def ask(self, make, **options):
        job, descriptors = make(len(self.jobs) + 1)
        self.jobs.append(job)
        self.seen.append((options, list(descriptors)))
        await asyncio.sleep(self.seconds)
        if self.gate is not None:
            await self.gate.wait()
        failure = self.fails.get(len(self.jobs) - 1)
        if failure is not None:
            self.kept.clear()
            raise failure
        if isinstance(job, messages.Merge):
            for place, refs in enumerate(job.parts):
                assert refs is not None or place in self.kept
            return Answer(messages.Executed(job.id, job.client, {}, 1e-3, 0.0), [], self.queued, 1e-3)
        if job.index >= self.parts:
            return Answer(messages.PartDone(job.id, self.parts, WORK, {}, 0.0, 0.0), [], self.queued, 1e-3)
        if job.keep:
            self.kept.add(job.index)
            return Answer(messages.PartDone(job.id, self.parts, WORK, {}, 0.0, 1e-3), [], self.queued, 1e-3)
        number = (hash(self.name) & 0xFFFF) * 1000 + len(self.jobs)
        refs = {"c": ArrayRef((1,), "float64", number, 0)}
        descriptor = os.open("/dev/null", os.O_RDONLY)
        created = (SegmentInfo(number, 8),)
        return Answer(
            messages.PartDone(job.id, self.parts, WORK, refs, 0.0, 1e-3, created), [descriptor], self.queued, 1e-3
        )

    @property
    def indices(self):
        return [job.index for job in self.jobs if isinstance(job, messages.ExecutePart)]

    @property
    def merges(self):
        return [job for job in self.jobs if isinstance(job, messages.Merge)]

    @property
    def ended(self):
        return [notice.task for notice in self.told if isinstance(notice, messages.EndParts)]


class Bench:
    def __init__(self, **rates):
        self.workers = {name: FakeWorker(name) for name in rates}
        self.partners = []
        self.failures = []
        for name, rate in rates.items():
            model = CostModel(ModelState(tuple(Point(work, 1e-5 + rate * work, 0.05) for work in SIZES)))
            backend = SimpleNamespace(
                spec=SimpleNamespace(name=name), worker=self.workers[name], pairs={"w": SimpleNamespace(model=model)}
            )
            self.partners.append(Partner(backend, 1e-4))

    async def run(self, **options):
        shared = Shared(
            workload="w",
            work=WORK,
            client=3,
            on_failure=lambda backend, error: self.failures.append((backend.spec.name, error.message)),
            **options,
        )
        async with asyncio.timeout(20.0):
            return await share(shared, self.partners)

    def __getattr__(self, name):
        return self.workers[name]


async def until(condition):
    async with asyncio.timeout(20.0):
        while not condition():
            await asyncio.sleep(0)


def descriptors():
    return len(list(Path("/dev/fd").iterdir()))


def test_every_part_runs_once_and_the_worker_with_the_largest_share_merges_them():
    async def main():
        bench, before = Bench(slow=2e-9, fast=1e-9), descriptors()
        ended = await bench.run(priority=4, expires_at=1e9)
        (merge,) = bench.fast.merges
        assert sorted(bench.fast.indices + bench.slow.indices) == list(range(len(merge.parts)))
        assert merge.client == 3
        assert [refs is None for refs in merge.parts] == [
            index in bench.fast.indices for index in range(len(merge.parts))
        ]
        assert len(merge.attach) == len(bench.slow.indices)
        assert sum(part.share for part in ended.parts) == pytest.approx(1.0)
        assert {part.backend for part in ended.parts} == {"slow", "fast"}
        assert ended.backend.spec.name == "fast"
        assert ended.undisturbed
        assert all(options["client"] == 3 and options["priority"] == 4 for options, _fds in bench.slow.seen)
        task = merge.task.number
        assert (bench.fast.ended, bench.slow.ended) == ([task], [task])
        forgotten = [notice.segments for notice in bench.fast.told if isinstance(notice, messages.Forget)]
        assert forgotten == [tuple(info.segment for info in merge.attach)]
        assert descriptors() == before

    asyncio.run(main())


def test_who_is_done_early_takes_more_than_predicted():
    async def main():
        bench = Bench(one=1e-9, two=1e-9)
        bench.two.gate = asyncio.Event()
        running = asyncio.ensure_future(bench.run())
        await until(lambda: len(bench.one.indices) == 9)
        bench.two.gate.set()
        ended = await running
        shares = {part.backend: part.share for part in ended.parts}
        assert bench.two.indices == [1]
        assert shares["two"] == pytest.approx(0.25, rel=0.1)
        assert shares["one"] == pytest.approx(0.75, rel=0.1)

    asyncio.run(main())


def test_slowdowns_move_shares():
    async def main():
        bench = Bench(one=1e-9, two=1e-9)
        bench.partners[1] = bench.partners[1]._replace(slowdown=3.0)
        await bench.run()
        (merge,) = bench.one.merges
        chunks = bench.one.jobs[0].shares
        assert len(merge.parts) == len(chunks)
        assert chunks[1] == pytest.approx(chunks[0] / 3.0, rel=0.02)

    asyncio.run(main())


def test_inputs_are_attached_once_to_each_worker_and_results_may_reuse_memory():
    async def main():
        bench, segment = Bench(one=1e-9, two=1e-9), InputSegment(64)
        bench.two.known_segments = {segment.info.segment}
        await bench.run(segments=[segment], recycle=lambda incarnation: (incarnation,))
        jobs = bench.one.jobs
        assert [segment.info in job.attach for job in jobs] == [True] + [False] * (len(jobs) - 1)
        assert bench.one.seen[0][1] == [segment.descriptor]
        assert not any(segment.info in job.attach for job in bench.two.jobs)
        assert (bench.one.merges + bench.two.merges)[0].recycle == (1,)
        segment.release()

    asyncio.run(main())


class TestFailing:
    def test_the_parts_of_a_backend_that_fails_go_to_the_others(self):
        async def main():
            bench, before = Bench(one=1e-9, two=1.1e-9), descriptors()
            bench.two.fails = {1: WorkerCrashed("worker two ended", worker="two")}
            ended = await bench.run()
            assert len(bench.two.indices) == 2
            assert bench.two.indices[1] in bench.one.indices  # and the part it had finished is used
            assert bench.two.indices[0] not in bench.one.indices
            assert {part.backend for part in ended.parts} == {"one", "two"}
            assert bench.failures == [("two", "worker two ended")]
            assert not ended.undisturbed
            assert descriptors() == before

        asyncio.run(main())

    def test_what_the_merging_worker_has_kept_is_computed_again(self):
        async def main():
            bench = Bench(one=1e-9, two=1.1e-9)
            bench.one.fails = {2: WorkerCrashed("worker one ended", worker="one")}
            ended = await bench.run()
            (merge,) = bench.two.merges
            assert set(bench.one.indices) <= set(bench.two.indices)
            assert len(merge.parts) == len(set(bench.two.indices))
            assert [part.backend for part in ended.parts] == ["two"]

        asyncio.run(main())

    def test_a_merge_that_fails_is_made_elsewhere(self):
        async def main():
            bench = Bench(one=1e-9, two=1.1e-9)
            bench.two.gate = asyncio.Event()
            bench.one.fails = {9: WorkerCrashed("worker one ended", worker="one")}
            running = asyncio.ensure_future(bench.run())
            await until(lambda: len(bench.one.jobs) == 9)
            bench.two.gate.set()
            ended = await running
            assert len(bench.one.merges) == len(bench.two.merges) == 1
            assert ended.backend.spec.name == "two"
            assert bench.failures == [("one", "worker one ended")]

        asyncio.run(main())

    def test_who_was_left_out_is_the_last_resort(self):
        async def main():
            bench = Bench(fast=1e-9, hopeless=1e-6)
            bench.fast.fails = {0: ExecutionError("no")}
            ended = await bench.run()
            assert bench.hopeless.indices == [0]
            assert [part.backend for part in ended.parts] == ["hopeless"]

        asyncio.run(main())

    def test_when_all_fail_so_does_the_task_with_every_reason(self):
        async def main():
            bench, before = Bench(one=1e-9, two=1e-9), descriptors()
            bench.one.fails = {1: ExecutionError("one cannot")}
            bench.two.fails = {1: Unavailable("two is down")}
            with pytest.raises((Unavailable, ExecutionError)) as caught:
                await bench.run()
            assert {"one cannot", "two is down"} == set(caught.value.message.split("; "))
            assert bench.one.ended == bench.two.ended != []
            assert not bench.one.merges + bench.two.merges
            assert descriptors() == before

        asyncio.run(main())

    def test_a_bad_task_is_not_tried_elsewhere(self):
        async def main():
            bench = Bench(one=1e-9, two=1e-9)
            bench.one.fails = {0: InvalidArray("NaN")}
            bench.two.seconds = 60.0
            with pytest.raises(InvalidArray, match="NaN"):
                await bench.run()
            assert (bench.one.indices, bench.two.indices) == ([0], [1])
            assert bench.one.ended == bench.two.ended != []
            assert bench.failures == []

        asyncio.run(main())

    def test_a_task_that_nobody_waits_for_is_given_up_whole(self):
        async def main():
            bench, before = Bench(one=1e-9, two=1e-9), descriptors()
            bench.two.seconds = 60.0
            running = asyncio.ensure_future(bench.run())
            await until(lambda: len(bench.one.indices) == 3)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert bench.one.ended == bench.two.ended != []
            assert descriptors() == before

        asyncio.run(main())


def test_a_task_that_makes_fewer_parts_than_shares_is_whole_all_the_same():
    async def main():
        bench = Bench(one=1e-9, two=1e-9)
        for worker in bench.workers.values():
            worker.parts = 3
        ended = await bench.run()
        merge = (bench.one.merges + bench.two.merges)[0]
        assert len(merge.parts) == 3
        assert sum(part.share for part in ended.parts) == pytest.approx(1.0)
        assert max(bench.one.indices + bench.two.indices) == 2

    asyncio.run(main())


def test_waiting_for_busy_workers_is_told_apart():
    async def main():
        bench = Bench(one=1e-9, two=1e-9)
        bench.two.queued = 0.5
        ended = await bench.run()
        assert ended.answer.queue_seconds == 0.0
        assert not ended.undisturbed

    asyncio.run(main())
