"""Shaders that add to their outputs atomically, through both frameworks' launchers: MLX's signature, torch's tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from routerd.interfaces import Workload
from routerd.testing.examples import contract_outputs, sample
from routerd.testing.metal import compile_shader, metal_kernel
from routerd.workloads.content import relative_error
from routerd.workloads.risk.historical import VAR_HISTORICAL
from routerd.workloads.websocket import CONFLATE_FANOUT
from routerd_metal.fused import FUSED
from routerd_metal.launching import MlxLauncher, TorchLauncher


@pytest.fixture(params=["mlx", "torch"])
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher whose framework's shaders run on the processor."""
    if request.param == "torch":
        torch = pytest.importorskip("torch")
        monkeypatch.setattr("torch.mps.compile_shader", compile_shader)
        return TorchLauncher(torch, device="cpu")
    fast = SimpleNamespace(metal_kernel=metal_kernel)
    return MlxLauncher(
        SimpleNamespace(fast=fast, array=np.array, eval=lambda arrays: None, float32=np.float32, uint32=np.uint32)
    )


@pytest.mark.parametrize("workload", [VAR_HISTORICAL, CONFLATE_FANOUT], ids=lambda workload: workload.name)
def test_every_framework_begins_at_zero_and_gives_the_contracts_result(launcher: Any, workload: Workload) -> None:
    task = sample(workload, workload.work_range[0])
    for _ in range(2):  # a kernel that is kept begins at zero again
        outputs = FUSED[workload.name].run(launcher, task.task.params, task.inputs)
        assert relative_error(workload, outputs, contract_outputs(workload, task)) < 1e-7
