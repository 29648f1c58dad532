"""What a choice is steered by, and how candidates score on it.

Several objectives are weighed by the weighted product model (Bridgman, Dimensional Analysis, 1922; Miller and Starr,
Executive Decisions and Operations Research, 1969): the score of a candidate is Σ weight · log(measure), the logarithm of a
weighted geometric mean, lower being better. It has no scale, so seconds and joules need no exchange rate; and who is ahead of
two candidates does not depend on which others there are, as it does where each measure is first divided by the best one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from routerd.types import Candidate

#: A HIGH priority device is taken within this factor of the best; a LOW one only when better by it.
PRIORITY_FACTOR: Final = 1.25


class Preference(Struct, frozen=True):
    """What steers a choice: a literal list bounded by measurement, objective weights, device priorities, a deadline.

    ``watts`` are by device kind, and ``watts_from`` says in a word where they are from. ``deadline_seconds`` counts from now.
    """

    prefer: tuple[str, ...] = ()
    unless_slower_than: float | None = None
    objective: Mapping[str, float] = {}
    priorities: Mapping[str, str] = {}
    watts: Mapping[str, float] = {}
    watts_from: str = ""
    deadline_seconds: float | None = None


def score(candidate: Candidate, preference: Preference) -> float:
    """Σ weight · log(measure) over the objective, lower being better; watts that are not given count as 1.

    Latency is measured by predicted seconds, throughput by the seconds of service, energy by those times watts.
    """
    objective = preference.objective
    if is_latency(objective):
        return math.log(candidate.predicted_seconds)
    total = sum(objective.values())
    energy = objective.get("energy", 0.0)
    latency = objective.get("latency", 0.0)
    log_watts = math.log(preference.watts.get(candidate.device_kind, 1.0))
    busy = (total - latency) * math.log(candidate.service_seconds) + energy * log_watts
    return (latency * math.log(candidate.predicted_seconds) + busy) / total


def comparable(preference: Preference, device_kinds: Collection[str]) -> Preference:
    """The preference as it compares candidates of these kinds: without any watts unless those of all are known."""
    if all(kind in preference.watts for kind in device_kinds):
        return preference
    return replace(preference, watts={})


def is_latency(objective: Mapping[str, float]) -> bool:
    """Whether completion time is all that counts."""
    return not objective or (len(objective) == 1 and "latency" in objective)


def latency_share(preference: Preference) -> float:
    """The weight of completion time among the objectives, from 0 to 1."""
    objective = preference.objective
    return 1.0 if is_latency(objective) else objective.get("latency", 0.0) / sum(objective.values())
