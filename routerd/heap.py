"""Giving the allocator's free pages back to the system, so that a process that stays for weeks stays level."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

#: Between two times. One takes well under a millisecond.
TIDY_SECONDS: Final = 10.0


def system_trim() -> Callable[[], None]:
    """What makes this system's allocator return its free pages; where it has nothing of the kind, nothing."""
    import ctypes

    library = ctypes.CDLL(None)
    if sys.platform == "darwin":
        relieve = library.malloc_zone_pressure_relief
        relieve.argtypes, relieve.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_size_t
        return lambda: relieve(None, 0) and None
    if not hasattr(library, "malloc_trim"):  # another C library than glibc
        return lambda: None
    trim = library.malloc_trim
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: trim(0) and None
