"""What the operating system says about a worker process: its memory, and whether it is stopped."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class Vitals(NamedTuple):
    """``private_bytes``: resident memory without what is shared with clients; ``stopped``: by a signal, so that it computes nothing."""

    private_bytes: int
    stopped: bool


def vitals(process: psutil.Process) -> Vitals | None:
    """As they are now; ``None`` for a process that has ended, or while the system cannot be asked."""
    try:
        with process.oneshot():
            memory = process.memory_info()
            stopped = process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except (psutil.Error, OSError):  # no descriptor to open /proc with
        return None
    return Vitals(memory.rss - getattr(memory, "shared", 0), stopped)
