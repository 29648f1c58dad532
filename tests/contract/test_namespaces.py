"""The contract over the namespaces that no backend of this machine uses yet, on every workload of the catalogue."""

from __future__ import annotations

import pytest

from routerd.errors import Unavailable
from routerd.interfaces import Execution, HostArrays, Params, Workload
from routerd.namespaces.execution import execute_kernel, refusal
from routerd.testing import check_backend
from routerd.types import Device
from routerd.workloads import builtin_workloads

pytest.importorskip("mlx.core", reason="MLX is not installed")


class MlxOnTheProcessor:
    """MLX on the CPU as a backend: what the GPU's will be, where there is none."""

    def __init__(self) -> None:
        from routerd.namespaces.mlx import MlxNamespace

        self._namespace = MlxNamespace("cpu")

    def probe(self) -> Device:
        return Device(kind="cpu", name="processor")

    def supports(self, workload: Workload) -> bool:
        reason = refusal(workload, self._namespace)
        if reason is not None:
            raise Unavailable(reason)
        return True

    def prepare(self, workload: Workload) -> None:
        """MLX compiles nothing for eager kernels."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        return execute_kernel(self._namespace, workload, params, inputs, into)

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("workload", builtin_workloads(), ids=lambda one: one.name)
def test_mlx_keeps_the_contract_or_says_what_it_lacks(workload: Workload) -> None:
    report = check_backend(MlxOnTheProcessor(), [workload])
    report.raise_for_problems()
    assert report.findings
