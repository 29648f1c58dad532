"""Market risk: sensitivities of options, and value at risk by history, by simulation and by amplitude estimation."""

from __future__ import annotations

from routerd.workloads.risk.amplitude_estimation import VAR_AMPLITUDE_ESTIMATION
from routerd.workloads.risk.greeks import GREEKS_BATCH
from routerd.workloads.risk.historical import VAR_HISTORICAL
from routerd.workloads.risk.monte_carlo import VAR_MONTE_CARLO

WORKLOADS = (GREEKS_BATCH, VAR_AMPLITUDE_ESTIMATION, VAR_HISTORICAL, VAR_MONTE_CARLO)

__all__ = ["GREEKS_BATCH", "VAR_AMPLITUDE_ESTIMATION", "VAR_HISTORICAL", "VAR_MONTE_CARLO", "WORKLOADS"]
