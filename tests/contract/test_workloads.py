"""The contract over every workload of the catalogue."""

from __future__ import annotations

import pytest

from routerd.interfaces import Workload
from routerd.testing import check_workload
from routerd.workloads import builtin_workloads


@pytest.mark.parametrize("workload", builtin_workloads(), ids=lambda workload: workload.name)
def test_a_workload_keeps_its_contract(workload: Workload) -> None:
    check_workload(workload).raise_for_problems()
