"""Option pricing by simulation."""

from __future__ import annotations

from routerd.workloads.options.asian import MONTE_CARLO_ASIAN
from routerd.workloads.options.european import MONTE_CARLO_EUROPEAN

WORKLOADS = (MONTE_CARLO_ASIAN, MONTE_CARLO_EUROPEAN)
