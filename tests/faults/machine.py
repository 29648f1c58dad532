"""Faults of the machine under a daemon: its disk, its clock, its descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from routerd.errors import RouterdError
from tests.faults.injectors import kill_worker
from tests.faults.watch import Fault
from tests.processes import DaemonProcess

if TYPE_CHECKING:
    from tests.faults.storm import World

_BLOCK = bytes(1 << 16)
_NOTICED_SECONDS = 3.0
_DAY_SECONDS = 86_400.0


@contextlib.contextmanager
def small_disk(directory: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of that size, mounted on ``directory``. Skips the test where mounting one is not permitted."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system to fill cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill_disk(world: World) -> Fault | None:
    """Leave not a byte in the state directory until the daemon has noticed, then a little longer, then free it again."""
    begin = time.monotonic()
    errors, recorded = _writes(world)
    ballast = world.daemon.state / "ballast"
    try:
        ballast.touch()
        _grow(ballast, _BLOCK)
        while _writes(world)[0] == errors:
            if time.monotonic() > begin + _NOTICED_SECONDS:
                if _writes(world)[1] == recorded:  # else the files had room of their own
                    world.problems.append(f"for {_NOTICED_SECONDS:g} s nothing was recorded, and no error was counted")
                break
            _grow(ballast, _BLOCK[:4096])  # what the daemon itself has freed meanwhile
            time.sleep(0.02)
        time.sleep(world.rng.uniform(0.0, 0.3))
    finally:
        ballast.unlink()
    return Fault("disk full", begin, time.monotonic())


def _grow(ballast: Path, block: bytes) -> None:
    """Append blocks until there is no room for another."""
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(block)


def _writes(world: World) -> tuple[int, int]:
    """How often the daemon could not write to its database, and how many decisions it has written."""
    with world.daemon.connect(name="load-looking", table=False) as router:
        decisions = router.call("status")["decisions"]
        return decisions["write_errors"], decisions["recorded"]


class Clock:
    """The offset that the shim of a daemon and its workers adds to the wall clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0.0
        path.write_bytes(struct.pack("<d", 0.0))

    def step(self, world: World) -> Fault:
        """Step the wall clock by a second to a year, either way."""
        begin = time.monotonic()
        seconds = world.rng.choice([-1.0, 1.0]) * 10.0 ** world.rng.uniform(0.0, 7.5)
        self.offset = max(self.offset + seconds, -20_000 * _DAY_SECONDS)
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, struct.pack("<d", self.offset), 0)
        finally:
            os.close(descriptor)
        return Fault("clock step", begin, time.monotonic(), detail=f"{seconds:+.0f} s")


def starve_descriptors(world: World) -> Fault | None:
    """Leave the daemon no descriptor, or hardly one, for a moment; sometimes a worker ends at that very moment."""
    begin, pid = time.monotonic(), world.daemon.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    in_use = world.daemon.segments(pid).all_descriptors
    left = world.rng.randint(0, 3)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(in_use + left, hard), hard))
    try:
        if world.rng.random() < 0.3:
            killed = kill_worker(world)
            if killed is not None:
                world.faults.append(killed)
        time.sleep(world.rng.uniform(0.05, 0.4))
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    return Fault("no descriptors", begin, time.monotonic(), detail=f"{left} left")


def records_again(daemon: DaemonProcess, seconds: float = 10.0) -> None:
    """Wait until decisions that are made now can be read from the database. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    with daemon.connect(name="load-after", table=False) as router:
        decision = router.decide("linalg.gemm", m=7, k=7, n=7)
        while True:
            with contextlib.suppress(RouterdError):
                assert router.call("decisions.get", {"decision_id": decision.decision_id})["workload"] == "linalg.gemm"
                return
            assert time.monotonic() < deadline, "decisions are not recorded again"
            time.sleep(0.05)
