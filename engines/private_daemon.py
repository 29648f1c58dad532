"""A routerd daemon of one's own: private socket, private state, and gone when the work is done."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from routerd import connect
from routerd.errors import DaemonUnreachable
from routerd.paths import MAX_SOCKET_PATH_BYTES, SOCKET_NAME
from routerd.resources import shipped

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05


class DaemonTrouble(Exception):
    """The private daemon did not start or did not stop as it should."""


class PrivateDaemon:
    """A daemon under ``directory``, which holds its state, its log, and a copy of the shipped policies to play with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "daemon.log"
        self.policies = directory / "policies"
        self.socket = _socket_path(directory)
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started and answering inside the block; stopped after it, however the block ends.

        Raises ``DaemonTrouble`` if the daemon does not start, ends with an error, or leaves a process behind.
        """
        try:
            self.start()
            self._wait_until_it_answers()
            yield
        except BaseException:
            if self._process is not None:
                self._end()  # what went wrong inside matters more than how the daemon ends
            raise
        code, left = self._end()
        if code != 0:
            raise DaemonTrouble(f"the daemon ended with exit code {code}; its log is {self.log}")
        if left:
            raise DaemonTrouble(f"the daemon left processes behind: {', '.join(map(str, left))}")

    def start(self) -> None:
        """Start the process. A daemon that an interrupted run left on this socket is stopped first."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stop_stale()
        shutil.rmtree(self.policies, ignore_errors=True)
        self.policies.mkdir()
        for file in sorted(shipped("policies").glob("*.yaml")):
            shutil.copy(file, self.policies)
        env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTERD_")}
        env |= {
            "ROUTERD_SOCKET": str(self.socket),
            "ROUTERD_STATE_DIR": str(self.state),
            "ROUTERD_POLICY_PATHS": str(self.policies),
            "ROUTERD_CALIBRATE_WHEN_IDLE": "false",  # nothing computes beside what is being measured
            "ROUTERD_CALIBRATION_RUN_SECONDS": "0.12",  # no task here is longer, and it is the longest that take long to measure
        }
        with self.log.open("wb") as log:
            # In a session of its own Ctrl-C does not reach it: it is stopped once, in order, by whoever started it.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "routerd"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                connect(self.socket, timeout=_POLL_SECONDS).close()
                return
            except DaemonUnreachable as error:
                code = self._process.poll()
                if code is not None:
                    raise DaemonTrouble(f"the daemon ended with exit code {code}: {self._last_words()}") from error
                if time.monotonic() > deadline:
                    raise DaemonTrouble(f"no answer from the daemon in {_START_SECONDS:g} s; see {self.log}") from error

    def _end(self) -> tuple[int, list[int]]:
        """Stop the daemon; returns its exit code, and the ids of processes of its that are still there."""
        assert self._process is not None
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        try:
            self._process.terminate()
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DaemonTrouble(f"the daemon did not stop in {_STOP_SECONDS:g} s; see {self.log}") from error
        finally:
            if self._process.poll() is None:  # too slow, or a second Ctrl-C
                self._process.kill()
                self._process.wait()
        _gone, left = psutil.wait_procs(children, timeout=5.0)
        if self.socket.parent != self.directory:
            shutil.rmtree(self.socket.parent, ignore_errors=True)
        return code, [process.pid for process in left]

    def _stop_stale(self) -> None:
        """End the daemon that holds this socket's lock. Nobody else uses it, so whoever does is a leftover."""
        lock = self.socket.with_name(self.socket.name + ".lock")
        deadline = time.monotonic() + _STOP_SECONDS
        asked: int | None = None
        while (holder := _holder(lock)) is not None:
            if time.monotonic() > deadline:
                raise DaemonTrouble(f"process {holder} holds {lock} and does not end; end it and start again")
            if holder != asked and _is_routerd(holder):
                os.kill(holder, signal.SIGTERM)
                asked = holder
            time.sleep(_POLL_SECONDS)

    def _last_words(self) -> str:
        """Why the daemon ended, as far as its log says: its own refusal, else the last line."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        refusals = [line for line in lines if line.startswith("routerd: ")]
        return (refusals or lines or ["it said nothing"])[-1]


def _socket_path(directory: Path) -> Path:
    """Inside ``directory``, or, where that is too long for a socket, in a short directory that belongs to it alone."""
    path = directory / "socket" / SOCKET_NAME
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path("/tmp") / f"routerd-{os.getuid()}-{digest}" / SOCKET_NAME


def _holder(lock: Path) -> int | None:
    """The process that holds the lock file: ``None`` if nobody does, 0 while it has not yet written its id."""
    try:
        with lock.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                written = file.read().strip()
                return int(written) if written.isdecimal() else 0
    except FileNotFoundError:
        pass
    return None


def _is_routerd(process_id: int) -> bool:
    """Whether that process is a daemon: an id in a file may be out of date."""
    try:
        return process_id > 0 and "routerd" in psutil.Process(process_id).cmdline()
    except psutil.NoSuchProcess:
        return False


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process. Raises ``DaemonTrouble`` if another one has it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "in-use.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonTrouble(f"another demo runs in {directory}; wait for it, or name another --directory") from None
        yield
