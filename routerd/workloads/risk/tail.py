"""Value at risk and expected shortfall, with standard errors, from the greatest losses of a simulation alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.interfaces import Parameter

if TYPE_CHECKING:
    import numpy as np


#: The level of every value at risk. At most a share of 1 − confidence of the losses is greater than it.
CONFIDENCE = Parameter(
    name="confidence",
    type="float",
    default=0.99,
    minimum=0.5,
    maximum=0.99999,
    above_minimum=True,
    doc="probability that the loss stays within the value at risk; of scenarios, their share",
)


class TailStatistics(NamedTuple):
    """What the tail says, in the unit of the losses."""

    value_at_risk: float
    expected_shortfall: float
    value_at_risk_error: float
    expected_shortfall_error: float


def quantile_rank(count: int, confidence: float) -> int:
    """How many of ``count`` ordered losses lie below the VaR: the smallest loss that a share ``confidence`` does not exceed."""
    return max(0, math.ceil(count * confidence - 1.0))


def needed_tail(count: int, confidence: float) -> int:
    """How many of the greatest of ``count`` losses :func:`tail_statistics` reads."""
    return min(count, count - quantile_rank(count, confidence) + _window(count, confidence))


def tail_statistics(tail: np.ndarray[Any, Any], count: int, confidence: float) -> TailStatistics:
    """Statistics of ``count`` simulated losses, of which ``tail`` (replicates, K) holds the greatest of each replicate.

    VaR is the order statistic of all replicates together, expected shortfall is Rockafellar's and Uryasev's. One replicate
    is a sample of independent losses: its errors are those of binomial counts. Several are randomised point sets, whose
    scatter gives the errors: that of the share of losses beyond the VaR, and that of the mean excess over it. An error of
    the share becomes one of the VaR by the spacing of the losses around it, and is never taken below one loss.

    Source: Bahadur (1966), A Note on Quantiles in Large Samples, Annals of Mathematical Statistics 37(3).
    """
    import numpy as np

    replicates = tail.shape[0]
    ordered = np.sort(tail, axis=None)[::-1]
    position = count - quantile_rank(count, confidence) - 1
    var = float(ordered[position])
    excess = np.maximum(tail - var, 0.0)
    if replicates == 1:
        share_error = math.sqrt(confidence * (1.0 - confidence) / count)
        mean = float(excess.sum()) / count
        excess_error = math.sqrt(max(0.0, float(np.square(excess).sum()) / count - mean * mean) / count)
    else:
        points = count // replicates
        share_error = float(np.std((tail > var).sum(axis=1), ddof=1)) / points / math.sqrt(replicates)
        excess_error = float(np.std(excess.sum(axis=1), ddof=1)) / points / math.sqrt(replicates)
    window = _window(count, confidence)
    first, last = max(0, position - window), min(position + window, ordered.size - 1)
    spacing = float(ordered[first] - ordered[last]) / max(1, last - first)
    return TailStatistics(
        var,
        var + float(excess.sum()) / ((1.0 - confidence) * count),
        spacing * max(1.0, share_error * count),
        excess_error / (1.0 - confidence),
    )


class Tail:
    """The greatest ``size`` of all losses that were added, in bounded memory."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[np.ndarray[Any, Any]] = []
        self._count = 0

    def add(self, losses: np.ndarray[Any, Any]) -> None:
        self._kept.append(losses)
        self._count += losses.size
        if self._count > 4 * self._size + 2**16:
            self._kept = [self._greatest()]
            self._count = self._kept[0].size

    def descending(self) -> np.ndarray[Any, Any]:
        """The greatest losses, the greatest first; fewer where fewer were added."""
        import numpy as np

        return np.sort(self._greatest())[::-1]

    def _greatest(self) -> np.ndarray[Any, Any]:
        import numpy as np

        losses = np.concatenate(self._kept)
        if losses.size <= self._size:
            return losses
        return np.partition(losses, losses.size - self._size)[losses.size - self._size :]


def _window(count: int, confidence: float) -> int:
    """How many order statistics on either side of the VaR its density is read from: one standard error's worth."""
    return max(1, math.ceil(math.sqrt(count * confidence * (1.0 - confidence))))
