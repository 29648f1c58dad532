"""How many requests to run as one, and how long to wait for more: from a cost curve and from how requests arrive.

A request of work ``w`` alone takes ``s(w)`` seconds, ``n`` of them joined take ``s(n·w)``. Where launching dominates, joined ones
are nearly free; where computing does, joining gains nothing and only makes the first wait for the last. While a worker is
busy, requests pile up by themselves, so waiting for more is a question for idle workers alone. Seconds throughout.
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from statistics import median
from typing import Final

from routerd.costs.curve import Curve

#: Most requests of one execution: as many as one message can carry descriptors for.
MOST_MEMBERS: Final = 64
#: Most bytes of one execution that joins several, beside what they share.
MOST_BYTES: Final = 64 << 20
#: Longest time that a request is held back for others to join it.
MOST_DELAY_SECONDS: Final = 5e-3
#: A request is held back for at most this share of what joining saves it.
DELAY_SHARE: Final = 0.5

_LEAST_GAIN = 0.05  # twice as many must make each cheaper by this share
_WINDOW = 9  # arrivals that an interval is the median of
_SILENCE = 2.0  # after a wait in vain, an interval is believed to be this many times as long as it
_KEPT_TIMES = 5  # of executions of one size, which its time is the median of
_SURE = 3  # executions of a size before it is judged: the first may pay for what is remembered later
_AGAIN = 32  # executions after which a size that did not pay is tried once more
_TRIALS = 4  # executions that tell whether requests can be joined at all
_RETRY = 16  # and of those that seem not to be, one in so many is tried again


class Batch:
    """Requests that are to run as one; it grows while that pays.

    Another is admitted as long as together they are within the size from which more makes nothing cheaper, within
    :data:`MOST_MEMBERS` and :data:`MOST_BYTES`, and done before the earliest deadline among them. Times are those of the caller's
    clock.
    """

    def __init__(
        self, curve: Curve, work: float, nbytes: int, ends_by: float | None = None, sizes: Sizes | None = None
    ) -> None:
        self.members = 1
        self.work = work
        self.seconds = curve.predict(work).seconds
        self._curve = curve
        self._sizes = sizes if sizes is not None and sizes.known else None
        self._most_work = best_members(curve, work, sizes=self._sizes) * work
        self._nbytes = nbytes
        self._ends_by = math.inf if ends_by is None else ends_by

    @property
    def full(self) -> bool:
        """Whether not even another like the average one fits."""
        return self.members >= MOST_MEMBERS or self.work + self.work / self.members > self._most_work * (1.0 + 1e-9)

    def admit(self, work: float, nbytes: int, ends_by: float | None, now: float) -> bool:
        """Take one more, if joining it pays and harms nobody; whether it was taken."""
        together = self.work + work
        if (
            self.members >= MOST_MEMBERS
            or self._nbytes + nbytes > MOST_BYTES
            or together > self._most_work * (1.0 + 1e-9)
        ):
            return False
        seconds = self._curve.predict(together).seconds
        if self._sizes is not None:
            seconds = max(seconds, self._sizes.seconds(self.members + 1))
        elif seconds > self.seconds + self._curve.predict(work).seconds:
            return False  # apart they would be done earlier
        earliest = self._ends_by if ends_by is None else min(self._ends_by, ends_by)
        if now + seconds > earliest:
            return False
        self.members += 1
        self.work, self.seconds, self._ends_by = together, seconds, earliest
        self._nbytes += nbytes
        return True


def best_members(curve: Curve, work: float, most: int = MOST_MEMBERS, *, sizes: Sizes | None = None) -> int:
    """How many requests of this work to join at most: 1, or a power of two up to ``most``.

    They are doubled as long as each becomes noticeably cheaper, and as long as all of them on average are answered no later
    than one after another: (s(w) + 2·s(w) + … + n·s(w))/n = s(w)·(n + 1)/2 ≥ s(n·w). Nothing is believed of sizes far beyond
    those that were timed. What was seen of requests of the very kind (``sizes``) is believed instead of the curve, whose
    examples may be of another shape: the weights of a wide network take longer to read than its one row to compute.
    """
    likely = _likely_members(curve, work, most)
    return likely if sizes is None or not sizes.known else sizes.best(most, likely)


@lru_cache(maxsize=1024)  # asked of every task, and the same for most
def _likely_members(curve: Curve, work: float, most: int) -> int:
    """The best number as the curve has it."""
    alone = curve.predict(work).seconds
    members, seconds = 1, alone
    while 2 * members <= most:
        twice = 2 * members
        if curve.timed and math.log(twice * work) > curve.knots[-1].log_work + math.log(2.0):
            break
        longer = curve.predict(twice * work).seconds
        if longer > 2.0 * (1.0 - _LEAST_GAIN) * seconds or longer > 0.5 * alone * (twice + 1):
            break
        members, seconds = twice, longer
    return members


def delay_seconds(curve: Curve, work: float, members: int, interval_seconds: float) -> float:
    """How long ``members`` requests of this work are worth holding back on an idle worker; 0: not at all.

    It is the time in which as many more are expected as :func:`best_members` likes, or fewer, as long as that time is at most
    :data:`DELAY_SHARE` of what their company then saves each, and :data:`MOST_DELAY_SECONDS`.
    """
    each = curve.predict(members * work).seconds / members
    more = best_members(curve, work) - members
    while more >= 1:
        wait = more * interval_seconds
        saved = each - curve.predict((members + more) * work).seconds / (members + more)
        if wait <= min(DELAY_SHARE * saved, MOST_DELAY_SECONDS):
            return wait
        more //= 2
    return 0.0


class Sizes:
    """What executions of one kind of request took, by how many were joined, in classes of powers of two."""

    def __init__(self) -> None:
        self._each: dict[int, deque[float]] = {}
        self._refused = 0

    @property
    def known(self) -> bool:
        """Whether one was seen alone, which the others are measured by."""
        return 1 in self._each

    def note(self, members: int, seconds: float) -> None:
        """``members`` requests took ``seconds`` together."""
        size = 1 << (members.bit_length() - 1)
        self._each.setdefault(size, deque(maxlen=_KEPT_TIMES)).append(seconds / members)

    def seconds(self, members: int) -> float:
        """What so many together took, going by the nearest smaller class that was seen."""
        size = 1 << (members.bit_length() - 1)
        while size not in self._each and size > 1:
            size //= 2
        return median(self._each[size]) * size if size in self._each else 0.0

    def best(self, most: int, likely: int) -> int:
        """As :func:`best_members`. A class that was not seen yet is tried when the one before it has paid, and as many as are
        ``likely`` to be best where that is more."""
        members = 1
        while 2 * members <= most:
            twice = 2 * members
            if len(self._each.get(twice, ())) < _SURE or members not in self._each:
                return max(twice, likely)
            each = median(self._each[twice])
            falls = each <= (1.0 - _LEAST_GAIN) * median(self._each[members])
            if not falls or twice * each > 0.5 * median(self._each[1]) * (twice + 1):
                self._refused += 1
                if self._refused % _AGAIN == 0:  # it may have been another's fault
                    self._each[twice].popleft()
                    return twice
                return members
            members = twice
        return members


class Arrivals:
    """How requests of one kind come, and whether they can be joined. Times are those of the caller's clock.

    Only what follows a request of *another* client counts: who waits for an answer sends nothing meanwhile, so one client's
    own pace says nothing about company.
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._intervals: deque[float] = deque(maxlen=_WINDOW)
        self._yields: deque[float] = deque(maxlen=_TRIALS)
        self._passed = 0

    def note(self, client: int, now: float) -> None:
        """A request has come."""
        if self._last is not None and self._last[0] != client:
            self._intervals.append(max(now - self._last[1], 0.0))
        self._last = (client, now)

    def waited(self, seconds: float) -> None:
        """A request was held back for so long, and nobody came."""
        self._intervals.append(_SILENCE * max(seconds, self.interval_seconds()))

    def interval_seconds(self) -> float:
        """Seconds until the next request of somebody else: infinite while nobody else has come."""
        return median(self._intervals) if self._intervals else math.inf

    def joined(self, members: int, executions: int) -> None:
        """So many executions have come of a job of ``members`` requests, which their content may keep apart."""
        if members > 1:
            self._yields.append((members - executions) / (members - 1))

    def joinable(self) -> bool:
        """Whether to try: not, mostly, where the latest tries have joined little, as with weights that differ."""
        if len(self._yields) < _TRIALS or sum(self._yields) >= 0.5 * _TRIALS:
            return True
        self._passed += 1
        return self._passed % _RETRY == 0
