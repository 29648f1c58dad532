"""``docs/policies.md`` says what is true: it names everything, its examples load, and its mistakes are reported so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from routerd.errors import InvalidPolicy
from routerd.policy import FACTS, Vocabulary, load_policy
from routerd.policy.facts import OPERATORS, UNITS
from routerd.policy.model import FALLBACK_CAUSES, OBJECTIVES, REDACTABLE
from routerd.policy.sections import CONSTRAINT_KEYS, RULE_KEYS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
WHOLE = [body for language, body in BLOCKS if language == "yaml" and body.startswith("apiVersion:")]
PARTS = [body for language, body in BLOCKS if language == "yaml" and not body.startswith("apiVersion:")]
#: A policy that is followed by a block of messages is one that must fail with them.
MISTAKES = {
    body: BLOCKS[index + 1][1]
    for index, (_, body) in enumerate(BLOCKS[:-1])
    if body in WHOLE and BLOCKS[index + 1][1].startswith("policy.yaml:")
}
HEAD = "apiVersion: routerd/v1\nkind: Policy\n"


def test_there_are_examples_of_each_kind() -> None:
    assert len(WHOLE) - len(MISTAKES) >= 2
    assert MISTAKES
    assert PARTS


@pytest.mark.parametrize(
    "example", [*(body for body in WHOLE if body not in MISTAKES), *(HEAD + part for part in PARTS)]
)
def test_examples_load_without_warnings(
    tmp_path: Path, vocabulary: Vocabulary, flags: Mapping[str, Any], example: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(example, encoding="utf-8")
    assert load_policy([path], vocabulary, flags).warnings == ()


@pytest.mark.parametrize(("example", "messages"), MISTAKES.items())
def test_mistakes_are_reported_as_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: Vocabulary,
    flags: Mapping[str, Any],
    example: str,
    messages: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(example, encoding="utf-8")
    with pytest.raises(InvalidPolicy) as caught:
        load_policy([Path("policy.yaml")], vocabulary, flags)
    assert caught.value.message == messages.rstrip("\n")


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            *FACTS,
            *(operator for operators in OPERATORS.values() for operator in operators if operator != "is"),
            *(unit for units in UNITS.values() for unit in units),
            *CONSTRAINT_KEYS,
            *RULE_KEYS,
            *FALLBACK_CAUSES,
            *OBJECTIVES,
            *REDACTABLE,
            *("max_attempts", "max_queue_ms", "max_in_flight_per_client", "decisions", "redact"),
        }
    ),
)
def test_every_word_of_the_language_is_explained(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_the_table_of_facts_is_complete_and_has_the_same_words() -> None:
    for name, fact in FACTS.items():
        assert re.search(rf"^\| `{re.escape(name)}` \| {fact.type}[^|]*\| {re.escape(fact.doc)}", TEXT, re.MULTILINE), (
            name
        )


@pytest.mark.parametrize("command", ["check", "show", "eval", "explain", "apply"])
def test_every_command_is_explained(command: str) -> None:
    assert f"`routerctl policy {command}" in TEXT
