"""Fanning market data out to subscribers."""

from __future__ import annotations

from routerd.interfaces import Workload

WORKLOADS: tuple[Workload, ...] = ()
