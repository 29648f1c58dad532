"""Parts of a shared task in two workers: each cuts the task alike, one merges, and nothing is left of it afterwards."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from routerd.memory import create_segment, map_segment
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.outbox import close_all
from routerd.protocol import SegmentInfo
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.host import Host
from routerd.worker.segments import NOBODY
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
SPLITTING = sorted(name for name, workload in WORKLOADS.items() if workload.split is not None)
CLIENT = 5
ROWS = 200


class Pair:
    """Two workers and what a daemon does between them: descriptors of one's segments go to the other."""

    def __init__(self) -> None:
        self.hosts = [Host(WORKLOADS, incarnation=number, inline_bytes=64) for number in (1, 2)]
        self.descriptors: list[int] = []
        for host in self.hosts:
            loaded = host.handle(messages.Load(1, "null.one", "routerd.testing:NullBackend", {}))
            assert isinstance(loaded, messages.Loaded)

    def part(self, place, task, shares, index, *, keep=False, backend="null.one"):
        answer = self.hosts[place].handle(messages.ExecutePart(2, backend, task, shares, index, keep))
        self._pass_on(place, answer)
        return answer

    def merge(self, task, parts, client=CLIENT, place=0):
        """In the worker ``place``; the outputs as arrays, or the failure."""
        answer = self.hosts[place].handle(messages.Merge(3, task, parts, client))
        if isinstance(answer, messages.Failed):
            return answer
        maps = {one.info.segment: one.map for one in self.hosts[place].created}
        maps |= {number: one.map for number, one in self.hosts[place]._outputs._lent.get(client, {}).items()}
        found = {name: self._array(ref, maps) for name, ref in answer.outputs.items()}
        for segment in self.hosts[place].created:
            segment.close_descriptor()
        self.hosts[place].created = []
        return found

    def end(self, number):
        for host in self.hosts:
            assert host.handle(messages.EndParts(number)) is None

    def _pass_on(self, place, answer):
        if not isinstance(answer, messages.PartDone):
            return
        created, self.hosts[place].created = self.hosts[place].created, []
        assert [one.info for one in created] == list(answer.created)
        for segment in created:
            self.hosts[1 - place].attach(segment.info, segment.descriptor)
            segment.close_descriptor()

    @staticmethod
    def _array(ref, maps):
        data = ref.data if ref.data is not None else maps[ref.segment]
        count = int(np.prod(ref.shape, dtype=int))
        return np.frombuffer(data, ref.dtype, count, ref.offset if ref.data is None else 0).reshape(ref.shape).copy()

    def close(self):
        for host in self.hosts:
            host.close()
            close_all([one.descriptor for one in host.created])


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.close()


def inline(array):
    return ArrayRef(array.shape, str(array.dtype), data=array.tobytes())


def gemm(number=1, value=1.0):
    a, b = np.arange(2.0 * ROWS).reshape(ROWS, 2), np.full((2, 3), value)
    return messages.SharedTask(number, "linalg.gemm", {}, {"a": inline(a), "b": inline(b)}), a @ b


@pytest.mark.parametrize("name", SPLITTING)
def test_parts_of_two_workers_merge_into_what_the_contract_gives(pair, name):
    workload = WORKLOADS[name]
    sample = messages.Sample(workload.work_range[0] * 2.0)
    example = workload.example(sample.work, np.random.default_rng(sample.seed))
    defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
    contract = execute_kernel(NumpyNamespace(), workload, {**defaults, **example.params}, example.arrays).outputs
    task, shares = messages.SharedTask(1, name, sample=sample), (0.5, 0.2, 0.3)
    first = pair.part(0, task, shares, 0, keep=True)
    outputs = [None]
    for index in range(1, first.parts):
        place = index % 2
        done = pair.part(place, task, shares, index, keep=place == 0)
        outputs.append(None if place == 0 else done.outputs)
    merged = pair.merge(task, tuple(outputs), NOBODY)
    assert relative_error(workload, merged, contract) <= workload.tolerance
    assert first.work > 0.0


def test_large_outputs_of_parts_come_in_segments_and_kept_ones_stay(pair):
    task, wanted = gemm()
    kept = pair.part(0, task, (0.5, 0.5), 0, keep=True)
    assert (kept.outputs, kept.created, kept.parts) == ({}, (), 2)
    sent = pair.part(1, task, (0.5, 0.5), 1)
    (info,) = sent.created
    assert sent.outputs["c"].segment == info.segment
    assert sent.outputs["c"].shape == (ROWS // 2, 3)
    assert np.array_equal(pair.merge(task, (None, sent.outputs))["c"], wanted)


def test_a_clients_segment_is_cut_without_a_copy(pair):
    task, wanted = gemm()
    a = np.arange(2.0 * ROWS)
    descriptor = create_segment(a.nbytes)
    map_segment(descriptor, a.nbytes, writable=True)[:] = a.tobytes()
    for host in pair.hosts:
        host.attach(SegmentInfo(77, a.nbytes), descriptor)
    close_all([descriptor])
    ref = ArrayRef((ROWS, 2), "float64", 77, 0)
    task = messages.SharedTask(1, "linalg.gemm", {}, {**task.arrays, "a": ref})
    sent = [pair.part(1, task, (0.3, 0.7), index).outputs for index in range(2)]
    assert np.array_equal(pair.merge(task, tuple(sent))["c"], wanted)


def test_a_part_beyond_the_last_is_not_there(pair):
    task = messages.SharedTask(1, "linalg.gemm", {}, {"a": inline(np.ones((2, 2))), "b": inline(np.ones((2, 3)))})
    shares = (0.25,) * 4
    answers = [pair.part(0, task, shares, index, keep=True) for index in range(4)]
    assert {answer.parts for answer in answers} == {2}
    assert np.array_equal(pair.merge(task, (None, None))["c"], np.full((2, 3), 2.0))


def test_bad_content_is_refused_by_every_worker_whichever_part_it_lies_in(pair):
    returns = np.full((50, 3), 0.01)
    returns[49, 1] = np.nan
    params = {"periods_per_year": 252.0, "risk_free": 0.0}
    task = messages.SharedTask(1, "analytics.performance", params, {"returns": inline(returns)})
    for place in (0, 1):
        failed = pair.part(place, task, (0.5, 0.5), 0)
        assert (failed.id, failed.error.code) == (2, "invalid_array")
        assert "returns[49, 1] is nan" in failed.error.message


def test_what_a_backend_raises_is_its_own_failure(pair):
    pair.hosts[1].handle(messages.Load(1, "null.bad", "routerd.testing:NullBackend", {"fail": "raise"}))
    task, _wanted = gemm()
    failed = pair.part(1, task, (0.5, 0.5), 0, backend="null.bad")
    assert failed.error.code == "execution_failed"
    assert "null.bad linalg.gemm raised RuntimeError" in failed.error.message


def test_kept_parts_end_with_the_task(pair):
    task, _wanted = gemm()
    pair.part(0, task, (1.0,), 0, keep=True)
    pair.end(1)
    failed = pair.merge(task, (None,))
    assert failed.error.code == "unavailable"
    assert "part 0 of the task is not held" in failed.error.message


def test_several_tasks_at_once_do_not_meet(pair):
    tasks = [gemm(number, value) for number, value in ((1, 1.0), (2, 5.0))]
    for task, _wanted in tasks:
        pair.part(0, task, (0.5, 0.5), 0, keep=True)
    others = [pair.part(1, task, (0.5, 0.5), 1).outputs for task, _wanted in tasks]
    pair.end(7)  # one that nobody here has heard of
    for (task, wanted), other in zip(tasks, others, strict=True):
        assert np.array_equal(pair.merge(task, (None, other))["c"], wanted)


def test_what_does_not_split_is_not_shared(pair):
    name = next(name for name, workload in WORKLOADS.items() if workload.split is None)
    sample = messages.Sample(WORKLOADS[name].work_range[0])
    failed = pair.part(0, messages.SharedTask(1, name, sample=sample), (0.5, 0.5), 0)
    assert "does not split" in failed.error.message


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="counts mappings as Linux lists them")
def test_no_memory_is_held_for_tasks_that_have_ended(pair):
    def mapped():
        gc.collect()
        return Path("/proc/self/maps").read_text().count("memfd:routerd")

    before = mapped()
    for number in range(3):
        task, _wanted = gemm(number)
        pair.part(0, task, (0.5, 0.5), 0)
        sent = pair.part(1, task, (0.5, 0.5), 1)
        assert mapped() > before
        pair.end(number)
        for host in pair.hosts:
            host.handle(messages.Forget(segments=tuple(info.segment for info in sent.created)))
            host.handle(messages.Forget(segments=tuple(range(1 << 32, (1 << 32) + 9))))
    assert mapped() == before
