"""How one task is shared out among backends that run at once: shares that end together by prediction, cut into chunks.

Shares are what each backend can do until a common finish (the equal finish time of divisible load theory, Bharadwaj et al.,
Cluster Computing 6, 2003). They are then cut into ever smaller chunks, so that whoever is done early takes the next one
(guided self-scheduling, Polychronopoulos and Kuck, IEEE Trans. Computers C-36, 1987): predictions decide how the task
starts, and what really happens how it ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from routerd.costs.curve import Curve

_FINISH_STEPS = 14  # halvings of the range of finish times
_SHARE_STEPS = 13  # halvings of the range of one share
_LEAST_GAIN = 0.03  # a backend that does not bring the finish this much nearer is left out
_MOST_ROUNDS = 5  # each hands every backend a chunk, half as large as the last
_OVERHEAD_SHARE = 0.04  # of the time of a chunk may be lost between two chunks


class Member(NamedTuple):
    """One backend that could take a part: when it could start, and how long it needs for how much work.

    ``slowdown`` is by what factor it takes longer beside the others than alone, which is what ``curve`` tells.
    """

    wait_seconds: float
    curve: Curve
    slowdown: float = 1.0

    def seconds(self, work: float) -> float:
        """Predicted seconds for this much work, once it has started."""
        return self.slowdown * self.curve.predict(work).seconds


class Sharing(NamedTuple):
    """Each member's share of the work (they sum to 1; 0: left out), and when all are done by prediction."""

    shares: tuple[float, ...]
    finish_seconds: float


def share(members: Sequence[Member], work: float) -> Sharing:
    """Shares with which the members finish ``work`` at one time, as early as can be. At least one member.

    Whoever would hardly bring the finish nearer is left out: what it costs to have one more is certain, the gain is not.
    """
    kept = list(range(len(members)))
    shares, finish = _finish_together(members, work)
    while len(kept) > 1:
        least = min(range(len(kept)), key=lambda place: shares[place])
        rest = [*kept[:least], *kept[least + 1 :]]
        fewer, later = _finish_together([members[index] for index in rest], work)
        if shares[least] > 0.0 and later > finish * (1.0 + _LEAST_GAIN):
            break
        kept, shares, finish = rest, fewer, later
    by_member = dict(zip(kept, shares, strict=True))
    return Sharing(tuple(by_member.get(index, 0.0) for index in range(len(members))), finish)


def cut(sharing: Sharing, overhead_seconds: float) -> tuple[float, ...]:
    """The shares of the chunks, in the order in which they are to be handed out; they sum to 1.

    The first chunks are one for each member that has a share, in the members' order; those that follow are for whoever is
    free. Each round is half as large as the one before. How many rounds there are depends on ``overhead_seconds``, which
    passes between two chunks of one member.
    """
    shares = [one for one in sharing.shares if one > 0.0]
    if len(shares) == 1:
        return (1.0,)
    rounds = 1
    # A member works through finish/2, finish/4 … and the last round is as long as the one before it.
    while rounds < _MOST_ROUNDS and _OVERHEAD_SHARE * sharing.finish_seconds / 2**rounds > overhead_seconds:
        rounds += 1
    sizes = [0.5**number for number in range(1, rounds)] + [0.5 ** (rounds - 1)]
    return tuple(size * one for size in sizes for one in shares)


def _finish_together(members: Sequence[Member], work: float) -> tuple[list[float], float]:
    """The earliest common finish of all members, and what each has done by then."""
    latest = min(one.wait_seconds + one.seconds(work) for one in members)
    early = min(one.wait_seconds for one in members)
    late = latest
    for _step in range(_FINISH_STEPS):
        middle = 0.5 * (early + late)
        if sum(_done(one, work, middle) for one in members) >= 1.0:
            late = middle
        else:
            early = middle
    done = [_done(one, work, late) for one in members]
    total = sum(done)
    if not total > 0.0:  # times that no clock resolves: the quickest takes it all
        quickest = min(
            range(len(members)), key=lambda place: members[place].wait_seconds + members[place].seconds(work)
        )
        return [float(place == quickest) for place in range(len(members))], latest
    return [one / total for one in done], late


def _done(member: Member, work: float, finish: float) -> float:
    """The share that the member has done by then, on a logarithmic scale of shares down to a negligible one."""
    seconds = finish - member.wait_seconds
    if seconds <= 0.0:
        return 0.0
    if member.seconds(work) <= seconds:
        return 1.0
    low, high = math.log(1e-3), 0.0
    if member.seconds(work * math.exp(low)) > seconds:
        return 0.0
    for _step in range(_SHARE_STEPS):
        middle = 0.5 * (low + high)
        if member.seconds(work * math.exp(middle)) <= seconds:
            low = middle
        else:
            high = middle
    return math.exp(low)
