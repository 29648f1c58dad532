"""Values as people read them."""

from __future__ import annotations

import re
import time
from typing import Any

from routerd.errors import BadRequest
from routerd.routing.reasoning import duration, quantity

__all__ = ["age", "byte_size", "clock", "duration", "gain", "moment", "number", "quantity", "seconds_of", "when"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
NONE = "–"


def seconds_of(text: str) -> float:
    """A span such as ``90``, ``10m`` or ``24h`` in seconds. Raises ``BadRequest``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise BadRequest(f"{text!r} is no span of time; write seconds or a number with s, m, h or d, such as 24h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def when(seconds: float | None) -> str:
    """A duration, or a dash where it was not measured."""
    return NONE if seconds is None else duration(seconds) if seconds > 0.0 else "0"


def age(seconds: float) -> str:
    """A long duration in its two largest units: ``2 h 5 min``."""
    whole = int(seconds)
    for size, unit, smaller, subunit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {subunit}"
    return f"{whole} s"


def moment(unix: float) -> str:
    """Local date and time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))


def clock(unix: float) -> str:
    """Local time of day; with the date unless it is today."""
    local = time.localtime(unix)
    return time.strftime("%H:%M:%S" if local[:3] == time.localtime()[:3] else "%m-%d %H:%M:%S", local)


def byte_size(size: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def gain(factor: float) -> str:
    """A speed-up: ``3.1×``."""
    return f"{factor:.3g}×" if factor < 1000 else f"{factor:.0f}×"


def number(value: Any) -> str:
    """A scalar in full precision, as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return NONE if value is None else str(value)
