"""Collateral and margin."""

from __future__ import annotations

from routerd.workloads.collateral.haircut import HAIRCUT
from routerd.workloads.collateral.margin_sba import MARGIN_SBA

WORKLOADS = (HAIRCUT, MARGIN_SBA)
