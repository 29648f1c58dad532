"""The law of the average of a geometric Brownian motion at equally spaced times, as far as it is known in closed form.

Everything here is small and computed on the host in float64. Prices are in units of ``unit``, which no expectation of the
asset and no strike exceeds, so nothing overflows in float32 either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Params
from routerd.workloads.options.lognormal import density, payoff_variance

if TYPE_CHECKING:
    import numpy as np

    Host = np.ndarray[Any, Any]

# Mean depths of the band below the strike that are sampled: deep enough for the tail of what is paid there.
_BAND = 3.0
# Standard deviations beyond which a level has no density left in float64.
_FARTHEST = 40.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Average:
    """What a contract says about its average.

    Attributes:
        steps: number of times that are averaged over, n; they are T/n, 2T/n, …, T.
        unit: how much currency the unit of prices is.
        strike: in units.
        deviation: standard deviation of a step of the log asset.
        drift: (n,), mean of the log asset at each time, in log units.
        loading: (n,), covariance of the log asset at each time with the standardised mean of all of them, called the level.
        spread: standard deviation of the mean log asset.
        threshold: the level at which the geometric average is the strike.
        forward: (n,), expectation of the asset at each time, in units.
        band: scale of the exponential distribution of how far below the threshold the level is sampled.
    """

    steps: int
    unit: float
    strike: float
    deviation: float
    drift: Host
    loading: Host
    spread: float
    threshold: float
    forward: Host
    band: float

    def known_part(self, option_type: str) -> float:
        """The expected payoff, in units, of exercising exactly when the geometric average is above (put: below) the strike.

        The geometric average is never above the arithmetic one. So a call exercised so lacks only what is paid while the
        strike lies between the two, and a put lacks the same.

        Source: Curran (1994), Valuing Asian and Portfolio Options by Conditioning on the Geometric Mean Price,
        Management Science 40(12).
        """
        import numpy as np

        from routerd.namespaces.numpy import NumpyNamespace
        from routerd.workloads.normal import density_and_distribution

        sign = 1.0 if option_type == "call" else -1.0
        deviates = np.append(self.loading, 0.0) - self.threshold
        _, shares = density_and_distribution(NumpyNamespace(), sign * deviates)
        return sign * float(np.mean(self.forward * shares[:-1]) - self.strike * shares[-1])

    def certain_payoff(self, option_type: str) -> float:
        """The payoff in units where nothing is random."""
        gain = float(self.forward.mean()) - self.strike
        return max(gain if option_type == "call" else -gain, 0.0)


def average_of(params: Params) -> Average:
    """The average that an Asian option's parameters describe."""
    import numpy as np

    steps, maturity, rate = params["num_steps"], params["maturity"], params["rate"]
    variance = params["volatility"] ** 2
    number = np.arange(1, steps + 1)
    times = number * (maturity / steps)
    unit = max(params["strike_price"], params["spot_price"] * math.exp(max(rate * maturity, 0.0)))
    start = math.log(params["spot_price"] / unit)
    drift = start + (rate - 0.5 * variance) * times
    # Σᵢ min(tᵢ, tⱼ)/n
    shared = (variance * maturity / steps / steps) * (0.5 * number * (number + 1.0) + number * (steps - number))
    spread = math.sqrt(shared.mean())
    strike = params["strike_price"] / unit
    loading, threshold, band = shared, 0.0, 0.0
    if spread > 0.0:
        loading = shared / spread
        threshold = (math.log(strike) - float(drift.mean())) / spread
        threshold = max(-_FARTHEST, min(threshold, _FARTHEST))
        # The arithmetic average exceeds the geometric one by half the variance of the log asset along the path.
        path = drift + loading * threshold
        along = float(path.var() + np.mean(variance * times - loading * loading))
        band = _band(along, spread, threshold)
    return Average(
        steps=steps,
        unit=unit,
        strike=strike,
        deviation=math.sqrt(variance * maturity / steps),
        drift=drift,
        loading=loading,
        spread=spread,
        threshold=threshold,
        forward=np.exp(start + rate * times),
        band=band,
    )


def predicted_deviation(params: Params) -> float:
    """About the standard deviation of a path's part in the price, in currency, in constant time and plain Python.

    With the control variate it is a quarter of strike × density × band² × spread (within a factor of two from the least
    to the greatest volatilities), in continuous time; without, that of the geometric average's payoff.
    """
    steps, maturity, volatility = params["num_steps"], params["maturity"], params["volatility"]
    variance = volatility * volatility * maturity
    growth = (params["rate"] - 0.5 * volatility * volatility) * maturity
    spread = math.sqrt(variance * (steps + 1.0) * (2.0 * steps + 1.0) / 6.0) / steps
    if spread == 0.0:
        return 0.0
    mean = math.log(params["spot_price"] / params["strike_price"]) + 0.5 * growth * (steps + 1.0) / steps
    threshold = -mean / spread
    if params["control_variate"]:
        # The line growth·t and the loading √(3·variance)·(t − t²/2), as they vary along the path.
        pull = math.sqrt(3.0 * variance) * threshold
        along = growth * growth / 12.0 + growth * pull / 12.0 + pull * pull / 45.0 + variance / 10.0
        band = _band(along * (1.0 - 1.0 / steps), spread, threshold)
        deviation = 0.25 * params["strike_price"] * density(threshold) * band * band * spread
    else:
        forward = params["strike_price"] * math.exp(mean + 0.5 * spread * spread)
        deviation = math.sqrt(payoff_variance(forward, params["strike_price"], spread, params["option_type"]))
    return float(deviation * math.exp(-params["rate"] * maturity))


def _band(along: float, spread: float, threshold: float) -> float:
    """Scale of the depths to sample, of the log asset's variance along the path; never far below where levels lie."""
    return min(_BAND * 0.5 * max(along, 0.0) / spread, _BAND + max(threshold, 0.0))
