"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

from routerd.types import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked. ``problem`` is empty where all is well; ``error`` is the measured relative error."""

    check: str
    workload: str = ""
    work: float | None = None
    error: float | None = None
    tolerance: float | None = None
    problem: str = ""

    def __str__(self) -> str:
        size = "" if self.work is None else f" at work {self.work:.3g}"
        measured = "" if self.error is None else f" (error {self.error:.2g}, tolerance {self.tolerance:.2g})"
        where = " ".join(filter(None, (self.check, self.workload))) + size
        return f"{'WRONG' if self.problem else 'ok   '}  {where}{measured}" + (
            f": {self.problem}" if self.problem else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about one backend or workload. ``unavailable`` is a backend's reason where it cannot be here."""

    subject: str
    findings: tuple[Finding, ...] = ()
    device: Device | None = None
    unavailable: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Every problem in one line; empty where the contract is kept."""
        return tuple(str(finding) for finding in self.findings if finding.problem)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong. A backend that is unavailable, and says why, is not wrong."""
        return not self.problems

    def raise_for_problems(self) -> None:
        """Raise ``AssertionError`` with every problem, where there is one."""
        if self.problems:
            raise AssertionError(f"{self.subject} breaks its contract:\n" + "\n".join(self.problems))

    def __str__(self) -> str:
        state = f"unavailable: {self.unavailable}" if self.unavailable else f"{len(self.problems)} problems"
        return "\n".join((f"{self.subject}: {state}", *map(str, self.findings)))
