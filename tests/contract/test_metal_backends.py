"""The contract over the backends of the ``metal`` plugin, on every workload of the catalogue that they can express."""

from __future__ import annotations

import pytest

from routerd.interfaces import BackendSpec
from routerd.settings import Settings
from routerd.testing import BackendContract
from routerd_metal import routerd_backends

SPECS = {spec.name: spec for spec in routerd_backends(Settings())}


class TestMetalBackends(BackendContract):
    """Those that this machine lacks are skipped with their reason; on Linux that leaves ``cpu.mlx``."""

    @pytest.fixture(params=SPECS)
    def spec(self, request: pytest.FixtureRequest) -> BackendSpec:
        return SPECS[request.param]
