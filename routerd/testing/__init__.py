"""The public kit for plugin authors: prove a backend or a workload against the contract, before routerd does.

::

    from routerd.testing import BackendContract, check_backend, check_workload

    print(check_backend(spec))                   # a table of what was checked, and what is wrong


    class TestMyBackend(BackendContract):        # the same as pytest tests
        @pytest.fixture
        def spec(self):
            return BackendSpec(name="my.backend", ...)

Nothing is imported with this module but routerd: neither pytest nor a numeric library.
"""

from __future__ import annotations

from routerd.testing.backends import BackendContract, check_backend
from routerd.testing.null import NullBackend, null_backend_spec
from routerd.testing.report import Finding, Report
from routerd.testing.workloads import check_workload

__all__ = [
    "BackendContract",
    "Finding",
    "NullBackend",
    "Report",
    "check_backend",
    "check_workload",
    "null_backend_spec",
]
