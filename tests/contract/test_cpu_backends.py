"""The contract over every backend of the ``cpu`` plugin and every workload of the catalogue."""

from __future__ import annotations

import pytest

from routerd.interfaces import BackendSpec
from routerd.settings import Settings
from routerd.testing import BackendContract
from routerd_cpu import routerd_backends

SPECS = {spec.name: spec for spec in routerd_backends(Settings())}


class TestCpuBackends(BackendContract):
    @pytest.fixture(params=SPECS)
    def spec(self, request: pytest.FixtureRequest) -> BackendSpec:
        return SPECS[request.param]
