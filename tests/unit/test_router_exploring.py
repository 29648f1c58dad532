"""Tasks that the router tries elsewhere: within the budget, never against a rule, a constraint or a queue."""

from __future__ import annotations

import asyncio

import pytest

from routerd.errors import WorkerCrashed
from routerd.protocol import Ask

MONTE_CARLO = Ask(
    "options.monte_carlo_european",
    {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 10_000_000},
)


def run(router, session, ask=MONTE_CARLO):
    return asyncio.run(router.run(ask, session))


class TestExploring:
    BUDGET = "exploration: {budget: 20%}\n"

    def as_predicted(self, fleet):
        """Every backend takes what is predicted of it."""
        for backend in fleet.backends.values():
            backend.worker.outcome = backend.pairs[MONTE_CARLO.workload].model.predict(1e7).seconds

    def ran_on(self, router, session, count, ask=MONTE_CARLO):
        return [run(router, session, ask).result.ran_on.backend for _ in range(count)]

    def test_a_share_of_tasks_goes_elsewhere_and_says_so(self, make_router, session, fleet):
        router = make_router(self.BUDGET)
        self.as_predicted(fleet)
        results = [run(router, session).result for _ in range(200)]
        tried = [one for one in results if one.ran_on.backend != "metal.mlx"]
        assert 0 < len(tried) == router.explorer.explored < 40
        assert {one.fallback_reason for one in tried} == {None}
        assert all("(exploration)" in one.decision.reasoning for one in tried)

    @pytest.mark.parametrize(
        "body", ["exploration: {budget: 0}", BUDGET + "rules: [{id: literal, prefer: [metal_gpu]}]"]
    )
    def test_never_without_a_budget_nor_against_a_literal_preference(self, make_router, session, body):
        assert set(self.ran_on(make_router(body), session, 100)) == {"metal.mlx"}

    def test_never_against_a_constraint(self, make_router, session):
        router = make_router(self.BUDGET + "constraints: [{id: no, deny: [neural_engine]}]")
        assert "ane.coreml" not in self.ran_on(router, session, 150)

    def test_what_is_faster_was_passed_over_with_reason_and_is_not_tried(self, make_router, session, fleet):
        """By energy the neural engine is best here; the GPU is faster and costs forty times as much."""
        router = make_router(self.BUDGET + "default: {objective: {energy: 1.0}}")
        watts = {"cpu": 60.0, "metal_gpu": 400.0, "neural_engine": 2.0}
        router.planner._power = lambda: (watts, "settings")
        self.as_predicted(fleet)
        ran = self.ran_on(router, session, 200)
        assert "metal.mlx" not in ran
        assert 0 < ran.count("cpu.numpy") == router.explorer.explored < 40

    def test_a_wait_in_a_queue_is_no_surprise(self, make_router, session, fleet):
        router = make_router(self.BUDGET)
        self.as_predicted(fleet)
        fleet.backends["ane.coreml"].worker.load(2e-3)
        assert 0 < self.ran_on(router, session, 200).count("ane.coreml") < 15

    def test_a_fallback_is_none(self, make_router, session, fleet):
        router = make_router(self.BUDGET)
        fleet.backends["metal.mlx"].worker.outcome = WorkerCrashed("dead")
        assert set(self.ran_on(router, session, 10)) == {"ane.coreml"}
        assert router.explorer.explored == 0

    def test_decisions_alone_are_never_tried_elsewhere(self, make_router, session, fleet):
        router = make_router(self.BUDGET)
        self.as_predicted(fleet)
        self.ran_on(router, session, 100)
        assert {router.plan(MONTE_CARLO, session).decision.backend for _ in range(100)} == {"metal.mlx"}
