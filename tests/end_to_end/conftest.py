"""A real daemon on a private socket, for tests that talk to one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from routerd import connect
from routerd.client import Router
from routerd.errors import DaemonUnreachable

START_SECONDS = 30.0


class DaemonProcess:
    """A daemon with a directory of its own. Socket paths are short: a pytest path can pass the limit of 103 bytes."""

    def __init__(self, **settings: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rd-"))
        self.socket = self.directory / "s" / "routerd.sock"
        self.state = self.directory / "state"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTERD_")}
        self.env |= {"ROUTERD_SOCKET": str(self.socket), "ROUTERD_STATE_DIR": str(self.state)}
        self.env |= {f"ROUTERD_{name.upper()}": str(value) for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.directory / "log"

    def start(self) -> DaemonProcess:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "routerd"], env=self.env, stderr=log, stdout=log)
        return self

    def connect(self, **arguments: object) -> Router:
        """Connect, but fail at once, with the daemon's own words, if it ended instead of serving."""
        try:
            return connect(self.socket, timeout=START_SECONDS, **arguments)
        except DaemonUnreachable:
            pytest.fail(f"the daemon does not serve: {self.log.read_text()}")

    def wait_ready(self, *backends: str) -> None:
        """Until these backends are ready (or known to be unavailable), by the daemon's own blocking calibration call."""
        deadline = START_SECONDS
        with self.connect() as router:
            wait_until(
                lambda: all(router.call("status")["backends"][name] != "starting" for name in backends), deadline
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until ``condition`` holds; fail after ``seconds``."""
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def daemon() -> Iterator[DaemonProcess]:
    """One daemon for all tests that only ask and run. Every workload is proved and timed before the first of them."""
    process = DaemonProcess(calibration_run_seconds=0.05).start()
    try:
        with process.connect(name="setup") as router:
            router.call("calibrate")
        yield process
        assert process.stop() == 0, process.log.read_text()
    finally:
        process.remove()


@pytest.fixture
def router(daemon: DaemonProcess) -> Iterator[Router]:
    with daemon.connect(name="test") as connection:
        yield connection


@pytest.fixture
def private_daemon() -> Iterator[Callable[..., DaemonProcess]]:
    """Daemons that a test may configure, break and kill; not started."""
    made: list[DaemonProcess] = []

    def make(**settings: object) -> DaemonProcess:
        made.append(DaemonProcess(**{"calibrate_when_idle": "false", **settings}))
        return made[-1]

    yield make
    for process in made:
        process.remove()
