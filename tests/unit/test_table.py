"""The decision table in the daemon: whom an entry is for, how it follows every change, and its bounds."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest

from routerd.costs.model import CostModel, Point
from routerd.errors import UnknownWorkload
from routerd.interfaces import ModelId
from routerd.memory import map_segment
from routerd.outbox import close_all
from routerd.protocol import Locate
from routerd.routing.entry import ASK
from routerd.routing.slots import BEAT_WORD, BUSY_WORD, SIZE, sequence_word
from routerd.worker.fleet import Pair

GEMM, MONTE_CARLO, PERFORMANCE = "linalg.gemm", "options.monte_carlo_european", "analytics.performance"


def works(seed, count=40):
    random_ = random.Random(seed)
    return [10 ** random_.uniform(4.0, 9.5) for _ in range(count)]


class TestClasses:
    BODY = "constraints: [{id: batch, when: {client.name: 'batch-*'}, deny: [metal_gpu]}]"

    def test_clients_that_no_rule_tells_apart_share_an_entry(self, table_setting):
        stage = table_setting(self.BODY)
        places = [
            stage.table.locate(stage.client(name, uid), Locate(GEMM))
            for name, uid in (("a", 1000), ("b", 2000), ("batch-1", 1000), ("batch-2", 3000))
        ]
        assert places[0] == places[1] != places[2] == places[3]
        assert stage.table.entries == 2

    def test_each_class_gets_its_own_answers(self, table_setting):
        stage = table_setting(self.BODY)
        batch = stage.reads(stage.client("batch-1"))
        assert stage.reader.view(GEMM).by_work(1e8).backend == "metal.mlx"
        assert batch.view(GEMM).by_work(1e8).backend == "ane.coreml"

    def test_clients_that_can_run_work_themselves_are_a_class_of_their_own(self, table_setting):
        stage = table_setting(in_process_seconds=200e-6)
        able = stage.reads(stage.client(in_process=True))
        assert able.view(GEMM).by_work(1e3).backend == "in_process.numpy"
        assert stage.reader.view(GEMM).by_work(1e3).backend != "in_process.numpy"

    def test_a_class_keeps_its_name_for_itself_even_when_the_table_was_full(self, table_setting, monkeypatch):
        """Otherwise a client would take for its own what is meant for others that the policy treats differently."""
        monkeypatch.setattr("routerd.table.SLOTS", 2)
        stage = table_setting(self.BODY)
        batch = stage.reads(stage.client("batch-1"))
        view = batch.view(GEMM)
        assert view.by_work(1e8).backend == "ane.coreml"
        stage.reader.view(PERFORMANCE)
        stage.reader.view(GEMM)  # there is no room: all begin afresh, and this is the first
        assert stage.reader.view(GEMM).by_work(1e8).backend == "metal.mlx"
        assert view.by_work(1e8) is None


class TestChanges:
    def played(self, table_setting, play, *arguments, **options):
        async def main():
            stage = table_setting(*arguments, **options)
            stage.table.start()
            try:
                await play(stage)
            finally:
                stage.table.stop()

        asyncio.run(main())

    def test_a_minor_change_leaves_the_old_answer_until_the_new_one_is_there(self, table_setting):
        async def play(stage):
            view = stage.reader.view(GEMM)
            before = view.by_work(1e8)
            slow_down(stage.fleet, "metal.mlx", GEMM, 10.0)
            stage.router.changed(GEMM, minor=True)
            assert view.by_work(1e8) is before
            await stage.recompiled()
            assert view.by_work(1e8).backend == "ane.coreml"

        self.played(table_setting, play)

    def test_a_major_change_says_nothing_until_then(self, table_setting):
        async def play(stage):
            view, other = stage.reader.view(GEMM), stage.reader.view(MONTE_CARLO)
            stage.fleet.backends["metal.mlx"].pairs[GEMM].quarantine = "it lies"
            await stage.recompiled()
            kept = other.by_work(1e8)
            stage.router.changed(GEMM)
            assert view.by_work(1e8) is None
            assert other.by_work(1e8) is kept
            await stage.recompiled()
            assert view.by_work(1e8).backend == "ane.coreml"
            assert {one.backend: one.reason for one in view.by_work(1e8).rejected} == {
                "metal.mlx": "quarantined: it lies"
            }

        self.played(table_setting, play)

    def test_a_new_policy_forgets_everything(self, table_setting, policy_of):
        async def play(stage):
            view = stage.reader.view(GEMM)
            await stage.recompiled()
            assert view.by_work(1e8).backend == "metal.mlx"
            stage.router.activate(policy_of("constraints: [{id: no, deny: [metal_gpu]}]", generation=2))
            assert view.by_work(1e8) is None
            assert stage.table.entries == 0
            assert stage.reader.view(GEMM).by_work(1e8).backend == "ane.coreml"
            assert stage.reader.view(GEMM).by_work(1e8).generation == 2

        self.played(table_setting, play)

    def test_all_entries_are_compiled_anew_with_requests_in_between(self, table_setting, monkeypatch):
        monkeypatch.setattr("routerd.table._SLICE_SECONDS", 0.0)

        async def play(stage):
            names = list(stage.fleet.workloads)[:6]
            views = [stage.reader.view(name) for name in names]
            await stage.recompiled()
            compiled = stage.table.compiled
            stage.router.changed()
            stage.router.changed()
            turns = 0
            while stage.table._timer is not None:
                await asyncio.sleep(0.0)
                turns += 1
            assert turns >= len(names)
            assert stage.table.compiled == compiled + len(names)
            assert all(view.refresh() for view in views)

        self.played(table_setting, play)

    def test_hardware_facts_are_followed(self, table_setting, monkeypatch):
        monkeypatch.setattr("routerd.table.BEAT_SECONDS", 0.001)

        async def play(stage):
            thermal = ["nominal"]
            monkeypatch.setattr(stage.router.facts, "_readings", lambda: {"hardware.thermal": thermal[0]})
            view = stage.reader.view(GEMM)
            assert view.by_work(1e8).backend == "metal.mlx"
            thermal[0] = "critical"
            async with asyncio.timeout(20.0):
                while (found := view.by_work(1e8)) is None or found.backend == "metal.mlx":
                    await asyncio.sleep(0.001)
            assert found.backend == "ane.coreml"

        body = "constraints: [{id: hot, when: {hardware.thermal: critical}, deny: [metal_gpu]}]"
        self.played(table_setting, play, body)

    def test_busy_workers_and_the_heart_are_seen(self, table_setting, monkeypatch):
        monkeypatch.setattr("routerd.table.BEAT_SECONDS", 0.001)

        async def play(stage):
            words = stage.reader.reader.words
            stage.fleet.backends["metal.mlx"].worker.load(1.0)
            assert words[BUSY_WORD] == 1 << stage.fleet.backends["metal.mlx"].worker_number
            stage.fleet.backends["metal.mlx"].worker.load(0.0)
            assert words[BUSY_WORD] == 0
            beat = words[BEAT_WORD]
            async with asyncio.timeout(20.0):
                while words[BEAT_WORD] == beat:
                    await asyncio.sleep(0.001)

        self.played(table_setting, play)

    def test_a_pair_that_is_not_timed_yet_is_asked_about(self, table_setting):
        async def play(stage):
            pair = stage.fleet.backends["ane.coreml"].pairs[GEMM]
            model, pair.model = pair.model, CostModel()
            view = stage.reader.view(GEMM)
            assert view.by_work(1e8) is None
            pair.model = model
            stage.router.changed(GEMM)
            await stage.recompiled()
            assert view.by_work(1e8) is not None

        self.played(table_setting, play)

    def test_a_model_that_was_removed_says_nothing_and_the_rest_goes_on(self, table_setting):
        name = "ml.model/credit@1"

        async def play(stage):
            errors = []
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
            add_model(stage.fleet, name)
            model, gemm = stage.reader.view(name), stage.reader.view(GEMM)
            assert model.by_work(1e5) is not None
            stage.fleet.remove_workload(name)
            stage.router.changed()
            await stage.recompiled()
            assert model.by_work(1e5) is None
            assert gemm.by_work(1e8) is not None
            assert errors == []

        self.played(table_setting, play)

    def test_after_the_end_nothing_is_answered(self, table_setting):
        stage = table_setting()
        view = stage.reader.view(GEMM)
        assert view.by_work(1e8) is not None
        stage.table.stop()
        assert view.by_work(1e8) is None


class TestBounds:
    def test_an_entry_that_is_too_large_is_asked_about(self, table_setting):
        rules = [
            f"  - {{id: r{number}, when: {{task.work: {{lt: {1.2**number * 1e3:g}}}}}, prefer: [cpu]}}"
            for number in range(80)
        ]
        stage = table_setting("rules:\n" + "\n".join(rules))
        view = stage.reader.view(GEMM)
        assert stage.table.too_large == 1
        assert [view.by_work(work) for work in works(1, 5)] == [None] * 5

    def test_a_full_table_begins_afresh(self, table_setting, monkeypatch):
        monkeypatch.setattr("routerd.table.SLOTS", 3)
        stage = table_setting()
        names = list(stage.fleet.workloads)[:4]
        views = [stage.reader.view(name) for name in names]
        assert stage.table.entries == 1
        assert [view.refresh() for view in views] == [False, False, False, True]

    def test_nothing_is_compiled_twice_for_one_class(self, table_setting):
        stage = table_setting()
        for name in ("a", "b", "c"):
            stage.table.locate(stage.client(name), Locate(GEMM))
        assert stage.table.compiled == 1
        assert stage.table.compile_seconds > 0.0

    def test_what_depends_on_more_than_a_workload_has_no_entry(self, table_setting):
        stage = table_setting()
        found = stage.table.locate(stage.session, Locate("ml.model"))
        assert (found.slot, stage.table.entries) == (ASK, 0)
        assert "which model" in found.reason
        with pytest.raises(UnknownWorkload, match=r"did you mean linalg\.gemm"):
            stage.table.locate(stage.session, Locate("linalg.gem"))

    def test_a_workload_that_is_asked_for_is_wanted(self, table_setting):
        stage = table_setting()
        stage.reader.view(GEMM)
        assert stage.fleet.wanted == {GEMM}

    def test_it_is_there_for_reading_alone(self, table_setting):
        stage = table_setting()
        descriptor = stage.table.descriptor()
        with pytest.raises(PermissionError):
            map_segment(descriptor, SIZE, writable=True)
        close_all([descriptor])

    def test_an_entry_is_where_it_is_said_to_be(self, table_setting):
        stage = table_setting()
        stage.reader.view(MONTE_CARLO)
        located = stage.table.locate(stage.session, Locate(GEMM))
        sequence = stage.reader.reader.words[sequence_word(located.slot)]
        assert stage.reader.reader.read(located.slot)[0] == sequence
        entry = stage.reader.entry(GEMM)
        assert (entry.workload, entry.client_class, entry.generation) == (GEMM, located.client_class, 1)


def slow_down(fleet, backend, workload, factor):
    model = fleet.backends[backend].pairs[workload].model
    model.calibrate([Point(one.work, factor * one.seconds, one.log_sigma) for one in model.points])


def add_model(fleet, name):
    """A user's model that every backend can run, as fast as a matrix product."""
    fleet.add_workload(dataclasses.replace(fleet.workloads["ml.model"], name=name, model=ModelId("credit", 1)))
    for backend in fleet.backends.values():
        pair = backend.pairs[name] = Pair(name, None)
        pair.error, pair.model = 0.0, CostModel(backend.pairs[GEMM].model.state())
