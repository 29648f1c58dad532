"""What scoring works on: tasks that were run on every eligible backend, and the samples that choosers learnt from."""

from __future__ import annotations

from msgspec import Struct


class Sample(Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement that a chooser may learn from: seconds of ``backend`` on this much work of ``workload``."""

    workload: str
    backend: str
    work: float
    seconds: float


class Trial(Struct, frozen=True, forbid_unknown_fields=True):
    """One task that every eligible backend ran.

    ``seconds`` is what it took on each, from request to result (the median of its runs); ``predicted`` what was predicted of
    each before that; ``chosen`` and ``confidence`` are the decision about it.
    """

    workload: str
    work: float
    seconds: dict[str, float]
    predicted: dict[str, float]
    chosen: str
    confidence: float

    @property
    def best_seconds(self) -> float:
        """What the fastest backend took."""
        return min(self.seconds.values())
