"""Inputs that float32 cannot hold: the task is finished where they are held, and the reply says so."""

from __future__ import annotations

import numpy as np
import pytest

from routerd import errors

POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: torch-first}
rules:
  - id: torch-first
    when: {workload.family: collateral}
    prefer: [cpu.torch]
"""
HAIRCUT = "collateral.haircut"


def positions(magnitude: float) -> dict[str, object]:
    count = 100
    return {
        "quantity": np.full(count, magnitude),
        "price": np.full(count, magnitude),
        "haircut": np.full(count, 0.1),
        "fx": np.ones(count),
        "account": np.arange(count) % 4,
        "num_accounts": 4,
    }


def test_a_task_beyond_float32_is_finished_in_float64(private_daemon, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    process = private_daemon(torch=True, policy_paths=policy).start()
    with process.connect(name="collateral") as router:
        router.call("calibrate", {"workloads": [HAIRCUT]})
        usual = router.run(HAIRCUT, **positions(10.0))
        assert usual.ran_on.backend == "cpu.torch"
        result = router.run(HAIRCUT, **positions(1e25))
        assert result.planned.backend == "cpu.torch"
        assert result.ran_on.backend == "cpu.numpy"
        assert "cpu.torch cannot compute collateral.haircut for these inputs in its precision" in result.fallback_reason
        assert result["collateral_value"] == pytest.approx(np.full(4, 25 * 0.9e50))
        with pytest.raises(errors.ExecutionError, match=r"cpu\.numpy cannot compute .* is inf; scale them"):
            router.run(HAIRCUT, **positions(1e200))
