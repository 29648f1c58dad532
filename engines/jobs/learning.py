"""Neural networks and the matrix products that they are made of: the ML engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engines.jobs.job import Job
from engines.prices import Stock, return_windows

LAYERS = (64, 128, 64, 1)
ROWS = 10_000
SIDE = 2_048


def learning(stocks: Sequence[Stock], rng: np.random.Generator) -> dict[str, Job]:
    """An untrained network over real returns, and one product at two tolerances."""
    matrices = {"a": rng.standard_normal((SIDE, SIDE)), "b": rng.standard_normal((SIDE, SIDE))}
    return {
        "inference": _inference(stocks, rng),
        "product": _product({**matrices, "tolerance": 1e-5}),
        "loose_product": _product({**matrices, "tolerance": 1e-2}),
    }


def _inference(stocks: Sequence[Stock], rng: np.random.Generator) -> Job:
    arguments: dict[str, Any] = {"x": return_windows(stocks, LAYERS[0], ROWS)}
    for layer, (fan_in, fan_out) in enumerate(pairwise(LAYERS), 1):
        arguments[f"w{layer}"] = rng.standard_normal((fan_in, fan_out)) * np.sqrt(2.0 / fan_in)
        arguments[f"b{layer}"] = np.zeros(fan_out)
    network = "-".join(map(str, LAYERS))
    title = f"{ROWS:,} windows of {LAYERS[0]} daily returns; untrained {network} network: this measures routing, not forecasting"
    return Job("ML", title, "ml.mlp_inference", {"windows": arguments})


def _product(arguments: dict[str, Any]) -> Job:
    title = f"{SIDE} × {SIDE} product of random matrices, tolerance {arguments['tolerance']:.0e}"
    return Job("ML", title, "linalg.gemm", {"product": arguments})
