"""The decision table: what clients read from it is what the daemon would answer, and tiny work runs in the caller."""

from __future__ import annotations

import asyncio
import math
import os
import threading

import msgspec
import numpy as np
import pytest

from routerd import aio, connect, errors
from routerd.types import Placed
from routerd.workloads import builtin_workloads
from tests.end_to_end.conftest import PLUGIN, install_plugin

MONTE_CARLO, GEMM, MLP, PERFORMANCE = TIMED = (
    "options.monte_carlo_european", "linalg.gemm", "ml.mlp_inference", "analytics.performance"
)  # fmt: skip
OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2}
SMALL = np.arange(400.0).reshape(20, 20)
POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: table}
constraints:
  - {id: in-workers, when: {client.name: "asking*"}, deny: [in_process, hybrid]}
  - {id: no-moods, when: {client.name: "caller*"}, deny: [hybrid]}
rules:
  - {id: moody, when: {client.name: "moody*"}, prefer: [moody.one]}
  - {id: at-all-hours, when: {client.name: "clock*", time.local: {gte: "00:00"}}, objective: {latency: 1.0}}
  - {id: small-batches, when: {workload.name: "ml.*", task.batch: {lte: 64}}, prefer: [cpu.torch, cpu], unless_slower_than: 1.25}
  - {id: many-bytes, when: {task.bytes: {gte: 1000000}}, objective: {throughput: 1.0}}
  - {id: large, when: {task.work: {gte: 1000000}}, prefer: [cpu.torch], unless_slower_than: 1.1}
"""


@pytest.fixture(scope="module")
def served(module_daemon, tmp_path_factory):
    """A daemon with NumPy, torch and moody.one timed on four workloads."""
    directory = tmp_path_factory.mktemp("table")
    install_plugin(directory, "acme", PLUGIN)
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    process = module_daemon(torch=True, environment={"PYTHONPATH": str(directory)}, policy_paths=policy).start()
    with process.connect(name="setup") as router:
        router.call("calibrate", {"workloads": TIMED})
    yield process
    assert process.stop() == 0
    assert "internal error" not in process.log.read_text()


def from_table(decision):
    return decision.decision_id.startswith("table:")


def comparable(decision):
    """All that a decision says; not its id, nor that this client may not run the task itself, which the other could not."""
    rejected = tuple(one for one in decision.rejected if one.backend != "in_process.numpy")
    return msgspec.structs.replace(decision, decision_id="", rejected=rejected)


class TestAgreement:
    """Beside a client without the table, under a policy that looks at work, batch and bytes."""

    @pytest.fixture
    def both(self, served):
        with served.connect(name="asking") as reader, served.connect(name="asking", table=False) as asker:
            yield reader, asker

    @pytest.mark.parametrize("workload", TIMED)
    def test_by_work_alone(self, both, workload):
        (read, ask) = (router.decider(workload) for router in both)
        works = np.geomspace(10.0, 1e11, 60).tolist()
        answers = {work: read(work) for work in works}
        read_ones = {work: answer for work, answer in answers.items() if from_table(answer)}
        assert len(read_ones) >= 20
        for work, answer in answers.items():
            asked = ask(work)
            assert (answer.backend, answer.primary_hardware, answer.rule) == (
                asked.backend, asked.primary_hardware, asked.rule
            )  # fmt: skip
            assert (answer.generation, answer.policy_digest) == (asked.generation, asked.policy_digest)
        low, high = next(one.work_range for one in builtin_workloads() if one.name == workload)
        for work, answer in read_ones.items():  # figures are those of a work near by
            assert 0.25 <= answer.work / work <= 4.0 or not low <= work <= high
            assert comparable(answer) == comparable(ask(answer.work))

    def test_whole_tasks(self, both):
        reader, asker = both
        tasks = [
            *((MONTE_CARLO, {**OPTION, "num_simulations": count}) for count in (100, 1000, 30_000, 10**6, 10**8)),
            *((GEMM, {"m": size, "k": 33, "n": 2 * size}) for size in (8, 40, 200, 1000)),
            *((GEMM, {"a": np.ones((size, 10)), "b": (10, size)}) for size in (30, 3000)),
            *((PERFORMANCE, {"returns": (count, 500)}) for count in (20, 200, 2000)),
            *((MLP, {"rows": rows, "features": 16, "h1": 64, "h2": 32, "outputs": 1}) for rows in (8, 64, 65, 10_000)),
        ]
        answers = [reader.decide(workload, **arguments) for workload, arguments in tasks]
        assert [comparable(one) for one in answers] == [comparable(one) for one in asker.decide_many(tasks)]
        assert sum(map(from_table, answers)) >= len(tasks) // 2
        assert {one.rule.split()[0] for one in answers} == {"small-batches", "many-bytes", "large", "default"}
        assert all(reader.decide(workload, **arguments) == one for one, (workload, arguments) in zip(answers, tasks, strict=True) if from_table(one))  # fmt: skip

    def test_a_decider_takes_whole_tasks_too(self, both):
        read, ask = (router.decider(GEMM) for router in both)
        assert from_table(read(m=50, k=60, n=70))
        assert comparable(read(m=50, k=60, n=70)) == comparable(ask(m=50, k=60, n=70))
        with pytest.raises(errors.InvalidParameter, match="not both"):
            read(1e5, m=3)

    def test_with_asyncio(self, served, both):
        _reader, asker = both

        async def main():
            async with aio.connect(served.socket, name="asking") as router:
                decide = router.decider(GEMM)
                return [await decide(1e6), await decide(m=50, k=60, n=70), await router.decide(GEMM, m=50, k=60, n=70)]

        by_work, whole, plainly = asyncio.run(main())
        assert all(map(from_table, (by_work, whole, plainly)))
        assert comparable(by_work) == comparable(asker.decider(GEMM)(by_work.work))
        assert whole == plainly
        assert comparable(whole) == comparable(asker.decide(GEMM, m=50, k=60, n=70))

    @pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"priority": 1}, {"deadline_ms": 50.0}])
    def test_tasks_with_options_of_their_own_are_asked_about(self, both, options):
        reader, asker = both
        answer = reader.decide(GEMM, m=50, k=60, n=70, **options)
        assert not from_table(answer)
        assert comparable(answer) == comparable(asker.decide(GEMM, m=50, k=60, n=70, **options))

    def test_what_is_wrong_is_refused_in_the_same_words(self, both):
        for workload, arguments in (
            ("linalg.gem", {"m": 1, "k": 1, "n": 1}),
            (GEMM, {"m": 1, "k": 1}),
            (GEMM, {"m": 1, "k": 1, "n": 0}),
            (GEMM, {"a": (3, 4), "b": (5, 6)}),
            (MONTE_CARLO, {**OPTION, "num_simulations": 10, "volatility": math.nan}),
            (MONTE_CARLO, {**OPTION, "num_simulations": 10, "volatilty": 0.3}),
        ):
            assert refusal(both[0].decide, workload, **arguments) == refusal(both[1].decide, workload, **arguments)
        for work in (0.0, -1.0, math.nan, math.inf):
            assert refusal(both[0].decider(GEMM), work) == refusal(both[1].decider(GEMM), work)


def refusal(call, *arguments, **named):
    with pytest.raises(errors.BadRequest) as caught:
        call(*arguments, **named)
    return type(caught.value), caught.value.message, caught.value.detail


def counted(served, name):
    with served.connect(name="watcher", table=False) as watcher:
        return watcher.call("stats")[name]


def test_decisions_are_counted_and_not_recorded(served, until):
    before = counted(served, "decided_from_table")
    with served.connect(name="asking-counted") as router:
        decide = router.decider(GEMM)
        decide(1e6)
        number = sum(from_table(decide(1e6)) for _ in range(1000))
        number += from_table(router.decide(GEMM, m=50, k=60, n=70))
        assert number == 1001
    until(lambda: counted(served, "decided_from_table") >= before + number)
    assert counted(served, "decided_from_table") <= before + number + 1
    with served.connect(name="watcher", table=False) as watcher:
        assert "asking-counted" not in {record["client"] for record in watcher.call("decisions.tail", {"limit": 20})}


class TestPolicies:
    @pytest.fixture
    def apply(self, served, tmp_path):
        """Put a policy in force whose only rule has this id; its generation and digest."""
        with served.connect(name="admin", table=False) as admin:

            def apply(rule):
                path = tmp_path / "rule.yaml"
                rules = f"rules: [{{id: {rule}, objective: {{latency: 1.0}}}}]\nrecord: {{decisions: none}}\n"
                path.write_text(f"apiVersion: routerd/v1\nkind: Policy\n{rules}")
                applied = admin.call("policy.apply", {"paths": [str(path)]})
                return applied["generation"], applied["digest"]

            yield apply
            admin.call("policy.apply")

    def test_a_new_one_is_in_force_at_once_in_every_loop_and_no_answer_mixes_two(self, served, apply, until):
        done, heard = threading.Event(), []

        def loop(decide):
            mine = set()
            while not done.is_set():
                decision = decide(1e6)
                mine.add((decision.rule.split()[0], decision.generation, decision.policy_digest, from_table(decision)))
            heard.append(mine)

        with served.connect(name="looping") as router:
            decide = router.decider(GEMM)
            threads = [threading.Thread(target=loop, args=(decide,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                applied = {}
                for number in range(8):
                    applied[f"rule-{number}"] = apply(f"rule-{number}")
                    decision = decide(1e6)
                    assert decision.rule.startswith(f"rule-{number} ")
                    assert (decision.generation, decision.policy_digest) == applied[f"rule-{number}"]
                    until(lambda: from_table(decide(1e6)))
            finally:
                done.set()
                for thread in threads:
                    thread.join()
        answers = {answer for mine in heard for answer in mine if answer[0].startswith("rule-")}
        assert {answer[:3] for answer in answers} == {(rule, *number) for rule, number in applied.items()}
        assert {rule for rule, _generation, _digest, read in answers if read} == set(applied)

    def test_a_rule_on_the_time_is_asked_about_and_recorded(self, served):
        with served.connect(name="clock") as router:
            decisions = [router.decide(GEMM, m=50, k=60, n=70), router.decider(GEMM)(1e6)]
            assert not any(map(from_table, decisions))
            assert {one.rule.split()[0] for one in decisions} == {"at-all-hours"}
            tail = router.call("decisions.tail", {"limit": 2})
        assert [record["decision_id"] for record in tail] == [one.decision_id for one in reversed(decisions)]
        assert {record["client"] for record in tail} == {"clock"}


def test_while_a_worker_has_work_its_deciders_ask(served, moods, until):
    def run():
        with served.connect(name="moody-running") as router:
            router.run(GEMM, a=np.array([[moods.slow, 1.0]]), b=np.ones((2, 1)))

    with served.connect(name="moody") as moody, served.connect(name="asking") as other:
        to_moody, to_others = moody.decider(GEMM), other.decider(GEMM)
        assert to_moody(1e6).backend == "moody.one"
        until(lambda: from_table(to_moody(1e6)) and from_table(to_others(1e6)))
        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: not from_table(to_moody(1e6)))
        waiting, beside = to_moody(1e6), to_others(1e6)
        thread.join()
        assert from_table(beside)
        assert (waiting.backend, from_table(waiting)) == ("moody.one", False)
        until(lambda: from_table(to_moody(1e6)))


class TestInProcess:
    @pytest.fixture
    def caller(self, served):
        with served.connect(name="caller") as router:
            assert router.decider(GEMM)(16_000.0).backend == "in_process.numpy"
            yield router

    @pytest.fixture
    def worker(self, served):
        with served.connect(name="caller", table=False) as router:
            yield router

    @pytest.mark.parametrize(
        ("workload", "arguments"),
        [
            (GEMM, {"a": SMALL, "b": SMALL[::2].T}),
            (GEMM, {"a": SMALL.tolist(), "b": SMALL.astype("float32")}),
            (MONTE_CARLO, {**OPTION, "num_simulations": 1000, "seed": 5}),
            (PERFORMANCE, {"returns": np.linspace(-0.01, 0.012, 60).reshape(30, 2)}),
        ],
    )
    def test_the_result_is_the_workers(self, caller, worker, workload, arguments):
        result = caller.run(workload, **arguments)
        assert result.planned == result.ran_on == Placed("in_process.numpy", "in_process")
        assert (result.decision.backend, result.fallback_reason) == ("in_process.numpy", None)
        assert from_table(result.decision)
        assert result.timing.queue_seconds == 0.0
        assert 0.0 < result.timing.kernel_seconds < result.timing.total_seconds
        expected = worker.run(workload, **arguments, tolerance=0.0)
        assert expected.ran_on == Placed("cpu.numpy", "cpu")
        assert result.keys() == expected.keys()
        for name, value in result.items():
            other = expected[name]
            assert type(value) is type(other)
            np.testing.assert_array_equal(value, other)
            if isinstance(value, np.ndarray):
                assert (value.dtype, value.flags.writeable) == (other.dtype, other.flags.writeable)

    @pytest.mark.parametrize(
        ("workload", "arguments"),
        [
            (PERFORMANCE, {"returns": np.full((10, 3), np.nan)}),
            (GEMM, {"a": SMALL}),
            (GEMM, {"a": SMALL, "b": SMALL[:-1]}),
            (GEMM, {"a": SMALL.astype("int64"), "b": SMALL}),
            (GEMM, {"a": np.ma.masked_array(SMALL), "b": SMALL}),
            (GEMM, {"a": SMALL, "b": (20, 20)}),
            (MONTE_CARLO, {**OPTION, "num_simulations": 1000, "volatility": -1.0}),
            (MONTE_CARLO, {**OPTION, "num_simulations": 1000, "strike": 1.0}),
        ],
    )
    def test_errors_are_the_workers(self, caller, worker, workload, arguments):
        assert refusal(caller.run, workload, **arguments) == refusal(worker.run, workload, **arguments)

    def test_runs_are_counted_and_not_recorded(self, served, caller, until):
        before, failed = counted(served, "executed_in_process"), counted(served, "failed_in_process")
        for _ in range(5):
            caller.run(GEMM, a=SMALL, b=SMALL)
        with pytest.raises(errors.InvalidArray):
            caller.run(PERFORMANCE, returns=np.full((10, 3), np.nan))
        executed = caller.call("stats")["executed"]
        caller.close()
        until(lambda: counted(served, "executed_in_process") == before + 6)
        assert counted(served, "failed_in_process") == failed + 1
        assert counted(served, "executed") == executed

    def test_with_asyncio(self, served, caller):
        async def main():
            async with aio.connect(served.socket, name="caller") as router:
                await router.decide(GEMM, m=20, k=20, n=20)  # from here on it has the table's answer
                return await asyncio.gather(*(router.run(GEMM, a=SMALL * number, b=SMALL) for number in range(20)))

        results = asyncio.run(main())
        assert {result.ran_on.backend for result in results} == {"in_process.numpy"}
        for number, result in enumerate(results):
            np.testing.assert_array_equal(result["c"], (SMALL * number) @ SMALL)

    def test_a_policy_keeps_it_in_workers(self, served, caller):
        with served.connect(name="asking") as router:
            result = router.run(GEMM, a=SMALL, b=SMALL)
            assert result.ran_on.device_kind == "cpu"
            rejected = {one.backend: one.reason for one in router.decide(GEMM, m=20, k=20, n=20).rejected}
        assert rejected["in_process.numpy"].startswith("denied by constraint in-workers (policy.yaml:")

    @pytest.mark.parametrize("setting", [{"decision_table": "false"}, {"in_process_seconds": 0}])
    def test_settings_keep_it_in_workers(self, private_daemon, setting):
        process = private_daemon(**setting).start()
        with process.connect(name="caller") as router:
            router.call("calibrate", {"workloads": [GEMM]})
            assert (router.welcome.table == 0) is ("decision_table" in setting)
            assert from_table(router.decider(GEMM)(16_000.0)) is ("decision_table" not in setting)
            assert router.decide(GEMM, m=20, k=20, n=20).backend == "cpu.numpy"
            assert router.run(GEMM, a=SMALL, b=SMALL).ran_on.backend == "cpu.numpy"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_table_to_its_parent_and_may_connect_again(served):
    def child():
        for call in (lambda: decide(16_000.0), lambda: router.run(GEMM, a=SMALL, b=SMALL)):
            try:
                call()
            except errors.DaemonUnreachable as error:
                assert "connect again" in error.message
            else:
                return 1
        with connect(served.socket, name="caller") as mine:
            return 0 if from_table(mine.decider(GEMM)(16_000.0)) else 2

    with served.connect(name="caller") as router:
        decide = router.decider(GEMM)
        kept = decide(16_000.0)
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = child()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert from_table(kept)
        assert decide(16_000.0) == kept
        assert router.run(GEMM, a=SMALL, b=SMALL).ran_on.backend == "in_process.numpy"
