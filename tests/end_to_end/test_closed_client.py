"""A router that was closed keeps no memory, and says so when it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from routerd import connect
from routerd.errors import DaemonUnreachable


def _mapped_segments() -> int:
    """Shared-memory mappings of this process."""
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings as Linux shows them")
def test_nothing_stays_mapped_but_what_somebody_holds(daemon):
    before = _mapped_segments()
    factor = np.ones((200, 200))
    with connect(daemon.socket) as router:
        decide = router.decider("linalg.gemm")
        decide(1e6)
        held = router.run("linalg.gemm", a=factor, b=factor, tolerance=0.0)["c"]
        router.run("linalg.gemm", a=factor, b=factor, tolerance=0.0)
        assert _mapped_segments() > before + 1
    assert _mapped_segments() <= before + 1
    np.testing.assert_array_equal(held, factor @ factor)
    with pytest.raises(DaemonUnreachable, match="connect again"):
        decide(1e6)
    for array in (np.ones((2, 2)), factor):
        with pytest.raises(DaemonUnreachable, match="connect again"):
            router.run("linalg.gemm", a=array, b=array)
