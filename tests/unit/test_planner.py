"""The ground of decisions: cold starts, work in the caller, watts, the way to a worker; kept until something changes."""

from __future__ import annotations

import math

import pytest

import routerd.planner
from routerd.costs.model import CostModel
from routerd.errors import NoCandidate
from routerd.flags import load_flags
from routerd.planner import Planner
from routerd.types import Task

GEMM, MONTE_CARLO = "linalg.gemm", "options.monte_carlo_european"
WATTS = {"cpu": 60.0, "metal_gpu": 40.0, "neural_engine": 2.0}


@pytest.fixture
def make_planner(fleet):
    def make(environment=None, **options):
        return Planner(fleet, load_flags(environment or {}), **options)

    return make


@pytest.fixture
def decide(policy_of):
    """Decides about a task of this much work under a policy; ``planner`` first."""

    def decide(planner, work, body="", *, workload=GEMM, in_process=False, tolerance=1e-5, active=None):
        active = active or policy_of(body)
        task = Task(workload, {}, {}, {}, work, 0, tolerance)
        return planner.decide(task, active.compiled.verdict({}), active, "id", in_process=in_process)

    return decide


@pytest.fixture
def ground(policy_of):
    """The ground under a policy; ``planner`` first."""
    active = policy_of()

    def ground(planner, workload=GEMM, tolerance=1e-5, *, in_process=False, large=False, active=active):
        verdict = active.compiled.verdict({})
        return planner.ground(workload, tolerance, verdict, active, in_process=in_process, large=large)

    return ground


def of(ranking, backend):
    return next(one for one in ranking if one.backend == backend)


def reasons(rejected):
    return {one.backend: one.reason for one in rejected}


class TestTheSameQuestionAgain:
    @pytest.fixture
    def counted(self, monkeypatch):
        made = []
        good = routerd.planner.decide
        monkeypatch.setattr(
            "routerd.planner.decide", lambda *given, **how: made.append(given[1]) or good(*given, **how)
        )
        return made

    def test_it_is_decided_once_and_each_answer_has_its_id(self, make_planner, policy_of, counted):
        planner, active = make_planner(), policy_of()
        task = Task(GEMM, {}, {}, {}, 1e8, 0, 1e-5)
        verdict = active.compiled.verdict({})
        first, again = (planner.decide(task, verdict, active, number) for number in ("one", "two"))
        assert counted == [1e8]
        assert (first[0].decision_id, again[0].decision_id) == ("one", "two")
        assert first[1] == again[1]

    @pytest.mark.parametrize("change", ["queue", "model", "policy"])
    def test_what_has_changed_is_decided_anew(self, make_planner, policy_of, fleet, counted, change):
        planner, active = make_planner(), policy_of()
        task = Task(GEMM, {}, {}, {}, 1e8, 0, 1e-5)
        before, _ranking = planner.decide(task, active.compiled.verdict({}), active, "one")
        if change == "queue":
            fleet.backends["metal.mlx"].worker.load(1.0)
        elif change == "model":
            for _ in range(20):
                fleet.backends["metal.mlx"].pairs[GEMM].model.observe(1e8, 1.0)
            planner.forget(GEMM)
        else:
            active = policy_of("constraints: [{id: no, deny: [metal.mlx]}]\n", generation=2)
        after, _ranking = planner.decide(task, active.compiled.verdict({}), active, "two")
        assert (before.backend, after.backend) == ("metal.mlx", "ane.coreml")
        assert len(counted) == 2


class TestColdStarts:
    def test_a_pair_that_has_not_run_since_its_workers_start_pays_for_its_first_task(self, make_planner, decide, fleet):
        pair = fleet.backends["metal.mlx"].pairs[GEMM]
        pair.model.cold_seconds = 0.5
        _decision, ranking = decide(make_planner(), 1e8)
        cold = of(ranking, "metal.mlx")
        assert cold.cold_seconds == 0.5
        assert cold.predicted_seconds == pytest.approx(0.5 + cold.transfer_seconds + cold.service_seconds)
        assert cold.service_seconds == pytest.approx(1e-5 + 1e-2, rel=1e-3)
        assert ranking[0].backend == "ane.coreml"

    def test_once_it_has_run_it_does_not_until_the_worker_starts_again(self, make_planner, decide, fleet):
        backend, planner = fleet.backends["metal.mlx"], make_planner()
        pair = backend.pairs[GEMM]
        pair.model.cold_seconds, pair.warm_in = 0.5, backend.worker.incarnation
        assert decide(planner, 1e8)[0].backend == "metal.mlx"
        backend.worker.incarnation += 1
        planner.forget()
        assert decide(planner, 1e8)[0].backend == "ane.coreml"

    def test_it_is_worth_it_where_the_task_is_large_enough(self, make_planner, decide, fleet):
        fleet.backends["metal.mlx"].pairs[GEMM].model.cold_seconds = 0.5
        decision, _ranking = decide(make_planner(), 1e10)
        assert decision.backend == "metal.mlx"
        assert "500 ms of it because this is its first task" in decision.reasoning

    def test_a_pair_of_unknown_cold_cost_has_none(self, make_planner, decide):
        assert {one.cold_seconds for one in decide(make_planner(), 1e8)[1]} == {0.0}


class TestInProcess:
    SMALL, LARGE = 1e4, 1e6  # 20 µs and 1 ms on cpu.numpy

    def test_tiny_work_is_cheapest_in_the_caller(self, make_planner, decide):
        decision, ranking = decide(make_planner(in_process_seconds=200e-6), self.SMALL, in_process=True)
        assert (decision.backend, decision.primary_hardware) == ("in_process.numpy", "in_process")
        here, there = ranking[0], of(ranking, "cpu.numpy")
        assert here.service_seconds == there.service_seconds
        assert here.transfer_seconds < there.transfer_seconds
        assert here.error == 0.0
        assert "it is the float64 contract" in decision.reasoning

    def test_nobody_else_is_offered_it(self, make_planner, decide):
        for planner, able in ((make_planner(in_process_seconds=200e-6), False), (make_planner(), True)):
            decision, ranking = decide(planner, self.SMALL, in_process=able)
            named = [one.backend for one in ranking] + list(reasons(decision.rejected))
            assert "in_process.numpy" not in named

    def test_only_up_to_the_limit_of_predicted_service(self, make_planner, decide, fleet):
        planner = make_planner(in_process_seconds=200e-6)
        model = fleet.backends["cpu.numpy"].pairs[GEMM].model
        low, high = self.SMALL, self.LARGE
        while (middle := 0.5 * (low + high)) not in (low, high):
            low, high = (middle, high) if model.predict(middle).seconds <= 200e-6 else (low, middle)
        assert "in_process.numpy" in [one.backend for one in decide(planner, low, in_process=True)[1]]
        decision, ranking = decide(planner, high, in_process=True)
        assert "in_process.numpy" not in [one.backend for one in ranking]
        assert reasons(decision.rejected)["in_process.numpy"] == "takes work of up to 200 µs here (in_process_seconds)"

    def test_it_waits_in_no_queue(self, make_planner, decide, fleet):
        for backend in fleet.backends.values():
            backend.worker.load(1.0)
        _decision, ranking = decide(make_planner(in_process_seconds=200e-6), self.SMALL, in_process=True)
        assert {one.backend: one.queue_seconds for one in ranking} == {
            "in_process.numpy": 0.0, "cpu.numpy": 1.0, "metal.mlx": 1.0, "ane.coreml": 1.0,
        }  # fmt: skip

    def test_the_policy_has_its_say(self, make_planner, decide):
        planner = make_planner(in_process_seconds=200e-6)
        for target in ("in_process", "in_process.numpy"):
            body = f"constraints: [{{id: daemon, deny: [{target}]}}]"
            decision, _ranking = decide(planner, self.SMALL, body, in_process=True)
            assert reasons(decision.rejected)["in_process.numpy"] == "denied by constraint daemon (test.yaml:4)"
        only = "constraints: [{id: here, allow: [in_process]}]"
        assert decide(planner, self.SMALL, only, in_process=True)[0].backend == "in_process.numpy"
        with pytest.raises(NoCandidate, match="in_process_seconds"):
            decide(planner, self.LARGE, only, in_process=True)

    def test_with_routing_off_everything_is_the_contracts(self, make_planner, decide):
        planner = make_planner({"AUTO_HARDWARE_ROUTING": "0"}, in_process_seconds=200e-6)
        decision, ranking = decide(planner, self.SMALL, in_process=True)
        assert [one.backend for one in ranking] == ["cpu.numpy"]
        assert "AUTO_HARDWARE_ROUTING" in reasons(decision.rejected)["in_process.numpy"]

    def test_not_before_the_contract_is_timed(self, make_planner, decide, fleet):
        fleet.backends["cpu.numpy"].pairs[GEMM].model = CostModel()
        decision, _ranking = decide(make_planner(in_process_seconds=200e-6), self.SMALL, in_process=True)
        assert reasons(decision.rejected)["in_process.numpy"] == "not yet timed on cpu.numpy"

    def test_not_what_numpy_cannot_run(self, make_planner, decide, fleet):
        fleet.backends["cpu.numpy"].pairs[GEMM].unsupported = "it lacks this"
        decision, _ranking = decide(make_planner(in_process_seconds=200e-6), self.SMALL, in_process=True)
        assert reasons(decision.rejected)["in_process.numpy"] == "NumPy cannot run this workload"
        del fleet.backends["cpu.numpy"].pairs[GEMM]
        decision, _ranking = decide(make_planner(in_process_seconds=200e-6), self.SMALL, in_process=True)
        assert reasons(decision.rejected)["in_process.numpy"] == "NumPy cannot run this workload"

    def test_what_clients_take_beside_the_kernel_is_learnt(self, make_planner, decide):
        planner = make_planner(in_process_seconds=200e-6)
        before = decide(planner, self.SMALL, in_process=True)[1][0].transfer_seconds
        assert sum(planner.learn_in_process(40e-6) for _ in range(50)) > 0
        planner.forget()
        after = of(decide(planner, self.SMALL, in_process=True)[1], "in_process.numpy").transfer_seconds
        assert before < after == pytest.approx(40e-6, rel=0.11)


class TestKeptGrounds:
    def test_a_ground_stays_the_same_object_until_its_workload_is_forgotten(self, make_planner, ground):
        planner = make_planner()
        first, other = ground(planner), ground(planner, MONTE_CARLO)
        assert ground(planner) is first
        planner.forget(GEMM)
        assert ground(planner) is not first
        assert ground(planner, MONTE_CARLO) is other
        planner.forget()
        assert ground(planner, MONTE_CARLO) is not other

    def test_it_does_not_follow_a_model_before_it_is_forgotten(self, make_planner, ground, fleet):
        planner = make_planner()
        first = ground(planner)
        model = fleet.backends["metal.mlx"].pairs[GEMM].model
        for _ in range(31):
            model.observe(1e6, 1.0)
        assert ground(planner) == first
        planner.forget(GEMM)
        curves = {offer.backend: offer.curve for offer in ground(planner).offers}
        assert curves["metal.mlx"] is model.curve

    def test_what_makes_a_difference_gives_another(self, make_planner, ground, policy_of):
        planner = make_planner(in_process_seconds=200e-6)
        strict = policy_of("constraints: [{id: gpu, allow: [metal_gpu]}]", generation=2)
        grounds = [
            ground(planner),
            ground(planner, tolerance=0.0),
            ground(planner, in_process=True),
            ground(planner, active=strict),
        ]
        assert [sorted(offer.backend for offer in one.offers) for one in grounds] == [
            ["ane.coreml", "cpu.numpy", "metal.mlx"],
            ["cpu.numpy"],
            ["ane.coreml", "cpu.numpy", "in_process.numpy", "metal.mlx"],
            ["metal.mlx"],
        ]

    def test_it_says_who_was_rejected_and_by_which_policy(self, make_planner, ground, policy_of):
        active = policy_of("constraints: [{id: gpu, allow: [metal_gpu]}]", generation=7)
        found = ground(make_planner(), active=active)
        assert set(reasons(found.rejected)) == {"cpu.numpy", "ane.coreml"}
        assert (found.generation, found.policy_digest) == (7, active.policy.digest)
        assert found.contract.backend == "cpu.numpy"  # which may not take it, and still is what gains count from

    def test_a_verdict_that_is_no_more_does_not_lend_its_place_to_another(self, make_planner, ground, policy_of):
        planner = make_planner()
        for generation in range(30):
            target = "cpu" if generation % 2 else "metal_gpu"
            active = policy_of(f"constraints: [{{id: one, allow: [{target}]}}]", generation=3)
            assert [offer.device_kind for offer in ground(planner, active=active).offers] == [target]

    def test_they_stay_bounded(self, make_planner, ground, monkeypatch):
        monkeypatch.setattr("routerd.planner._KEPT_GROUNDS", 10)
        planner = make_planner()
        for number in range(100):
            ground(planner, tolerance=1.0 / (number + 1))
        assert len(planner._grounds) <= 10


class TestWatts:
    ENERGY = "default: {objective: {energy: 1.0}}"

    def test_energy_counts_them(self, make_planner, decide):
        planner = make_planner(power=lambda: (WATTS, "settings"))
        assert decide(planner, 1e8)[0].backend == "metal.mlx"
        decision, _ranking = decide(planner, 1e8, self.ENERGY)
        assert decision.backend == "ane.coreml"  # five times as long as the GPU, at a twentieth of the watts
        assert "watts from settings" in decision.reasoning

    def test_the_callers_own_process_is_one_of_the_devices(self, make_planner, decide):
        watts = {**WATTS, "neural_engine": 900.0, "metal_gpu": 900.0}
        for here, expected in ((60.0, "cpu.numpy"), (59.0, "in_process.numpy")):  # the service is the same in both
            power = {**watts, "in_process": here}
            planner = make_planner(power=lambda power=power: (power, "sensor"), in_process_seconds=200e-6)
            decision, _ranking = decide(planner, 1e4, self.ENERGY, in_process=True)
            assert decision.backend == expected
            assert "watts from sensor" in decision.reasoning

    def test_other_objectives_do_not_read_them(self, make_planner, decide):
        def unread():
            raise AssertionError("nobody asked for watts")

        decide(make_planner(power=unread), 1e8)
        decide(make_planner(power=unread), 1e8, "default: {objective: {throughput: 1.0}}")

    def test_a_reading_that_changes_is_followed(self, make_planner, decide, policy_of):
        watts = dict(WATTS)
        planner, active = make_planner(power=lambda: (watts, "sensor")), policy_of(self.ENERGY)
        assert decide(planner, 1e8, active=active)[0].backend == "ane.coreml"
        watts["neural_engine"] = 500.0
        assert decide(planner, 1e8, active=active)[0].backend == "metal.mlx"


class TestTheWayToAWorker:
    @pytest.fixture
    def gpu(self, fleet):
        return fleet.backends["metal.mlx"].worker.name

    def test_it_is_learnt_and_predictions_follow_when_it_has_moved_much(self, make_planner, decide, gpu):
        planner = make_planner()
        before = of(decide(planner, 1e8)[1], "metal.mlx").transfer_seconds
        moved = [planner.learn_overhead(gpu, 150e-6) for _ in range(60)]
        assert 0 < sum(moved) < 15
        planner.forget()
        ranking = decide(planner, 1e8)[1]
        assert of(ranking, "metal.mlx").transfer_seconds == pytest.approx(150e-6, rel=0.11)
        assert of(ranking, "cpu.numpy").transfer_seconds == before

    def test_small_changes_move_nothing(self, make_planner):
        planner = make_planner()
        assert not any(planner.learn_overhead("w", 63e-6) for _ in range(200))

    def test_one_hiccup_counts_for_little(self, make_planner, decide, gpu):
        planner = make_planner()
        planner.learn_overhead(gpu, 10.0)
        planner.forget()
        assert of(decide(planner, 1e8)[1], "metal.mlx").transfer_seconds < 100e-6

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
    def test_what_cannot_be_is_refused(self, make_planner, seconds):
        planner = make_planner()
        assert not any(planner.learn_overhead("w", seconds) for _ in range(50))

    @pytest.mark.parametrize("seconds", [-1.0, 0.0, math.nan, math.inf])
    def test_a_way_that_no_clock_can_have_meant_is_refused(self, make_planner, gpu, seconds):
        planner = make_planner()
        assert not any(planner.learn_overhead(gpu, seconds) for _ in range(300))


def test_a_queue_is_part_of_the_prediction_and_not_of_the_ground(make_planner, decide, ground, fleet):
    planner = make_planner()
    fleet.backends["metal.mlx"].worker.load(1.0)
    waiting = of(decide(planner, 1e8)[1], "metal.mlx")
    assert waiting.queue_seconds == 1.0
    assert waiting.predicted_seconds == pytest.approx(1.0 + waiting.transfer_seconds + waiting.service_seconds)
    fleet.backends["metal.mlx"].worker.load(0.0)
    assert of(decide(planner, 1e8)[1], "metal.mlx").queue_seconds == 0.0


def test_large_work_prefers_a_gpu_only_while_that_is_not_timed(make_planner, ground, fleet):
    planner = make_planner()
    assert ground(planner, large=True).preference.prefer == ()
    fleet.backends["metal.mlx"].pairs[GEMM].model = CostModel()
    planner.forget()
    assert ground(planner, large=True).preference.prefer == ("metal_gpu", "cuda_gpu")
    assert ground(planner, large=False).preference.prefer == ()
