"""What every benchmark shares: a private daemon, a quiet machine, interleaved blocks, and a report with its machine."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil

from routerd.client import Router, connect

SECOND, MILLISECOND, MICROSECOND = 1.0, 1e3, 1e6

_PACKAGES = ("routerd", "numpy", "msgspec", "uvloop", "torch")
_START_SECONDS = 60.0
_QUIET_PERCENT = 10.0
_IDLE_SPINNER = """
import os
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
else:
    os.nice(19)
while os.getppid() == {parent}:
    for _ in range(10**6):
        pass
"""

#: Runs a subject this often and returns the seconds of each time.
Subject = Callable[[int], list[float]]

_Argument = TypeVar("_Argument")


class PrivateDaemon:
    """A daemon with a socket and a state directory of its own, which it keeps between starts and loses at the end.

    Keyword arguments are settings by name. Calibration happens on demand only, so that nothing else runs meanwhile.
    """

    def __init__(self, **settings: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rb-"))  # short: a socket path may have 103 bytes
        self.socket = self.directory / "s" / "routerd.sock"
        self.log = self.directory / "log"
        given = {
            "socket": self.socket,
            "state_dir": self.directory / "state",
            "calibrate_when_idle": "false",
            "calibration_run_seconds": 0.05,
            **settings,
        }
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTERD_")}
        self._env |= {f"ROUTERD_{name.upper()}": str(value) for name, value in given.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateDaemon:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def process(self) -> psutil.Process:
        """The running daemon."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def set(self, name: str, value: object) -> None:
        """Give a setting that is known only now; it holds from the next start on."""
        self._env[f"ROUTERD_{name.upper()}"] = str(value)

    def start(self) -> float:
        """Start the process; returns the ``perf_counter`` of that moment."""
        with self.log.open("ab") as log:
            started = time.perf_counter()
            self._process = subprocess.Popen([sys.executable, "-m", "routerd"], env=self._env, stdout=log, stderr=log)
        return started

    def connect(self, name: str = "benchmark", **options: Any) -> Router:
        """A client; waits for the daemon and fails with the daemon's own words if it ended. ``options`` as of ``connect``."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.socket.exists():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the daemon does not serve:\n{self.log.read_text()}")
            time.sleep(0.001)
        return connect(self.socket, name=name, timeout=_START_SECONDS, **options)

    def calibrate(self, *workloads: str) -> None:
        """Prove and time these workloads on every backend; afterwards the daemon and its workers are idle."""
        with self.connect() as router:
            router.call("calibrate", {"workloads": workloads})

    def stop(self) -> None:
        """Ask it to end and wait for that."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=30)
        self._process = None

    def kill(self) -> None:
        """End it at once; its workers notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Options:
    """The command line that all benchmarks share. ``add`` may add a benchmark's own arguments, which are then in ``own``."""

    def __init__(
        self,
        description: str,
        arguments: Sequence[str] | None = None,
        add: Callable[[argparse.ArgumentParser], None] = lambda _parser: None,
    ) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--quick", action="store_true", help="few repetitions: checks that it works, not how fast")
        parser.add_argument(
            "--awake", action="store_true", help="keep every core awake with an idle-priority loop while measuring"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
        parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
        parser.add_argument(
            "--update", type=Path, metavar="FILE", help="replace the benchmark's table in this Markdown file"
        )
        add(parser)
        given = self.own = parser.parse_args(arguments)
        self.quick: bool = given.quick
        self.awake: bool = given.awake
        self.json: Path | None = given.json
        self.markdown: bool = given.markdown
        self.update: Path | None = given.update


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which ``share`` of them lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def over_blocks(blocks: Sequence[Sequence[float]], share: float) -> float:
    """The median over blocks of each block's percentile: a block that something disturbed does not count."""
    return median(percentile(block, share) for block in blocks)


def interleave(subjects: Mapping[str, Subject], *, blocks: int, calls: int) -> dict[str, list[list[float]]]:
    """Blocks of ``calls`` for each subject in turn, forwards and backwards, so that the machine's drift meets all alike.

    The first block of each only warms up.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(blocks + 1):
        for name in names if number % 2 else reversed(names):
            samples = subjects[name](calls)
            if number > 0:
                found[name].append(samples)
    return found


def timed(call: Callable[[], object]) -> Subject:
    """A subject that is the wall time of ``call``."""

    def measure(count: int) -> list[float]:
        clock, samples = time.perf_counter, []
        for _ in range(count):
            started = clock()
            call()
            samples.append(clock() - started)
        return samples

    return measure


def timed_each(call: Callable[[_Argument], object], arguments: Iterator[_Argument]) -> Subject:
    """A subject that is the wall time of ``call`` with the next of ``arguments``; taking that is not timed."""

    def measure(count: int) -> list[float]:
        clock, samples = time.perf_counter, []
        for argument in islice(arguments, count):
            started = clock()
            call(argument)
            samples.append(clock() - started)
        return samples

    return measure


def timed_batches(call: Callable[[_Argument], object], arguments: Sequence[_Argument]) -> Subject:
    """A subject that is one call's share of the wall time of calling with all ``arguments`` in turn.

    For calls that take about as long as reading the clock. The loop's own cost is part of the time.
    """

    def measure(count: int) -> list[float]:
        clock, samples = time.perf_counter, []
        for _ in range(count):
            started = clock()
            for argument in arguments:
                call(argument)
            samples.append((clock() - started) / len(arguments))
        return samples

    return measure


def wait_until_quiet(seconds: float) -> float:
    """Wait until the machine does next to nothing, ``seconds`` at most; returns the per cent in use at the end."""
    deadline = time.monotonic() + seconds
    busy = float(psutil.cpu_percent(interval=0.2))
    while busy > _QUIET_PERCENT and time.monotonic() < deadline:
        busy = float(psutil.cpu_percent(interval=0.2))
    return busy


@contextlib.contextmanager
def quiet_machine(options: Options) -> Iterator[dict[str, str]]:
    """The conditions of a measurement, described. With ``--awake`` every core spins at idle priority meanwhile.

    A virtual machine's core that halts gives its time, and its caches, to somebody else; waking it costs more than most
    of what is measured here. Spinning at idle priority takes time from nobody who wants it and shows the code alone.
    """
    busy = wait_until_quiet(0.0 if options.quick else 20.0)
    conditions = {
        "in use before": f"{busy:.0f} % of all cores",
        "cores": "kept awake" if options.awake else "may sleep",
    }
    spinners = [
        subprocess.Popen([sys.executable, "-c", _IDLE_SPINNER.format(parent=os.getpid())])
        for _ in range((os.cpu_count() or 1) if options.awake else 0)
    ]
    try:
        yield conditions
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def machine() -> dict[str, str]:
    """What the figures depend on: processor, system, versions, date."""
    versions = []
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return {
        "processor": f"{_processor_name()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "software": ", ".join([f"Python {platform.python_version()}", *versions]),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor_name() -> str:
    if sys.platform == "darwin":
        shown = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
        )
        return shown.stdout.strip()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
