"""Starting a worker's process, and the words for how one ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import NamedTuple


class WorkerSettings(NamedTuple):
    """What every worker is started and watched with.

    A task counts as hung after ``hang_factor`` times its predicted seconds, ``hang_floor_seconds`` at least and
    ``task_timeout_seconds`` at most. A worker that does not answer for ``silence_seconds`` is ended, and so is one that holds
    more than ``memory_bytes`` of private memory (0: no limit). ``queue_limit`` bounds the tasks that wait for one.
    """

    threads: int
    inline_bytes: int
    task_timeout_seconds: float
    start_seconds: float
    workload_modules: tuple[str, ...] = ()
    hang_factor: float = 50.0
    hang_floor_seconds: float = 10.0
    silence_seconds: float = 5.0
    memory_bytes: int = 0
    queue_limit: int = 1024
    batching: bool = True


def launch(settings: WorkerSettings, incarnation: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new worker process and this end of the stream to it. Raises ``OSError`` where the machine has no room for one."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with theirs:
            process = subprocess.Popen(
                _command(settings, theirs.fileno(), incarnation),
                pass_fds=(theirs.fileno(),),
                env=_environment(settings.threads),
                stdin=subprocess.DEVNULL,
            )
    except OSError:
        mine.close()
        raise
    return process, mine


def exit_words(name: str, code: int) -> str:
    """How the worker's process ended."""
    if code < 0:
        return f"worker {name} was ended by {signal.Signals(-code).name}"
    return f"worker {name} exited with status {code}"


def _command(settings: WorkerSettings, descriptor: int, incarnation: int) -> list[str]:
    modules = [word for module in settings.workload_modules for word in ("--workload-module", module)]
    return [
        sys.executable, "-m", "routerd.worker.process", "--fd", str(descriptor), "--daemon", str(os.getpid()),
        "--incarnation", str(incarnation), "--inline-bytes", str(settings.inline_bytes),
        "--memory-bytes", str(settings.memory_bytes), *modules,
    ]  # fmt: skip


def _environment(threads: int) -> dict[str, str]:
    """Numeric libraries size their thread pools from the environment when they are loaded."""
    bounded = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {**os.environ, **dict.fromkeys(bounded, str(threads))}
