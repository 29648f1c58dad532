"""Bars from ticks."""

from __future__ import annotations

from routerd.workloads.marketdata.ohlcv_bars import OHLCV_BARS

WORKLOADS = (OHLCV_BARS,)
