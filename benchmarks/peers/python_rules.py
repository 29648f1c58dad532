"""The policy as somebody would write it into their own code: what the FastAPI route calls, and the least it can cost."""

from __future__ import annotations

from benchmarks.peers.question import DEVICES, TRUSTED, Answer, Question

_ALL, _CPU = frozenset(DEVICES), frozenset({"cpu"})


def answer(question: Question) -> Answer:
    """``policy.yaml`` as conditions in Python."""
    return Answer(_ALL if question.uid in TRUSTED else _CPU, _rule(question))


def _rule(question: Question) -> str:
    if question.workload.startswith("ml.") and question.batch is not None and question.batch <= 4096:
        return "small-batch-inference"
    if question.client.startswith("batch-") and (question.minute >= 22 * 60 or question.minute < 6 * 60):
        return "batch-at-night"
    return "large-data" if question.work >= 1_000_000 else "default"
