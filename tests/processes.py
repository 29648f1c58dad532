"""Real daemons on private sockets, clients without a library, and plugins as pip would leave them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from routerd import connect
from routerd.client import Router
from routerd.errors import DaemonUnreachable
from routerd.memory import receive
from routerd.protocol import HEADER

START_SECONDS = 30.0
_ROOT = Path(__file__).parents[1]


class Segments(NamedTuple):
    """Shared-memory segments that a process holds."""

    descriptors: int
    mappings: int
    all_descriptors: int


class DaemonProcess:
    """A daemon with a directory of its own. Socket paths are short: a pytest path can pass the limit of 103 bytes.

    It does without the plugins ``metal`` and ``cuda``, for whose workers most tests would only wait, unless ``plugins_deny``
    says so. ``patient``: it takes all the time that the product takes to time again what may have been disturbed.
    """

    def __init__(self, environment: dict[str, str] | None = None, *, patient: bool = False, **settings: object) -> None:
        self._command = [sys.executable, "-m", "routerd" if patient else "tests.impatient"]
        self.directory = Path(tempfile.mkdtemp(prefix="rd-"))
        self.socket = self.directory / "s" / "routerd.sock"
        self.state = self.directory / "state"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTERD_")}
        self.env |= {"ROUTERD_SOCKET": str(self.socket), "ROUTERD_STATE_DIR": str(self.state)}
        settings = {"plugins_deny": "metal,cuda", **settings}
        self.env |= {f"ROUTERD_{name.upper()}": str(value) for name, value in settings.items()}
        self.env |= environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.directory / "log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> DaemonProcess:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self.env, cwd=_ROOT, stderr=log, stdout=log)
        return self

    def refuse(self) -> tuple[int, str]:
        """Start where starting must fail; the exit code and what it said."""
        ran = subprocess.run(
            [sys.executable, "-m", "routerd"], env=self.env, capture_output=True, text=True, timeout=30, check=False
        )
        return ran.returncode, ran.stderr

    def connect(self, **arguments: Any) -> Router:
        """Connect, but fail at once, with the daemon's own words, if it ended instead of serving."""
        try:
            return connect(self.socket, timeout=START_SECONDS, **arguments)
        except DaemonUnreachable:
            import pytest  # not for the processes of tests that only use the rest of this

            pytest.fail(f"the daemon does not serve: {self.log.read_text()}")

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    @staticmethod
    def segments(pid: int) -> Segments:
        """What ``/proc`` says that a process holds now."""
        names = []
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                names.append(str(path.readlink()))
        maps = Path(f"/proc/{pid}/maps").read_text()
        return Segments(sum("memfd:routerd" in name for name in names), maps.count("memfd:routerd"), len(names))

    def wait_ready(self, *backends: str) -> None:
        """Until these backends are ready (or known to be unavailable)."""
        with self.connect() as router:
            wait_until(
                lambda: all(router.call("status")["backends"][name] != "starting" for name in backends), START_SECONDS
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


class Wire:
    """A client without a library: bytes, frames and MessagePack."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20.0)
        self.socket.connect(str(path))
        self._data = b""
        self._number = 0
        self.descriptors: list[int] = []

    def hello(self, name: str = "wire") -> Wire:
        assert "result" in self.ask("hello", {"protocols": [1], "client": name})
        return self

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self, body: bytes) -> None:
        self.send(HEADER.pack(len(body)) + body)

    @property
    def next_number(self) -> int:
        """The id that the next request will have."""
        return self._number + 1

    def request(self, method: str, params: Any = None, **extra: Any) -> int:
        self._number += 1
        self.frame(msgspec.msgpack.encode({"id": self._number, "method": method, "params": params or {}, **extra}))
        return self._number

    def reply(self) -> dict[str, Any] | None:
        """The next reply; ``None`` when the daemon has closed the connection."""
        while True:
            if len(self._data) >= HEADER.size:
                (length,) = HEADER.unpack_from(self._data)
                if len(self._data) >= HEADER.size + length:
                    body = self._data[HEADER.size : HEADER.size + length]
                    self._data = self._data[HEADER.size + length :]
                    return msgspec.msgpack.decode(body)
            try:
                data, descriptors = receive(self.socket, 1 << 16)
            except ConnectionResetError:
                return None
            self.descriptors += descriptors
            if not data:
                return None
            self._data += data

    def ask(self, method: str, params: Any = None) -> dict[str, Any]:
        number = self.request(method, params)
        reply = self.reply()
        assert reply is not None, "the daemon closed the connection"
        assert reply["id"] == number
        return reply

    def error(self, method: str, params: Any = None) -> dict[str, Any]:
        return self.ask(method, params)["error"]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.socket.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until ``condition`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def hand_down(source: DaemonProcess, state: Path, *, without: Collection[str] = ()) -> None:
    """What a running daemon has proved and timed, but for these workloads, is known to one that will start with this state."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = "routerd.sqlite3"
    with (
        contextlib.closing(sqlite3.connect(source.state / name)) as theirs,
        contextlib.closing(sqlite3.connect(state / name)) as own,
        own,
    ):
        theirs.backup(own)
        own.execute("DELETE FROM decisions")
        own.execute("DELETE FROM policies")
        own.executemany("DELETE FROM calibrations WHERE workload = ?", [(one,) for one in without])
    (state / name).chmod(0o600)


def leave_out(directory: Path, *modules: str) -> None:
    """With this directory on the path, importing these modules fails as if they were not installed."""
    for name in modules:
        (directory / f"{name}.py").write_text(f"raise ImportError('left out for speed', name={name!r})\n")


@contextlib.contextmanager
def daemons(directory: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Makes daemons, not started, and removes them all in the end."""
    made: list[DaemonProcess] = []
    leave_out(directory, "torch")

    def make(*, torch: bool = False, environment: dict[str, str] | None = None, **settings: Any) -> DaemonProcess:
        defaults = {"calibrate_when_idle": "false", "calibration_run_seconds": 0.02}
        paths = [] if torch else [str(directory)]
        paths += filter(None, [(environment or {}).get("PYTHONPATH")])
        made.append(DaemonProcess({**(environment or {}), "PYTHONPATH": ":".join(paths)}, **{**defaults, **settings}))
        return made[-1]

    try:
        yield make
    finally:
        for process in made:
            process.remove()


def install_plugin(directory: Path, name: str, source: str) -> None:
    """A third party's plugin as pip would leave it: a module and the metadata with its entry point."""
    module = f"{name}_backends"
    (directory / f"{module}.py").write_text(source)
    info = directory / f"{name}_backends-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backends\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[routerd]\n{name} = {module}\n")
