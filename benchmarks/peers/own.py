"""The policy as routerd itself compiles it, asked in process: the same question without a daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.peers import Peer
from benchmarks.peers.question import DEVICES, Answer, Question
from routerd.interfaces import DEVICE_KINDS
from routerd.policy import Vocabulary, compile_policy, load_policy
from routerd.workloads import builtin_workloads

POLICY = Path(__file__).with_name("policy.yaml")


def peer() -> Peer:
    """What the other peers have to agree with."""
    workloads = builtin_workloads()
    vocabulary = Vocabulary(
        workloads=frozenset(workload.name for workload in workloads),
        families=frozenset(workload.family for workload in workloads),
        engines=frozenset(engine for workload in workloads for engine in workload.engines),
        backends=frozenset(),
        device_kinds=frozenset(DEVICE_KINDS),
    )
    compiled = compile_policy(load_policy([POLICY], vocabulary, {}), self_uid=os.getuid())

    def answer(question: Question) -> Answer:
        facts: dict[str, Any] = {
            "workload.name": question.workload,
            "task.work": question.work,
            "task.batch": question.batch,
            "client.name": question.client,
            "client.uid": question.uid,
            "time.local": f"{question.minute // 60:02d}:{question.minute % 60:02d}",
        }
        verdict = compiled.verdict(facts)
        allowed = [device for device in DEVICES if verdict.objection(f"{device}.any", device) is None]
        return Answer(frozenset(allowed), verdict.rule.partition(" ")[0])

    return Peer("routerd's compiled policy alone, in process", answer)
