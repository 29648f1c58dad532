"""A device with little memory: what is too large runs there in pieces, or elsewhere, and never fails for it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.processes import install_plugin

PLUGIN = '''
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec
from routerd.testing import NullBackend
from routerd.types import Device

ROOM = 20_000_000

class Small(NullBackend):
    """A card of so many bytes: what weighs more ends as on a real one."""

    def probe(self):
        return Device(kind="cuda_gpu", name="small card", memory_bytes=ROOM)

    def execute(self, workload, params, inputs, into):
        held = sum(array.nbytes for array in inputs.values())
        execution = super().execute(workload, params, inputs, into)
        held += sum(array.nbytes for array in execution.outputs.values())
        if held > ROOM:
            raise MemoryError(f"{held} bytes on a card of {ROOM}")
        return execution._replace(device_bytes=held)

@hookimpl
def routerd_backends(settings):
    return [BackendSpec(name="small.card", device_kind="cuda_gpu", precision="float64", factory="small_backends:Small",
                        group="small", options={"device_kind": "cuda_gpu"})]
'''
POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: card}
rules: [{id: card, prefer: [cuda_gpu, cpu]}]
exploration: {budget: 0%}
"""
PERFORMANCE, GEMM, GREEKS = "analytics.performance", "linalg.gemm", "risk.greeks_batch"


@pytest.fixture(scope="module")
def card(module_daemon, tmp_path_factory):
    directory = tmp_path_factory.mktemp("card")
    install_plugin(directory, "small", PLUGIN)
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    process = module_daemon(
        environment={"PYTHONPATH": str(directory)}, policy_paths=policy, calibration_run_seconds=0.01
    ).start()
    with process.connect(name="setup") as router:
        router.call("calibrate", {"workloads": [GEMM, "portfolio.markowitz"]})
    yield process
    assert process.stop() == 0


@pytest.fixture
def router(card):
    with card.connect(name="engine", table=False) as connected:
        yield connected


def test_what_fits_runs_as_a_whole(router):
    a = np.ones((200, 100))
    result = router.run(GEMM, a=a, b=np.ones((100, 10)))
    assert result.ran_on.backend == "small.card"
    assert "pieces" not in result.decision.reasoning


def test_what_does_not_fit_runs_in_pieces(router):
    a = np.arange(4_000_000, dtype=float).reshape(40_000, 100) % 7.0  # 32 MB
    b = np.eye(100)[:, :20]
    result = router.run(GEMM, a=a, b=b)
    assert result.ran_on.backend == "small.card"
    assert result.fallback_reason is None
    assert "pieces" in result.decision.reasoning
    assert np.array_equal(result["c"], a[:, :20])


def test_what_does_not_split_goes_where_there_is_room(router):
    assets = 1_700
    decision = router.decide("portfolio.markowitz", N=assets)
    assert decision.backend == "cpu.numpy"
    reasons = {one.backend: one.reason for one in decision.rejected}
    assert "portfolio.markowitz does not split" in reasons["small.card"]


def test_a_client_with_a_table_gets_the_same_answers(card):
    with card.connect(name="engine", table=True) as router:
        large = router.decide(GEMM, m=40_000, k=100, n=20)
        assert "pieces" in large.reasoning
        assert "pieces" not in router.decide(GEMM, m=200, k=100, n=10).reasoning
