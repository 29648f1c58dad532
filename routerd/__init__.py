"""routerd: a hardware router daemon that measures, proves, decides, explains and executes."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    if name == "connect":  # the client needs NumPy; workers and the daemon import this package without it
        from routerd.client import connect

        return connect
    raise AttributeError(f"module 'routerd' has no attribute {name!r}")
