"""Technical indicators as TA-Lib defines them, over many series at once."""

from __future__ import annotations

from routerd.workloads.indicators.averages import EMA, SMA
from routerd.workloads.indicators.momentum import MACD, RSI
from routerd.workloads.indicators.volatility import ATR, BBANDS

__all__ = ["ATR", "BBANDS", "EMA", "MACD", "RSI", "SMA", "WORKLOADS"]

WORKLOADS = (ATR, BBANDS, EMA, MACD, RSI, SMA)
