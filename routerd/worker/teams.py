"""Teams: backends that share the tasks of one workload, and what such a task costs them together.

What two devices take together cannot be told from what each takes alone: they compete for memory bandwidth, for cores, for
power. So a team has a cost model of its own, which only executions that were really shared teach.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from routerd.costs.model import CostModel

_WINDOW: Final = 9  # shared tasks that slowdowns are told from
_MOST_SLOWDOWN: Final = 20.0


class Team:
    """Members, by the names of their backends, on one workload. ``problem`` is why it could not be timed, if so."""

    def __init__(self, workload: str, members: tuple[str, ...]) -> None:
        self.workload = workload
        self.members = members
        self.model = CostModel()
        self.problem: str | None = None
        self.used = 0
        self._slowdowns = {name: deque([1.0], maxlen=_WINDOW) for name in members}

    @property
    def label(self) -> str:
        return " + ".join(self.members)

    def slowdown(self, member: str) -> float:
        """By what factor a member takes longer beside the others than its own model says."""
        return median(self._slowdowns[member])

    def note_slowdowns(self, seen: Mapping[str, float]) -> None:
        """What one shared task has told of that. It only moves shares; what a task costs, the model learns."""
        for name, factor in seen.items():
            if 0.0 < factor < math.inf:
                self._slowdowns[name].append(min(max(factor, 1.0 / _MOST_SLOWDOWN), _MOST_SLOWDOWN))

    def objection(self) -> str | None:
        """Why it may not take a task, or ``None``."""
        if self.problem is not None:
            return f"{self.label} could not be timed as hybrid: {self.problem}"
        return None if self.model.calibrated else f"not yet timed as hybrid of {self.label}"


class Teams:
    """Every team that somebody could have used, in the order of first use."""

    def __init__(self) -> None:
        self._teams: dict[tuple[str, tuple[str, ...]], Team] = {}

    def __iter__(self) -> Iterator[Team]:
        return iter(list(self._teams.values()))

    def find(self, workload: str, members: Sequence[str]) -> Team | None:
        """The team of these members, if there is one."""
        return self._teams.get((workload, tuple(members)))

    def form(self, workload: str, members: Sequence[str]) -> Team:
        """A team that is to be timed, if it is not one already."""
        team = Team(workload, tuple(members))
        return self._teams.setdefault((workload, team.members), team)

    def forget(self, workload: str | None = None) -> None:
        """What is known of a workload's teams, or of all, holds no more."""
        self._teams = {key: team for key, team in self._teams.items() if workload not in (None, team.workload)}
