"""Closed forms of a lognormal price in plain Python, for what is known before anything is simulated."""

from __future__ import annotations

import math

_LARGEST_EXPONENT = 300.0


def density(deviate: float) -> float:
    """The standard normal density."""
    return math.exp(-0.5 * deviate * deviate) / math.sqrt(2.0 * math.pi)


def distribution(deviate: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-deviate * math.sqrt(0.5))


def payoff_variance(forward: float, strike: float, deviation: float, option_type: str) -> float:
    """The variance of what a European option pays, where the logarithm of the price has standard deviation ``deviation``.

    The square of a price may grow beyond all numbers, and beyond what any number of paths could show; there it is cut.
    """
    sign = 1.0 if option_type == "call" else -1.0
    lower = math.log(forward / strike) / deviation - 0.5 * deviation
    shares = [distribution(sign * (lower + power * deviation)) for power in range(3)]
    mean = sign * (forward * shares[1] - strike * shares[0])
    growth = math.exp(min(deviation * deviation, _LARGEST_EXPONENT))
    square = forward * forward * growth * shares[2] - 2.0 * forward * strike * shares[1] + strike * strike * shares[0]
    return max(square - mean * mean, 0.0)
