"""Which backend is fastest at which size of a workload, where that changes, and whether the router knows: pure figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

from benchmarks._harness import MILLISECOND
from routerd.interfaces import CONTRACT_BACKEND

#: Closer than this, neither backend is the faster one: two runs of the same task differ by as much.
NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Between the works ``low`` and ``high`` the fastest backend changes; ``work`` is where, if both were timed at both."""

    before: str
    after: str
    low: float
    high: float
    work: float | None

    def __str__(self) -> str:
        where = f"between {shown(self.low)} and {shown(self.high)}" if self.work is None else f"at {shown(self.work)}"
        return f"{self.after} for {self.before} {where}"


@dataclass(frozen=True, kw_only=True)
class Size:
    """One workload at one size: seconds by backend, with the error of each one's proof.

    ``unmeasured`` says why a backend has no seconds. ``ways`` are the seconds to each backend's worker and back, which the
    router counts, and ``chosen`` is its choice for a task without a tolerance of its own, empty where it had none.
    ``change`` is where the fastest backend became another one since the next smaller size.
    """

    workload: str
    work: float
    tolerance: float
    seconds: Mapping[str, float]
    errors: Mapping[str, float]
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    ways: Mapping[str, float] = field(default_factory=dict)
    chosen: str = ""
    change: str = ""

    HEADINGS: ClassVar = (
        "workload",
        "work",
        "ms by backend",
        "fastest",
        "faster than cpu.numpy",
        "its error",
        "fastest changes",
        "chosen",
        "verdict",
    )

    @property
    def eligible(self) -> dict[str, float]:
        """Seconds of the backends that are as exact as the workload asks where a task asks for nothing."""
        return {name: seconds for name, seconds in self.seconds.items() if self.errors[name] <= self.tolerance}

    @property
    def fastest(self) -> str:
        """The fastest of the eligible, empty where none was timed."""
        eligible = self.eligible
        return min(eligible, key=eligible.__getitem__, default="")

    @property
    def value(self) -> float | None:
        """How many times faster than the contract the fastest is, where both were timed."""
        if not self.fastest or CONTRACT_BACKEND not in self.seconds:
            return None
        return self.seconds[CONTRACT_BACKEND] / self.seconds[self.fastest]

    @property
    def slower(self) -> float | None:
        """How many times longer than on the best backend a task takes where it was sent; the way there counts."""
        whole = {name: seconds + self.ways.get(name, 0.0) for name, seconds in self.eligible.items()}
        return whole[self.chosen] / min(whole.values()) if self.chosen in whole else None

    @property
    def verdict(self) -> str:
        if self.slower is None:
            return ""
        return "right" if self.slower <= 1.0 + NOISE else "wrong"

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.workload,
            shown(self.work),
            ", ".join([*self._timed(), *(f"{name} {reason}" for name, reason in self.unmeasured.items())]),
            self.fastest,
            "" if self.value is None else f"{self.value:.3g}×",
            "" if not self.fastest else f"{self.errors[self.fastest]:.1g}",
            self.change,
            f"{self.chosen} ({self.slower:.2f}× the best)" if self.verdict == "wrong" else self.chosen,
            self.verdict,
        )

    def _timed(self) -> list[str]:
        return [
            f"{name} {seconds * MILLISECOND:.3g}"
            + ("" if name in self.eligible else f" (error {self.errors[name]:.1g})")
            for name, seconds in self.seconds.items()
        ]


def shown(work: float) -> str:
    """A work in a few characters: ``850``, ``1.2e6``."""
    return f"{work:.0f}" if work < 1e4 else f"{work:.2g}".replace("e+0", "e").replace("e+", "e")


def leaders(sizes: Sequence[Size]) -> list[str]:
    """The fastest backend at each size, from small to large.

    One that is within :data:`NOISE` of the fastest, and led at the size before, still leads: noise changes nothing.
    """
    leading: list[str] = []
    for size in sizes:
        eligible = size.eligible
        last = leading[-1] if leading else ""
        stays = last in eligible and eligible[last] <= (1.0 + NOISE) * min(eligible.values())
        leading.append(last if stays else size.fastest)
    return leading


def crossovers(sizes: Sequence[Size]) -> list[Crossover]:
    """Where the leader changes among the sizes of one workload, from small to large. Sizes that nobody was timed at count for nothing."""
    known = [size for size in sizes if size.fastest]
    return [
        Crossover(
            before=before, after=after, low=small.work, high=large.work, work=_crossing(small, large, before, after)
        )
        for (small, large), (before, after) in zip(pairwise(known), pairwise(leaders(known)), strict=True)
        if before != after
    ]


def with_changes(sizes: Sequence[Size]) -> list[Size]:
    """The same sizes of one workload, each with the crossover that ends at it."""
    changes = {one.high: str(one) for one in crossovers(sizes)}
    return [replace(size, change=changes.get(size.work, "")) for size in sizes]


def _crossing(small: Size, large: Size, before: str, after: str) -> float | None:
    """Where the two times are equal, if both grow as powers of the work between the sizes."""
    if not all(name in size.seconds for name in (before, after) for size in (small, large)):
        return None
    lead, lag = (math.log(size.seconds[after] / size.seconds[before]) for size in (small, large))
    share = max(lead, 0.0) / (
        max(lead, 0.0) - lag
    )  # a lead below 0 was noise: they were even at the smaller size already
    return math.exp(math.log(small.work) + share * math.log(large.work / small.work))
