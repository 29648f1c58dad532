"""The standard normal distribution in namespace operations."""

from __future__ import annotations

import math
from typing import Any

from routerd.interfaces import Namespace

# Beyond 40 standard deviations even float64 has nothing left, and the square stays finite in float32.
_FARTHEST = 40.0
_CENTRE = 3.75
# Powers of t = (x − 3.75)/(x + 3.75), highest first, of (1 + 2x)·exp(x²)·erfc(x): the Chebyshev series of Shepherd and
# Laframboise for x in [0, ∞), recomputed to 40 digits and cut after degree 22, where it is exact to 2e-16.
_SERIES = (
    -2.623107347133468775e-9,
    -1.955135886898563402e-9,
    3.1979266716668001e-8,
    1.879082322370048739e-8,
    -2.485712624801673222e-7,
    -5.084465378687302956e-8,
    1.741982158622481442e-6,
    -9.792625707303522007e-7,
    -1.143804803334689342e-5,
    2.238756571491181656e-5,
    5.164652974177416118e-5,
    -2.90155352460776553e-4,
    2.9371437804495803e-4,
    1.755626165197065073e-3,
    -9.746579683265262231e-3,
    2.836227737211113883e-2,
    -5.86933985766493384e-2,
    9.230432116428124988e-2,
    -1.088039301424446127e-1,
    8.22767384899950626e-2,
    3.585415485479025638e-3,
    -1.402405985855452563e-1,
    1.237512630837827529,
)


def density_and_distribution(namespace: Namespace, x: Any) -> tuple[Any, Any]:
    """φ(x) and Φ(x) for a real array, each in its shape.

    One formula serves the whole line, so nothing branches. In float64 the relative error of Φ is below 1e-15 for
    |x| ≤ 3 and grows with x² (as any exp(−x²/2) does) to 5e-15 at −10.

    Source: Shepherd, Laframboise (1981), Chebyshev Approximation of (1+2x)exp(x²)erfc(x), Math. Comp. 36.
    """
    xp = namespace.xp
    magnitude = xp.minimum(xp.abs(x), namespace.asarray(_FARTHEST))
    kernel = magnitude * magnitude
    kernel *= -0.5
    kernel = xp.exp(kernel)
    magnitude *= math.sqrt(0.5)
    variable = magnitude + _CENTRE
    variable = (-2.0 * _CENTRE) / variable
    variable += 1.0
    tail = variable * _SERIES[0]
    for coefficient in _SERIES[1:-1]:
        tail += coefficient
        tail *= variable
    tail += _SERIES[-1]
    tail *= kernel
    magnitude *= 4.0
    magnitude += 2.0
    tail /= magnitude
    kernel *= 1.0 / math.sqrt(2.0 * math.pi)
    return kernel, xp.where(x < 0.0, tail, 1.0 - tail)
