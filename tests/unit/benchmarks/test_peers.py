"""The peers of a decision answer the question that routerd answers, or say why they cannot be asked."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

import pytest

from benchmarks.peers import Missing, Peer, agree, all_peers, missing, own, python_rules
from benchmarks.peers.question import DEVICES, Answer, Question, question_of, random_questions

QUESTIONS = random_questions(150, seed=7)


@pytest.fixture(scope="module")
def compiled() -> Peer:
    return own.peer()


@pytest.fixture(scope="module")
def asked() -> Iterator[list[Peer | Missing]]:
    with all_peers() as peers:
        yield peers


def test_the_rules_in_python_agree_with_the_policy(compiled: Peer) -> None:
    agree([Peer("python", python_rules.answer)], compiled.answer, QUESTIONS)


@pytest.mark.parametrize("name", ["Cedar", "Rego", "FastAPI"])
def test_a_peer_agrees_with_the_policy(name: str, asked: list[Peer | Missing], compiled: Peer) -> None:
    (peer,) = (one for one in asked if one.name.startswith(name))
    if isinstance(peer, Missing):
        pytest.skip(peer.reason)
    agree([peer], compiled.answer, QUESTIONS)
    assert peer.software


def test_the_questions_reach_every_answer(compiled: Peer) -> None:
    answers = {compiled.answer(question) for question in QUESTIONS}
    assert {answer.rule for answer in answers} == {"small-batch-inference", "batch-at-night", "large-data", "default"}
    assert {answer.allowed for answer in answers} == {frozenset(DEVICES), frozenset({"cpu"})}


def test_a_peer_that_answers_otherwise_is_not_measured(compiled: Peer) -> None:
    liar = Peer("liar", lambda question: Answer(frozenset(DEVICES), "default"))
    with pytest.raises(SystemExit, match="liar answers Question"):
        agree([liar], compiled.answer, QUESTIONS)


def test_a_peer_that_is_not_installed_is_missing_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_cedar(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in ("cedarpy", "fastapi", "regopy") else real(name, package)

    monkeypatch.setattr("benchmarks.peers.find_spec", without_cedar)
    assert missing("Cedar", "cedarpy", "json") == Missing(
        "Cedar", "cedarpy not installed; pip install 'routerd[peers]'"
    )
    assert missing("json", "json") is None
    with all_peers() as peers:
        assert [type(peer) for peer in peers] == [Missing, Missing, Missing]


def test_the_facts_of_a_task_are_a_question() -> None:
    facts = {
        "workload.name": "ml.model",
        "task.work": 262144.0,
        "task.batch": 16,
        "client.name": "batch-x",
        "client.uid": 7,
        "time.local": "22:30",
    }
    assert question_of(facts) == Question("ml.model", 262144, 16, "batch-x", 7, 1350)
    del facts["task.batch"]
    assert question_of(facts).batch is None
