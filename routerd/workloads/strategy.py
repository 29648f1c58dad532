"""Backtests of trading rules."""

from __future__ import annotations

from routerd.interfaces import Workload

WORKLOADS: tuple[Workload, ...] = ()
