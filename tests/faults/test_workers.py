"""Workers that are killed, crash, hang or take too much memory while many ask: all work is finished, and the worker replaced."""

from __future__ import annotations

import psutil
import pytest

from tests.faults.conftest import SECONDS
from tests.faults.injectors import kill_worker, segfault_worker, stop_worker
from tests.faults.storm import USUAL, Style, serves, storm

pytestmark = pytest.mark.timeout(SECONDS + 120.0)

HANG_SECONDS = 1.0  #: what the daemons of these tests take for a hang
NOTICED_SECONDS = HANG_SECONDS + 2.5
MEMORY_BYTES = 400 << 20


def test_crash(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon()
    injectors = [kill_worker, segfault_worker]
    storm(daemon, tmp_path, injectors, seed=seed, seconds=seconds, gap_seconds=(0.2, 0.8)).check()
    serves(daemon)


def test_hang(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon(worker_silence_seconds=HANG_SECONDS, hang_floor_seconds=HANG_SECONDS)
    styles = [Style("sync", pinned=True, orders=("never", "stop")), *USUAL[1:]]

    def stop(world):
        return stop_worker(world, window_seconds=NOTICED_SECONDS)

    storm(
        daemon,
        tmp_path,
        [stop],
        seed=seed,
        seconds=seconds,
        styles=styles,
        gap_seconds=(0.5, 2.0),
        order_window_seconds=NOTICED_SECONDS,
    ).check()
    serves(daemon)


def test_memory_bomb(ready_daemon, tmp_path, seed, seconds):
    daemon = ready_daemon(worker_memory_bytes=MEMORY_BYTES)
    largest = []

    def look(world):
        for worker in world.daemon.workers():
            try:
                memory = worker.memory_info()
            except psutil.NoSuchProcess:
                continue
            largest.append(memory.rss - memory.shared)

    styles = [Style("sync", pinned=True, orders=("bomb",)), *USUAL[1:]]
    storm(daemon, tmp_path, [look], seed=seed, seconds=seconds, styles=styles, gap_seconds=(0.01, 0.05)).check()
    assert max(largest) < 1.5 * MEMORY_BYTES, f"a worker took {max(largest) >> 20} MiB of {MEMORY_BYTES >> 20}"
    serves(daemon)
