"""The contract over both backends of the ``cuda`` plugin and every workload; skipped, with the reason, where no card is."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.backends import create_backend
from routerd.errors import Unavailable
from routerd.interfaces import Backend, BackendSpec, Workload
from routerd.settings import Settings
from routerd.testing import BackendContract
from routerd.testing.examples import default_works, sample
from routerd.workloads import builtin_workloads
from routerd_cuda import routerd_backends

SPECS = {spec.name: spec for spec in routerd_backends(Settings())}


class TestCudaBackends(BackendContract):
    @pytest.fixture(params=SPECS)
    def spec(self, request: pytest.FixtureRequest) -> BackendSpec:
        return SPECS[request.param]

    def test_the_same_task_gives_the_same_bits(self, spec: BackendSpec) -> None:
        """Nothing depends on the order in which threads finish: not sums over groups, nor running sums, nor products."""
        try:
            backend = create_backend(spec)
            backend.probe()
        except Unavailable as reason:
            pytest.skip(f"{spec.name} is unavailable: {reason.message}")
        for workload in builtin_workloads():
            if not _supports(backend, workload):
                continue
            given = sample(workload, default_works(workload)[-1])
            first, *others = (backend.execute(workload, given.task.params, given.inputs, {}).outputs for _ in range(5))
            for other in others:
                for name, output in first.items():
                    assert np.array_equal(other[name], output, equal_nan=output.dtype.kind == "f"), workload.name
        backend.close()


def _supports(backend: Backend, workload: Workload) -> bool:
    try:
        return backend.supports(workload)
    except Unavailable:
        return False
