"""A circuit breaker: what has failed several times in a row is left alone for a while, then tried with care.

closed → (failures in a row) → open → (its time is over) → half-open, in which one probe decides → closed, or open for
twice as long (Nygard 2007, "Release It!").
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

#: Failures in a row that open a breaker.
FAILURES: Final = 3
#: Seconds that a breaker stays open at first, and at most.
OPEN_SECONDS: Final = (2.0, 300.0)

State: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """Guards one backend on one workload. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.reason = ""
        self.due_at = 0.0
        self._failures = 0
        self._open_seconds = OPEN_SECONDS[0]

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    def failed(self, reason: str, now: float) -> bool:
        """A task failed, or the probe did. Whether the breaker has opened by it."""
        self._failures += 1
        if self.state == "open" or (self.state == "closed" and self._failures < FAILURES):
            return False
        if self.state == "half_open":
            self._open_seconds = min(2.0 * self._open_seconds, OPEN_SECONDS[1])
        self.state, self.reason, self.due_at = "open", reason, now + self._open_seconds
        return True

    def succeeded(self) -> None:
        """A task succeeded; one that was on its way when the breaker opened changes nothing."""
        if self.state == "closed":
            self._failures = 0
            self._open_seconds = OPEN_SECONDS[0]

    def forgive(self) -> None:
        """What failed was the task's fault."""
        if self.state == "closed":
            self._failures = 0

    def is_due(self, now: float) -> bool:
        """Whether it is time for a probe."""
        return self.state == "open" and now >= self.due_at

    def probe(self) -> None:
        """A probe begins; :meth:`close` or :meth:`failed` ends it."""
        self.state = "half_open"

    def close(self) -> None:
        """The probe succeeded. The next opening counts from there, and is no shorter until a task has succeeded."""
        self.state, self.reason, self._failures = "closed", "", 0

    def postpone(self, now: float) -> None:
        """The probe could not be made; the next may be at once."""
        self.state, self.due_at = "open", now

    def objection(self) -> str | None:
        """Why no task is taken, or ``None``."""
        if self.state == "closed":
            return None
        doing = "being probed" if self.state == "half_open" else f"to be probed after {self._open_seconds:g} s"
        return f"breaker open, {doing}: {FAILURES} failures in a row, the last: {self.reason}"
