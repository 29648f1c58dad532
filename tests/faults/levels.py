"""What a daemon holds at rest: descriptors, segments, processes and memory, before a storm and after it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.processes import DaemonProcess

SETTLE_SECONDS = 30.0
#: SQLite keeps the descriptor of a connection that was closed while another one of the process holds a lock, to use it again.
DATABASE_SLACK = 4
#: Growth of the daemon that is not taken for a leak: what the allocator keeps, caches that fill once.
MEMORY_SLACK_BYTES = 24 << 20
_SLACK = {"memory_bytes": MEMORY_SLACK_BYTES, "database_descriptors": DATABASE_SLACK}


class Levels(NamedTuple):
    """Of the daemon itself, and of its workers together."""

    descriptors: int
    database_descriptors: int
    segment_descriptors: int
    segment_mappings: int
    memory_bytes: int
    workers: int
    zombies: int
    orphans: int
    worker_segment_descriptors: int
    worker_segment_mappings: int


def take(daemon: DaemonProcess, former_pids: set[int]) -> Levels:
    """The levels now. ``former_pids`` are those of daemons that have ended: their workers would be orphans."""
    own, database = daemon.segments(daemon.pid), _open_files(daemon.pid, str(daemon.state))
    children = daemon.workers()
    zombies = [child for child in children if _status(child) == psutil.STATUS_ZOMBIE]
    held = []
    for child in children:
        with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):  # it ended meanwhile
            held.append(daemon.segments(child.pid))
    return Levels(
        descriptors=own.all_descriptors - database,
        database_descriptors=database,
        segment_descriptors=own.descriptors,
        segment_mappings=own.mappings,
        memory_bytes=psutil.Process(daemon.pid).memory_info().rss,
        workers=len(children) - len(zombies),
        zombies=len(zombies),
        orphans=len(_workers_of(former_pids)),
        worker_segment_descriptors=sum(one.descriptors for one in held),
        worker_segment_mappings=sum(one.mappings for one in held),
    )


def above(before: Levels, now: Levels) -> list[str]:
    """What is higher now than it was (or, of workers, other)."""
    found = []
    for name, was, is_now in zip(Levels._fields, before, now, strict=True):
        slack = _SLACK.get(name, 0)
        if is_now > was + slack or (name == "workers" and is_now != was):
            found.append(f"{name} were {was} before and are {is_now} now")
    return found


def settle(daemon: DaemonProcess, before: Levels, former_pids: set[int], seconds: float = SETTLE_SECONDS) -> list[str]:
    """Wait until all is back at its level; what is not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            problems = above(before, take(daemon, former_pids))
        except (psutil.Error, FileNotFoundError) as error:
            return [f"the daemon is gone: {error}"]
        if not problems or time.monotonic() > deadline:
            return problems
        time.sleep(0.05)


def _open_files(pid: int, directory: str) -> int:
    """How many descriptors of a process are of files in that directory."""
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(path.readlink()).startswith(directory)
    return count


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def _workers_of(daemons: set[int]) -> list[int]:
    """Processes that a daemon with one of these ids started as its workers and that still run."""
    wanted = {str(pid) for pid in daemons}
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "routerd.worker.process" in words and "--daemon" in words:
            parent = words[words.index("--daemon") + 1]
            if parent in wanted:
                found.append(process.info["pid"])
    return found
