"""A wall clock that can be stepped: copied beside a daemon as ``sitecustomize.py``, so that it comes before everything else.

``time.time``, ``time.time_ns``, ``time.localtime`` and ``time.gmtime`` of every Python process with this on its path are off
by the seconds in the file ``$FAULT_CLOCK`` (one little-endian double). Monotonic clocks go on, as they do when somebody steps
the real clock; what C code and the kernel stamp by themselves (files, SQLite's own functions) is not stepped.
"""

import mmap
import os
import struct
import time
from pathlib import Path

_NANO = 10**9


def _install(path: Path) -> None:
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    seconds, nanoseconds = time.time, time.time_ns
    local, universal = time.localtime, time.gmtime

    def offset() -> float:
        return float(struct.unpack("<d", shared[:8])[0])

    time.time = lambda: seconds() + offset()
    time.time_ns = lambda: nanoseconds() + int(offset() * _NANO)
    time.localtime = lambda moment=None: local(time.time() if moment is None else moment)
    time.gmtime = lambda moment=None: universal(time.time() if moment is None else moment)


if os.environ.get("FAULT_CLOCK"):
    _install(Path(os.environ["FAULT_CLOCK"]))
