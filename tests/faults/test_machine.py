"""A disk that is full, a clock that is stepped, descriptors that run out: the daemon goes on serving."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.faults import clock_shim
from tests.faults.conftest import SECONDS
from tests.faults.ledger import Terms
from tests.faults.machine import Clock, fill_disk, records_again, small_disk, starve_descriptors
from tests.faults.storm import serves, storm

pytestmark = pytest.mark.timeout(SECONDS + 120.0)

#: What may be said to a request that needed a descriptor, in the daemon or for a worker to map its arrays, and to those who
#: wait while a worker cannot be started.
WITHOUT_DESCRIPTORS = frozenset(
    {"limit_exceeded", "out_of_memory", "unavailable", "no_candidate", "overloaded", "worker_crashed"}
)
#: Few enough for the small disk: what fills it is to be the fault, not a long storm's own decisions.
DECISIONS_KEPT = 1000


def test_disk_full(make_daemon, knowledge, tmp_path, seed, seconds):
    daemon = make_daemon(decisions_kept=DECISIONS_KEPT)
    with small_disk(daemon.state, mebibytes=8):
        shutil.copytree(knowledge, daemon.state, dirs_exist_ok=True)
        daemon.start().wait_ready("cpu.numpy", "fickle.one", "steady.one")
        try:
            storm(daemon, tmp_path, [fill_disk], seed=seed, seconds=seconds, gap_seconds=(0.5, 1.5)).check()
            serves(daemon)
            records_again(daemon)
            assert daemon.stop() == 0
        finally:
            daemon.stop()


def test_clock_stepped(ready_daemon, tmp_path_factory, tmp_path, seed, seconds):
    shim = tmp_path_factory.mktemp("clock")
    shutil.copyfile(clock_shim.__file__, shim / "sitecustomize.py")
    clock = Clock(shim / "offset")
    started = time.monotonic()
    daemon = ready_daemon(environment={"FAULT_CLOCK": str(clock.path), "PYTHONPATH": str(shim)})
    report = storm(daemon, tmp_path, [clock.step], seed=seed, seconds=seconds)
    report.check()
    assert report.faults
    for sample in report.watch.samples:
        assert 0.0 <= sample.uptime_seconds <= sample.at - started + 0.5, f"after {report.faults} status has {sample}"
    serves(daemon)


def test_descriptors_exhausted(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon()
    terms = Terms(may=WITHOUT_DESCRIPTORS)
    storm(daemon, tmp_path, [starve_descriptors], seed=seed, seconds=seconds, terms=terms).check()
    serves(daemon)
