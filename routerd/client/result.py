"""What ``run`` gives to a user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from routerd.types import Decision, Placed, Result, Timing


class TaskResult(Mapping[str, Any]):
    """The outputs of a task by name, and how they came about.

    Arrays are read-only views of the memory that the worker wrote; ``.copy()`` one to change it. Outputs of shape
    ``()`` are plain numbers. ``requested`` is what the policy's rule names (empty for an objective), ``planned`` where the task
    was sent, ``ran_on`` where the outputs are from.
    """

    __slots__ = ("_outputs", "decision", "fallback_reason", "planned", "ran_on", "requested", "timing")

    def __init__(self, result: Result, outputs: dict[str, Any]) -> None:
        self._outputs = outputs
        self.decision: Decision = result.decision
        self.planned: Placed = result.planned
        self.ran_on: Placed = result.ran_on
        self.requested: tuple[str, ...] = result.requested
        self.timing: Timing = result.timing
        self.fallback_reason: str | None = result.fallback_reason

    def __getitem__(self, name: str) -> Any:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        return f"TaskResult({', '.join(self._outputs)}; ran on {self.ran_on.backend})"
