"""What clients read from the decision table is what the daemon would answer, or nothing."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.costs.model import CostModel, ModelState, Point
from routerd.errors import NoCandidate
from routerd.protocol import Ask
from routerd.types import ArrayRef

GEMM, MONTE_CARLO, PERFORMANCE = "linalg.gemm", "options.monte_carlo_european", "analytics.performance"
SPLIT = "rules: [{id: large, when: {task.work: {gte: 1e7}}, prefer: [neural_engine]}]"


def same(answer, other):
    """Equal in everything but their ids."""
    return msgspec.structs.replace(answer, decision_id="") == msgspec.structs.replace(other, decision_id="")


def works(seed, count=40):
    random_ = random.Random(seed)
    return [10 ** random_.uniform(4.0, 9.5) for _ in range(count)]


class TestTheSameAnswer:
    def test_as_the_daemons_for_random_policies_hardware_clients_and_tasks(self, table_setting, fleet, parts):
        @settings(max_examples=50, deadline=None)
        @given(st.integers(0, 10**9))
        def agree(seed):
            random_ = random.Random(seed)
            randomise(fleet, parts, random_)
            client = {"name": random_.choice(("batch-1", "notebook")), "uid": random_.choice((0, 1000, 7))}
            in_process = random_.random() < 0.5
            stage = table_setting(random_policy(random_), in_process_seconds=200e-6, in_process=in_process, **client)
            for worker in fleet.workers:
                worker.load(random_.choice((0.0, 0.0, 0.0, 10 ** random_.uniform(-5, 0))))
            stage.table._writer.set_busy(fleet.busy)
            for workload in (GEMM, MONTE_CARLO, PERFORMANCE):
                view = stage.reader.view(workload)
                edges = [span.start for span in stage.reader.entry(workload).spans() if span.start > 0.0]
                for work in [*works(seed, 10), *edges, *(math.nextafter(edge, 0.0) for edge in edges)]:
                    check(stage, view.by_work(work), Ask(workload, work=work), figures=False)
                for _ in range(10):
                    arguments, ask = random_task(workload, random_)
                    check(stage, stage.reader.decide(workload, arguments), ask, figures=True)

        agree()

    def test_and_it_is_an_answer_at_all_where_the_policy_lets_it(self, table_setting):
        stage = table_setting(SPLIT)
        for workload in (GEMM, MONTE_CARLO):
            view = stage.reader.view(workload)
            for work in works(1):
                found = view.by_work(work)
                assert found.backend == stage.answer(workload, work).backend
                assert (found.rule.split()[0] == "large") is (work >= 1e7)
        for size in (64, 300, 500, 2000):
            arguments = {"a": (size, size), "b": (size, size)}
            refs = {name: ArrayRef((size, size), "float64") for name in "ab"}
            found = stage.reader.decide(GEMM, arguments)
            assert same(found, stage.router.plan(Ask(GEMM, {}, refs), stage.session).decision)

    def test_figures_for_work_alone_are_those_of_nearby_work(self, table_setting):
        stage = table_setting()
        view = stage.reader.view(GEMM)
        for work in works(2):
            found, exact = view.by_work(work), stage.answer(GEMM, work)
            assert 0.45 < found.work / work < 2.2
            assert 0.45 < found.predicted_seconds / exact.predicted_seconds < 2.2

    def test_far_from_what_was_timed_the_daemon_is_asked(self, table_setting):
        view = table_setting("constraints: [{id: one, allow: [cpu]}]").reader.view(GEMM)
        assert view.by_work(1e3 / 60.0) is not None
        assert view.by_work(1e3 / 2e6) is None
        assert view.by_work(1e3 / 9e5) is not None
        assert view.by_work(1e9 * 70.0) is None


class TestWhatOnlyTheMomentTells:
    @pytest.mark.parametrize(
        "when",
        [
            'time.local: {between: ["22:00", "06:00"]}',
            "time.weekday: {in: [sat, sun]}",
            "hardware.metal_gpu.queue_ms: {gt: 5}",
            "hardware.cpu.free_bytes: {lt: 1GB}",
            "hardware.cpu.utilisation: {gt: 0.5}",
            "hardware.metal_gpu.watts: {gt: 5}",
        ],
    )
    def test_is_asked(self, table_setting, when):
        view = table_setting(f"rules: [{{id: now, when: {{{when}}}, prefer: [cpu]}}]").reader.view(GEMM)
        assert [view.by_work(work) for work in works(1, 10)] == [None] * 10

    def test_only_where_it_matters(self, table_setting):
        stage = table_setting(
            "rules:\n"
            '  - {id: night, when: {time.local: {gte: "22:00"}, task.work: {gte: 1e7}}, prefer: [cpu]}\n'
            '  - {id: batch, when: {time.local: {gte: "22:00"}, client.name: batch}, prefer: [cpu]}\n'
            f'  - {{id: other, when: {{time.local: {{gte: "22:00"}}, workload.name: {MONTE_CARLO}}}, prefer: [cpu]}}\n'
            "constraints:\n"
            '  - {id: harmless, when: {time.local: {gte: "22:00"}}, deny: [cuda_gpu]}\n'
        )
        view = stage.reader.view(GEMM)
        assert view.by_work(math.nextafter(1e7, 0.0)).backend == "metal.mlx"
        assert view.by_work(1e7) is None
        assert stage.reader.view(MONTE_CARLO).by_work(1e5) is None
        batch = stage.reads(stage.client("batch"))
        assert batch.view(GEMM).by_work(1e5) is None

    def test_watts_that_a_sensor_reads_are_asked_for_too(self, table_setting):
        stage = table_setting("default: {objective: {energy: 1.0}}")
        assert stage.reader.view(GEMM).by_work(1e7) is not None  # nobody knows any
        watts = {"cpu": 60.0, "metal_gpu": 40.0, "neural_engine": 2.0}
        stage.router.planner._power = lambda: (watts, "sensor")
        stage.router.planner.forget()
        again = stage.reads(stage.client("another", in_process=True))
        assert again.view(GEMM).by_work(1e7) is None


class TestPieces:
    """Tasks whose batch or bytes a policy looks at."""

    BATCH = "rules: [{id: small, when: {task.batch: {lte: 100}}, prefer: [neural_engine]}]"

    def rule(self, stage, series):
        found = stage.reader.decide(PERFORMANCE, {"returns": (500, series)})
        return found and found.rule.split()[0]

    def test_each_piece_has_its_own_answer(self, table_setting):
        stage = table_setting(self.BATCH)
        assert [self.rule(stage, size) for size in (1, 100, 101, 5000)] == ["small", "small", "default", "default"]

    def test_a_task_known_by_its_work_alone_has_none_of_them(self, table_setting):
        found = table_setting(self.BATCH).reader.view(PERFORMANCE).by_work(1e5)
        assert found.rule.startswith("default")
        missing = "rules: [{id: small, on_missing: match, when: {task.batch: {lte: 100}}, prefer: [neural_engine]}]"
        assert table_setting(missing).reader.view(PERFORMANCE).by_work(1e5).rule.startswith("small")

    @pytest.mark.parametrize("condition", ["exists: true", "gte: 0", "lt: 1e30", "between: [0, 1e30]"])
    @pytest.mark.parametrize("fact", ["task.bytes", "task.batch"])
    def test_a_condition_that_every_known_value_meets_still_tells_the_known_from_the_unknown(
        self, table_setting, fact, condition
    ):
        stage = table_setting(f"rules: [{{id: known, when: {{{fact}: {{{condition}}}}}, prefer: [cpu]}}]")
        assert self.rule(stage, 50) == "known"
        assert stage.reader.view(PERFORMANCE).by_work(1e5).rule.startswith("default")

    def test_pieces_that_this_workload_does_not_need_cost_nothing(self, table_setting):
        stage = table_setting(
            f"rules: [{{id: a, when: {{task.bytes: {{gte: 1MiB}}, workload.name: {MONTE_CARLO}}}, prefer: [cpu]}}]"
        )
        assert len(stage.reader.entry(GEMM).planes) == 1
        assert len(stage.reader.entry(MONTE_CARLO).planes) == 3

    def test_more_planes_than_an_entry_has_are_asked(self, table_setting):
        rules = [
            f"  - {{id: r{number}, when: {{{fact}: {{gte: {4**number}}}}}, prefer: [cpu]}}"
            for number, fact in enumerate(["task.batch", "task.bytes"] * 5)
        ]
        only = "constraints: [{id: one, allow: [cpu]}]\n"
        stage = table_setting(only + "rules:\n" + "\n".join(reversed(rules)))
        assert len(stage.reader.entry(PERFORMANCE).planes) <= 32
        assert stage.reader.view(PERFORMANCE).by_work(1e5) is not None
        assert self.rule(stage, 50) is None


# -- random policies, hardware and tasks ---------------------------------------------------------------------------------


def check(stage, found, ask, *, figures):
    """Whatever the table answers is the daemon's answer; ``None`` is none."""
    if found is None:
        return
    try:
        expected = stage.router.plan(ask, stage.session).decision
    except NoCandidate:
        raise AssertionError(f"the table answers {found.backend} where nothing may run the task") from None
    assert (found.backend, found.rule, found.generation) == (expected.backend, expected.rule, expected.generation)
    if figures and not stage.fleet.busy:
        assert same(found, expected)


def randomise(fleet, parts, random_):
    """Hardware of random speed, some of it cold, inexact or not there."""
    for backend in fleet.backends.values():
        backend.state = random_.choice(("ready", "ready", "ready", "down"))
        backend.worker.load(0.0)
        for workload in (GEMM, MONTE_CARLO, PERFORMANCE):
            launch, rate = 10 ** random_.uniform(-6, -3), 10 ** random_.uniform(-10, -8)
            seconds = [(launch + rate * work) * math.exp(random_.gauss(0.0, 0.05)) for work in parts.SIZES]
            points = [Point(*point, random_.uniform(0.0, 0.2)) for point in zip(parts.SIZES, seconds, strict=True)]
            pair = backend.pairs[workload]
            pair.model = CostModel(ModelState(tuple(points), random_.choice((None, 10 ** random_.uniform(-4, 0)))))
            pair.error = random_.choice((0.0, 1e-9, 1e-4))
    contract = fleet.backends["cpu.numpy"]
    contract.state = "ready"
    for pair in contract.pairs.values():
        pair.error = 0.0


CONDITIONS = (
    "task.work: {gte: 3e5}", "task.work: {lt: 2e8}", "task.work: {between: [1e4, 1e7]}", "task.work: 1e6",
    "task.bytes: {gte: 64KiB}", "task.bytes: {between: [100, 1MiB]}", "task.bytes: {exists: true}", "task.bytes: {gte: 0}",
    "task.batch: {gte: 8}", "task.batch: {lt: 100}", "task.batch: {exists: false}", "task.batch: {not_in: [3, 30]}",
    "client.name: 'batch-*'", "client.name: {in: [notebook, other]}", "client.uid: {in: [self, root]}", "client.gid: {gt: 1000}",
    "flags.METAL_GPU_PRIORITY: HIGH", "flags.GPU_ACCELERATION: {exists: true}",
    "hardware.metal_gpu.available: true", "hardware.cuda_gpu.available: true", "hardware.thermal: critical",
    "hardware.cpu.queue_ms: {gt: 1}", "hardware.cpu.free_bytes: {gt: 1}", "time.local: {between: ['00:00', '12:00']}",
    "task.deadline_ms: {lt: 5}", "task.priority: {gte: 0}", "task.tolerance: {lte: 1e-5}",
    "workload.name: 'linalg.*'", "workload.family: options", "workload.engine: Collateral",
)  # fmt: skip
TARGETS = (
    "cpu",
    "metal_gpu",
    "neural_engine",
    "in_process",
    "cpu.numpy",
    "metal.mlx",
    "ane.coreml",
    "in_process.numpy",
)
CHOICES = (
    "prefer: [neural_engine]", "prefer: [metal_gpu, cpu], unless_slower_than: 1.5", "prefer: [cpu]", "prefer: [in_process]",
    "objective: {energy: 1.0}", "objective: {latency: 0.4, throughput: 0.6}", "objective: {latency: 1.0}",
)  # fmt: skip


def random_policy(random_):
    def head(name):
        conditions = {one.partition(":")[0]: one for one in random_.sample(CONDITIONS, random_.choice((1, 1, 2)))}
        missing = random_.choice(("", "on_missing: match, "))
        return f"id: {name}, {missing}when: {{{', '.join(conditions.values())}}}"

    constraints = [
        f"  - {{{head(f'c{number}')}, {random_.choice(('allow', 'deny'))}: [{random_.choice(TARGETS)}]}}"
        for number in range(random_.randint(0, 2))
    ]
    rules = [f"  - {{{head(f'r{number}')}, {random_.choice(CHOICES)}}}" for number in range(random_.randint(0, 3))]
    sections = [("constraints:", constraints), ("rules:", rules)]
    return "\n".join("\n".join([title, *lines]) for title, lines in sections if lines)


def random_task(workload, random_):
    """The arguments of a task, some of its size only, and the question that a client would send to the daemon."""
    if workload == MONTE_CARLO:
        params = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2,
                  "num_simulations": round(10 ** random_.uniform(2, 7))}  # fmt: skip
        return params, Ask(workload, params)
    if workload == GEMM:
        rows, inner, columns = (round(10 ** random_.uniform(0.5, 3)) for _ in range(3))
        shapes = {"a": (rows, inner), "b": (inner, columns)}
    else:
        shapes = {"returns": (round(10 ** random_.uniform(1, 4)), round(10 ** random_.uniform(0, 3)))}
    return shapes, Ask(workload, {}, {name: ArrayRef(shape, "float64") for name, shape in shapes.items()})
