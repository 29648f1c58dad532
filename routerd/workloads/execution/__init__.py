"""Executing and checking orders."""

from __future__ import annotations

from routerd.interfaces import Workload
from routerd.workloads.execution.almgren_chriss import ALMGREN_CHRISS
from routerd.workloads.execution.pretrade import PRETRADE

WORKLOADS: tuple[Workload, ...] = (ALMGREN_CHRISS, PRETRADE)
