"""How likely it is that a choice is right: that the same rules would make it again if they knew the true times."""

from __future__ import annotations

import math
from collections.abc import Sequence

from routerd.costs.confidence import Duel, Measure, completion, late_probability, win_probability
from routerd.costs.preference import PRIORITY_FACTOR, Preference, is_latency
from routerd.types import Candidate

_SURELY = 6.0  # deviations: beyond them lies one in a thousand million
_PRIORITY_RANKS = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}


def choice_confidence(ranking: Sequence[Candidate], preference: Preference) -> float:
    """P(the rules would put the first of ``ranking`` there if they knew every true time). 1 where it is alone.

    That is: it is ahead by objective; within its bound, if a list prefers it; and whatever a list or a priority puts before
    it is too slow. Each rival is compared with the first alone. Where the rules would compare it with a third that is faster
    still (a bound counts from the fastest of all), the result is a lower bound of that probability.

    A deadline: while the first is in time, each rival is behind or late; while it is late, each is behind and late.
    """
    first, others = ranking[0], ranking[1:]
    deadline = preference.deadline_seconds
    if not others or _far_ahead(ranking, preference):
        return 1.0
    own = _Standing(first, preference)
    rivals = [_Standing(other, preference) for other in others]
    duels = [duel for rival in rivals if (duel := own.against(rival, None)) is not None]
    if deadline is None or duels == [Duel(own.seconds, rival.seconds) for rival in rivals]:
        return win_probability(duels)  # where time alone counts, the fastest is in time if anything is
    limit = own.seconds.service(deadline)
    turn = (math.log(limit) - own.seconds.mean) / own.seconds.sigma if limit > 0.0 else -math.inf
    bends = [(rival, rival.seconds.service(deadline)) for rival in rivals]
    timely = [duel for rival, bend in bends if (duel := own.against(rival, bend)) is not None]
    late = [Duel(own.score, rival.score, bend, ceiling=True) for rival, bend in bends]
    must_be_late = [other for other, rival in zip(others, rivals, strict=True) if own.yields_to(rival)]
    share = math.prod(late_probability(other, deadline) for other in must_be_late)
    return share * win_probability(timely, high=turn) + win_probability(late, low=turn)


def _far_ahead(ranking: Sequence[Candidate], preference: Preference) -> bool:
    """Whether time alone counts and the first is so far ahead that working out how sure that is would be a waste of time."""
    if preference.prefer or preference.deadline_seconds is not None or not is_latency(preference.objective):
        return False
    if any(_PRIORITY_RANKS.get(rank, 1) != 1 for rank in preference.priorities.values()):
        return False
    first = ranking[0]
    slowest = first.predicted_seconds + first.service_seconds * (math.exp(_SURELY * first.log_sigma) - 1.0)
    return all(
        slowest < other.predicted_seconds - other.service_seconds * (1.0 - math.exp(-_SURELY * other.log_sigma))
        for other in ranking[1:]
    )


class _Standing:
    """A candidate as the rules look at it: its place in the list and by priority, and its two measures."""

    def __init__(self, candidate: Candidate, preference: Preference) -> None:
        self.seconds = completion(candidate)
        self.score = _score_measure(self.seconds, candidate, preference)
        wanted = (candidate.backend, candidate.device_kind)
        self.place = next(
            (place for place, name in enumerate(preference.prefer) if name in wanted), len(preference.prefer)
        )
        self._listed = self.place < len(preference.prefer)
        self._bound = preference.unless_slower_than
        self._priority = _PRIORITY_RANKS.get(preference.priorities.get(candidate.device_kind, "MEDIUM"), 1)

    def yields_to(self, rival: _Standing) -> bool:
        """Whether the rule would rather have the rival however slow it is."""
        return self._bound is None and rival.place < self.place

    def against(self, rival: _Standing, bend: float | None) -> Duel | None:
        """What the rival has to stay behind in; ``None`` if their times do not matter."""
        if rival.place != self.place and self._bound is None:
            return None
        gap = 0 if self._listed else rival._priority - self._priority
        factor = PRIORITY_FACTOR if gap > 0 else 1.0 / PRIORITY_FACTOR if gap < 0 else 1.0
        by_score = Duel(self.score, _scaled(rival.score, factor), bend)
        if self._bound is None or not (self._listed or rival._listed):
            return by_score
        # A rival that the list puts before this one has to be beyond the bound, any other one must not put this one beyond it.
        bound = self._bound if self.place <= rival.place else 1.0 / self._bound
        by_bound = Duel(self.seconds, _scaled(rival.seconds, bound), bend)
        if self._listed and rival.place != self.place:
            return by_bound
        if self.score is self.seconds and gap == 0:  # the stricter one implies the other
            return by_score if rival.place == self.place else by_bound
        return by_score._replace(also=by_bound)


def _score_measure(seconds: Measure, candidate: Candidate, preference: Preference) -> Measure:
    """The score of a candidate as a function of its service."""
    objective = preference.objective
    if is_latency(objective):
        return seconds
    total = sum(objective.values())
    latency, energy = objective.get("latency", 0.0) / total, objective.get("energy", 0.0) / total
    scale = math.pow(preference.watts.get(candidate.device_kind, 1.0), energy)
    if latency == 0.0 or seconds.certain == 0.0:
        return seconds._replace(certain=0.0, scale=scale)
    return seconds._replace(weight=latency, scale=scale)


def _scaled(measure: Measure, factor: float) -> Measure:
    return measure if factor == 1.0 else measure._replace(scale=measure.scale * factor)
