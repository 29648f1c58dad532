"""Choosing a portfolio: mean and variance over weights, and over a fixed number of equal positions."""

from __future__ import annotations

from routerd.workloads.portfolio.markowitz import MARKOWITZ
from routerd.workloads.portfolio.qubo import QUBO_CARDINALITY

WORKLOADS = (MARKOWITZ, QUBO_CARDINALITY)
