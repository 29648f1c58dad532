"""Deciding: every field is there and means what it says, and run does what decide said."""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np
import pytest

from routerd import errors
from routerd.types import Decision

FIELDS = {
    "decision_id", "workload", "work", "primary_hardware", "backend", "confidence", "estimated_gain",
    "predicted_seconds", "reasoning", "fallbacks", "rejected", "rule", "policy_digest", "generation", "in_time",
}  # fmt: skip
GEMM = {"m": 500, "k": 500, "n": 500}


def error_of(router, backend, workload):
    for state in router.call("backends")["backends"]:
        if state["name"] == backend:
            return next(pair["error"] for pair in state["workloads"] if pair["workload"] == workload)
    raise AssertionError(backend)


def has_bfloat16(router):
    states = {state["name"]: state["state"] for state in router.call("backends")["backends"]}
    return states["cpu.torch_bf16"] == "ready"


class TestFields:
    def test_all_of_them_are_there(self, wire):
        reply = wire().hello().ask("decide", {"workload": "linalg.gemm", "params": GEMM})["result"]
        assert reply.keys() == FIELDS == set(Decision.__struct_fields__)

    def test_they_agree_with_the_daemon(self, router):
        decision = router.decide("linalg.gemm", **GEMM)
        status = router.call("status")
        assert re.fullmatch(r"[0-9a-f]{20}", decision.decision_id)
        assert decision.workload == "linalg.gemm"
        assert decision.work == 2.0 * 500**3
        assert decision.primary_hardware == "cpu"
        assert decision.policy_digest == status["policy"]["digest"]
        assert decision.generation == status["policy"]["generation"]
        assert decision.rule.startswith("large-data (default.yaml:")
        everybody = {decision.backend, *(one.backend for one in decision.fallbacks),
                     *(one.backend for one in decision.rejected)}  # fmt: skip
        assert everybody == set(status["backends"])

    def test_numbers_are_what_they_mean(self, router):
        decision = router.decide("linalg.gemm", **GEMM)
        assert 0.0 <= decision.confidence <= 1.0
        assert decision.predicted_seconds > 0.0
        seconds = {one.backend: one.predicted_seconds for one in decision.fallbacks}
        seconds[decision.backend] = decision.predicted_seconds
        assert decision.predicted_seconds == min(seconds.values())
        assert [one.predicted_seconds for one in decision.fallbacks] == sorted(seconds.values())[1:]
        assert decision.estimated_gain == pytest.approx(seconds["cpu.numpy"] / decision.predicted_seconds)
        for one in decision.fallbacks:
            total = one.queue_seconds + one.transfer_seconds + one.service_seconds
            assert one.predicted_seconds == pytest.approx(total)

    def test_the_reasoning_is_a_checkable_sentence(self, router):
        decision = router.decide("linalg.gemm", **GEMM)
        assert decision.reasoning.startswith(f"{decision.backend}: ")
        assert "for work 2.5e8" in decision.reasoning
        assert "rule large-data: " in decision.reasoning
        assert "not yet timed" not in decision.reasoning

    def test_predictions_come_close_to_what_happens(self, router):
        a = np.ones((500, 500))
        predicted = router.decide("linalg.gemm", **GEMM, tolerance=0.0).predicted_seconds
        kernels = sorted(router.run("linalg.gemm", a=a, b=a, tolerance=0.0).timing.kernel_seconds for _ in range(5))
        assert predicted / 10.0 < kernels[2] < predicted * 10.0

    def test_each_answer_has_an_id_of_its_own_and_ids_sort_by_time(self, router):
        ids = [router.decide("linalg.gemm", **GEMM).decision_id for _ in range(50)]
        assert sorted(set(ids)) == ids

    def test_many_in_one_go_are_answered_in_order(self, router):
        tasks = [("linalg.gemm", {"m": size, "k": 8, "n": 8}) for size in range(1, 2001)]
        decisions = router.decide_many(tasks)
        assert [decision.work for decision in decisions] == [128.0 * size for size in range(1, 2001)]

    def test_one_bad_question_among_many_is_told(self, router):
        with pytest.raises(errors.UnknownWorkload):
            router.decide_many([("linalg.gemm", GEMM), ("linalg.gem", GEMM), ("linalg.gemm", GEMM)])
        assert router.decide("linalg.gemm", **GEMM).backend


@pytest.mark.parametrize("array", [(500, 500), np.ones((500, 500)), np.ones((500, 500)).tolist()])
def test_an_array_may_be_given_by_its_shape_or_itself(router, array):
    decision = router.decide("linalg.gemm", a=array, b=(500, 500))
    assert decision.work == 2.0 * 500**3


class TestTolerance:
    def test_a_backend_is_out_where_its_error_is_larger(self, router):
        measured = error_of(router, "cpu.torch", "linalg.gemm")
        assert 0.0 < measured < 1e-5
        for tolerance, allowed in ((measured * 0.99, False), (measured, True), (1e-5, True)):
            decision = router.decide("linalg.gemm", **GEMM, tolerance=tolerance)
            candidates = {decision.backend, *(one.backend for one in decision.fallbacks)}
            assert ("cpu.torch" in candidates) is allowed
        decision = router.decide("linalg.gemm", **GEMM, tolerance=0.0)
        reasons = {one.backend: one.reason for one in decision.rejected}
        assert reasons["cpu.torch"] == f"error {measured:.1e} exceeds tolerance 0e+00"
        assert (decision.backend, decision.fallbacks) == ("cpu.numpy", ())
        assert (decision.confidence, decision.estimated_gain) == (1.0, 1.0)

    def test_reduced_precision_takes_part_only_where_it_is_asked_for(self, router):
        decision = router.decide("linalg.gemm", **GEMM)
        assert "cpu.torch_bf16" in {one.backend for one in decision.rejected}
        loose = router.decide("linalg.gemm", **GEMM, tolerance=0.05)
        candidates = {loose.backend, *(one.backend for one in loose.fallbacks)}
        assert ("cpu.torch_bf16" in candidates) is has_bfloat16(router)

    def test_a_backend_that_cannot_says_why(self, router):
        decision = router.decide("risk.greeks_batch", N=10, tolerance=0.05)
        reasons = {one.backend: one.reason for one in decision.rejected}
        words = "not bound by matrix products" if has_bfloat16(router) else "no bfloat16 matrix unit"
        assert words in reasons["cpu.torch_bf16"]


@pytest.mark.parametrize("options", [{}, {"tolerance": 0.0}, {"priority": 1}, {"deadline_ms": 60_000.0}])
@pytest.mark.parametrize("side", [16, 64, 120, 400])
@pytest.mark.parametrize("table", [False, True])
def test_run_goes_where_decide_says(daemon, side, options, table):
    """Unless it was a close call, which the learning from one run may turn, or the moment of the run was another one."""
    a = np.ones((side, side))
    with daemon.connect(name="test", table=table) as router:
        router.run("linalg.gemm", a=a, b=a, **options)
        decision = router.decide("linalg.gemm", a=a, b=a, **options)
        result = router.run("linalg.gemm", a=a, b=a, **options)
    assert result.ran_on.backend == result.decision.backend
    explored = "(exploration)" in result.decision.reasoning
    queued = any(other.queue_seconds for other in (*decision.fallbacks, *result.decision.fallbacks))
    if decision.confidence > 0.9 and not explored and not queued:
        assert result.ran_on.backend == decision.backend
    assert result.decision.rule == decision.rule


class TestRecords:
    def test_a_decision_is_found_again_by_its_id(self, router):
        decision = router.decide("linalg.gemm", **GEMM)
        record = router.call("decisions.get", {"decision_id": decision.decision_id})
        assert msgspec.convert(record["decision"], Decision) == decision
        assert (record["method"], record["client"], record["ran_on"]) == ("decide", "test", None)
        assert record["dims"] == GEMM

    def test_an_answer_from_the_cache_as_well(self, router):
        decisions = [router.decide("linalg.gemm", **GEMM) for _ in range(3)]
        for decision in decisions:
            record = router.call("decisions.get", {"decision_id": decision.decision_id})
            assert record["decision_id"] == record["decision"]["decision_id"] == decision.decision_id
            assert msgspec.convert(record["decision"], Decision) == decision

    def test_a_run_is_recorded_with_how_it_went(self, router, option):
        result = router.run("options.monte_carlo_european", **option)
        record = router.call("decisions.get", {"decision_id": result.decision.decision_id})
        assert record["method"] == "run"
        assert record["ran_on"] == result.ran_on.backend
        assert record["timing"] == msgspec.to_builtins(result.timing)
        assert record["params"]["num_simulations"] == 1000
        assert record["error_code"] is None

    def test_a_failed_run_is_recorded_with_its_code(self, router):
        with pytest.raises(errors.InvalidArray):
            router.run("analytics.performance", returns=np.full((10, 3), np.nan))
        record = router.call("decisions.tail", {"limit": 1})[0]
        assert (record["workload"], record["error_code"]) == ("analytics.performance", "invalid_array")

    def test_the_newest_come_first_and_can_be_narrowed(self, router, option):
        mine = [router.decide("linalg.gemm", **GEMM).decision_id for _ in range(5)]
        router.decide("options.monte_carlo_european", **option)
        tail = router.call("decisions.tail", {"limit": 5, "workload": "linalg.gemm"})
        assert [record["decision_id"] for record in tail] == mine[::-1]
        newest = router.call("decisions.tail", {"limit": 1})[0]
        assert newest["workload"] == "options.monte_carlo_european"
        assert router.call("decisions.tail", {"since": newest["time"] + 1000.0}) == []
        assert router.call("decisions.tail", {"limit": 0}) == []

    def test_it_is_explained_from_its_recorded_facts(self, router):
        decision = router.decide("linalg.gemm", **GEMM)
        explained = router.call("policy.explain", {"decision_id": decision.decision_id})
        assert explained["same_policy"] is True
        selected = [clause for clause in explained["trace"]["clauses"] if clause["selected"]]
        assert [clause["id"] for clause in selected] == ["large-data"]


def test_an_answer_that_is_too_long_is_refused_not_cut(private_daemon, option):
    process = private_daemon(max_output_buffer_bytes=65536).start()
    with process.connect() as router:
        router.decide_many([("options.monte_carlo_european", option)] * 300)
        with pytest.raises(errors.LimitExceeded, match=r"the answer to decisions\.tail has \d+ bytes.*ask for less"):
            router.call("decisions.tail", {"limit": 300})
        assert len(router.call("decisions.tail", {"limit": 5})) == 5


def test_monitoring_logs_each_run_under_its_decision(private_daemon, option):
    process = private_daemon(environment={"PERFORMANCE_MONITORING": "1"}, log_format="json").start()
    with process.connect() as router:
        result = router.run("options.monte_carlo_european", **option)
        router.decide("options.monte_carlo_european", **option)
    assert process.stop() == 0
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    (line,) = [line for line in lines if line["event"] == "executed"]
    assert line["decision_id"] == result.decision.decision_id
    assert line["ran_on"] == result.ran_on.backend
    assert line["total_seconds"] == pytest.approx(result.timing.total_seconds, rel=0.5)


def test_flags_take_part(private_daemon, option):
    process = private_daemon(torch=True, environment={"AUTO_HARDWARE_ROUTING": "0"}).start()
    process.wait_ready("cpu.torch")
    with process.connect() as router:
        decision = router.decide("options.monte_carlo_european", **option, tolerance=0.01)
    reasons = {one.backend: one.reason for one in decision.rejected}
    assert reasons["cpu.torch"] == "automatic routing is off (AUTO_HARDWARE_ROUTING)"
