"""Workloads that have a path through shaders of this plugin, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from routerd_metal.fused import conflation, historical, monte_carlo
from routerd_metal.fused.interface import Fused

FUSED: Mapping[str, Fused] = MappingProxyType(
    {
        "options.monte_carlo_asian": monte_carlo.ASIAN,
        "options.monte_carlo_european": monte_carlo.EUROPEAN,
        "risk.var_historical": historical.HISTORICAL,
        "websocket.conflate_fanout": conflation.CONFLATION,
    }
)

__all__ = ["FUSED", "Fused"]
