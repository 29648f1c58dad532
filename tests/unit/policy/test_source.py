"""Files that are not even YAML of the bounded kind, and where it is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from routerd.policy import source
from routerd.policy.source import Items, Problems, Table, Text, read_document


def read(path: Path, content: bytes | str) -> tuple[Table | None, list[str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems = Problems()
    return read_document(path, problems), [str(problem).removeprefix(f"{path}:") for problem in problems.found]


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to write; every test runs with PyYAML's C parser and with the pure one that stands in for it."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML is built without libyaml")
    monkeypatch.setattr(source, "_Loader", getattr(yaml, request.param))
    return tmp_path / "policy.yaml"


def test_positions_count_from_one_and_in_characters(path: Path) -> None:
    table, problems = read(path, "a: 1\nb:\n  - ü: [x, 'y']\n")
    assert table is not None and problems == []
    entry = table.entries["b"]
    assert (entry.key_place.line, entry.key_place.column) == (2, 1)
    assert isinstance(entry.value, Items)
    inner = entry.value.nodes[0]
    assert isinstance(inner, Table)
    items = inner.entries["ü"].value
    assert isinstance(items, Items)
    assert [(node.place.line, node.place.column) for node in items.nodes] == [(3, 9), (3, 12)]


def test_values_stay_text(path: Path) -> None:
    table, _ = read(path, "on: off\nat: 22:00\nnothing: ~\nempty: ''\n")
    assert table is not None
    texts = {key: entry.value for key, entry in table.entries.items()}
    assert all(isinstance(text, Text) for text in texts.values())
    assert {key: text.value for key, text in texts.items()} == {"on": "off", "at": "22:00", "nothing": "~", "empty": ""}  # type: ignore[union-attr]
    assert [key for key, text in texts.items() if text.is_null] == ["nothing"]  # type: ignore[union-attr]


def test_a_byte_order_mark_is_no_content(path: Path) -> None:
    table, problems = read(path, b"\xef\xbb\xbfa: 1\n")
    assert problems == []
    assert table is not None and table.entries["a"].key_place.column == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1: the key a is given twice (first on line 1)"),
        ("a: {x: 1, x: 2}\n", "1:11: the key x is given twice (first on line 1)"),
        ("a: &x 1\n", "1:4: anchors and aliases are not supported; name the value under params and write $name"),
        ("a: !!python/object:os.system 1\n", "1:4: the tag tag:yaml.org,2002:python/object:os.system is not supported; write the plain value"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document starts here; a policy file holds one"),
        ("[a]: 1\n", "1:1: a key must be a plain name"),
        ("- a\n", "1:1: a policy file must be a mapping that starts with 'apiVersion: routerd/v1'"),
        ("just words\n", "1:1: a policy file must be a mapping that starts with 'apiVersion: routerd/v1'"),
        ("", "1:1: the file is empty; a policy starts with 'apiVersion: routerd/v1' and 'kind: Policy'"),
        ("# only a comment\n", "1:1: the file is empty; a policy starts with 'apiVersion: routerd/v1' and 'kind: Policy'"),
        ("a: b\x07\n", "1:5: the character U+0007 is not allowed in YAML"),
        (b"a: 1\nb\xc3\xa9: \xff\n", "2:5: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "1:1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("[" * 200_000, "1:17: nested deeper than 16 levels"),
        ("a: " + "x" * 1001, "1:4: a value of more than 1000 characters, the limit in a policy file"),
        ("a: [" + "1," * 30_000 + "]", "1:39999: more than 20000 values, the limit for a policy file"),
        ("#" * (256 * 1024 + 1), "1:1: larger than 256 KiB, the limit for a policy file; split it into several files"),
    ],
)  # fmt: skip
def test_refused_content(path: Path, content: bytes | str, expected: str) -> None:
    table, problems = read(path, content)
    assert table is None
    assert problems == [expected]


def test_aliases_cannot_multiply(path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    table, problems = read(path, "\n".join(lines))
    assert table is None
    assert problems[0].startswith("1:5: anchors and aliases are not supported")


@pytest.mark.parametrize(
    ("content", "place"),
    [("a: [1, 2\nb: 3\n", "2:2"), ("a: 'open\n", "2:1"), ("a: 1\n b: 2\n", "2:3"), ("\ta: 1\n", "1:1")],
)
def test_syntax_errors_say_where(path: Path, content: str, place: str) -> None:
    table, problems = read(path, content)
    assert table is None
    assert len(problems) == 1
    assert problems[0].startswith(f"{place}: not valid YAML: ")


def test_an_unquoted_flag_inside_braces_gets_a_hint(path: Path) -> None:
    _, problems = read(path, "a: {gte: ${X:int=1}}\n")
    assert problems[0].endswith("; inside {…} or […] a ${…} must stand in quotes")


def test_all_structural_problems_of_a_file_are_told(path: Path) -> None:
    _, problems = read(path, "a: &x 1\nb: 1\nb: 2\nc: !t 3\n")
    assert [problem.split(":")[0] for problem in problems] == ["1", "3", "4"]


def test_a_missing_file(tmp_path: Path) -> None:
    problems = Problems()
    assert read_document(tmp_path / "none.yaml", problems) is None
    assert problems.found[0].message == "no such file"


def test_a_pipe_is_refused_instead_of_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    problems = Problems()
    assert read_document(tmp_path / "pipe.yaml", problems) is None
    assert problems.found[0].message == "not a regular file"


def test_an_unreadable_path_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    problems = Problems()
    assert read_document(tmp_path / "file" / "below.yaml", problems) is None
    assert problems.found[0].message == "cannot be read: Not a directory"
