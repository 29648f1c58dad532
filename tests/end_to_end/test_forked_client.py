"""A connection and ``fork``: the child must not read the parent's replies."""

from __future__ import annotations

import os

import numpy as np
import pytest

from routerd import connect
from routerd.errors import DaemonUnreachable


def _in_a_child(work) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_to_connect_and_the_parent_goes_on(daemon):
    def child() -> int:
        try:
            router.decide("linalg.gemm", m=2, k=2, n=2)
        except DaemonUnreachable as error:
            return 0 if "connect again" in error.message else 1
        return 2

    with connect(daemon.socket) as router:
        assert _in_a_child(child) == 0
        identity = np.eye(100)
        np.testing.assert_array_equal(router.run("linalg.gemm", a=identity, b=identity)["c"], identity)
