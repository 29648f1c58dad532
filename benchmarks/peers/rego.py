"""Rego, the policy language of Open Policy Agent, by the interpreter rego-cpp in this process (regopy)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import Missing, Peer, missing, versions
from benchmarks.peers.question import DEVICES, TRUSTED, Answer, Question

_NAME = "Rego (regopy), in process"
_ENTRY = "routing/answer"


def peer() -> Peer | Missing:
    """The policy is compiled once; a question sets the input and runs the compiled plan for all devices."""
    if (absent := missing(_NAME, "regopy")) is not None:
        return absent
    import regopy

    interpreter = regopy.Interpreter()
    interpreter.add_data({"devices": list(DEVICES), "trusted": sorted(TRUSTED)})
    interpreter.add_module("policy.rego", Path(__file__).with_name("policy.rego").read_text(encoding="utf-8"))
    bundle = interpreter.build(None, [_ENTRY])

    def answer(question: Question) -> Answer:
        values = {
            "workload": question.workload,
            "work": question.work,
            "client": question.client,
            "uid": question.uid,
            "minute": question.minute,
        }
        if question.batch is not None:
            values["batch"] = question.batch
        interpreter.set_input(values)
        found = interpreter.query_bundle_entrypoint(bundle, _ENTRY)[0][0]
        return Answer(frozenset(found["allowed"]), found["rule"])

    return Peer(_NAME, answer, versions("regopy"))
