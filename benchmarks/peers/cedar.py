"""Cedar, the policy language of Amazon Verified Permissions, by its Rust engine in this process (cedarpy)."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers import Missing, Peer, missing, versions
from benchmarks.peers.question import DEVICES, TRUSTED, Answer, Question

_NAME = "Cedar (cedarpy), in process"


def peer() -> Peer | Missing:
    """Policies and entities are parsed once; a question is one batch with a request for each device."""
    if (absent := missing(_NAME, "cedarpy")) is not None:
        return absent
    import cedarpy

    policies = cedarpy.PolicySet.from_str(Path(__file__).with_name("policy.cedar").read_text(encoding="utf-8"))
    entities = cedarpy.Entities.from_json_str(json.dumps([_trusted(uid) for uid in TRUSTED]))
    action = {"type": "Action", "id": "take"}
    devices = [{"type": "Device", "id": device} for device in DEVICES]

    def answer(question: Question) -> Answer:
        principal, context = {"type": "User", "id": str(question.uid)}, _context(question)
        requests = [
            {"principal": principal, "action": action, "resource": device, "context": context} for device in devices
        ]
        results = cedarpy.is_authorized_batch(requests, policies, entities)
        allowed = {device: one for device, one in zip(DEVICES, results, strict=True) if one.allowed}
        (rule,) = next(iter(allowed.values())).diagnostics.id_annotations_by_reason.values()
        return Answer(frozenset(allowed), rule)

    return Peer(_NAME, answer, versions("cedarpy"))


def _trusted(uid: int) -> dict[str, object]:
    group = {"type": "Group", "id": "trusted"}
    return {"uid": {"type": "User", "id": str(uid)}, "attrs": {}, "parents": [group]}


def _context(question: Question) -> str:
    """Encoded once rather than, by cedarpy, for every device."""
    context: dict[str, object] = {
        "workload": question.workload,
        "work": question.work,
        "client": question.client,
        "minute": question.minute,
    }
    if question.batch is not None:
        context["batch"] = question.batch
    return json.dumps(context)
