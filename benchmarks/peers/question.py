"""What the peers are asked, and what they answer."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

DEVICES = ("cpu", "metal_gpu", "neural_engine", "cuda_gpu")
#: The users whom the policy calls self and root.
TRUSTED = frozenset({0, os.getuid()})

_WORKLOADS = ("linalg.gemm", "ml.mlp_inference", "ml.model", "risk.var_historical", "options.monte_carlo_european")
_CLIENTS = ("benchmark", "batch-risk", "batch", "notebook")
_BATCHES = (None, 1, 512, 4096, 4097, 100_000)
_WORKS = (1, 262_144, 999_999, 1_000_000, 10**9)
_MINUTES = (0, 359, 360, 720, 1319, 1320, 1439)


@dataclass(frozen=True)
class Question:
    """The facts of one task that the policy looks at. ``minute`` counts from midnight, local time."""

    workload: str
    work: int
    batch: int | None
    client: str
    uid: int
    minute: int


class Answer(NamedTuple):
    """The devices of ``DEVICES`` that may take the task, and the id of the rule that ranks them."""

    allowed: frozenset[str]
    rule: str


def random_questions(count: int, seed: int) -> list[Question]:
    """Questions on both sides of everything that the policy tests, and at its bounds."""
    draw = random.Random(seed).choice
    users = (*TRUSTED, max(TRUSTED) + 1)
    return [
        Question(draw(_WORKLOADS), draw(_WORKS), draw(_BATCHES), draw(_CLIENTS), draw(users), draw(_MINUTES))
        for _ in range(count)
    ]


def question_of(facts: Mapping[str, Any]) -> Question:
    """The same question as the facts that the daemon gathered for a task."""
    hours, minutes = facts["time.local"].split(":")
    return Question(
        workload=facts["workload.name"],
        work=int(facts["task.work"]),
        batch=facts.get("task.batch"),
        client=facts["client.name"],
        uid=facts["client.uid"],
        minute=60 * int(hours) + int(minutes),
    )
