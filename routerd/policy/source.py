"""YAML files as trees that remember where every value stands.

The trees are built from parser events, so nothing in a file is ever constructed as an object and every bound
(size, nesting, number of values) holds while reading. Values stay text: what a text means depends on where it is used,
which also keeps ``on`` and ``22:00`` from becoming a boolean and a number as YAML 1.1 would have it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import msgspec
import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_VALUES = 20_000
MAX_TEXT = 1000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A position in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    @property
    def short(self) -> str:
        """File name and line, as decisions quote it."""
        return f"{PurePath(self.file).name}:{self.line}"


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong, and where."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class Problems:
    """Collects problems, so that one check reports all of them."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, place: Place, message: str) -> None:
        """Keep one problem; a repeated one is kept once."""
        problem = Problem(place.file, place.line, place.column, message)
        if problem not in self.found:
            self.found.append(problem)


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar as it is written; ``quoted`` tells ``""`` from nothing at all."""

    place: Place
    value: str
    quoted: bool = False

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.value in _NULLS


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    place: Place
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a mapping, with the place of its key."""

    key_place: Place
    value: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping; keys are text."""

    place: Place
    entries: dict[str, Entry]


Node: TypeAlias = Text | Items | Table


@dataclass(slots=True)
class _Open:
    """A sequence or mapping whose end has not been read yet."""

    place: Place
    is_table: bool
    nodes: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    key: Text | None = None


def read_document(path: Path, problems: Problems) -> Table | None:
    """The mapping in a YAML file, or ``None`` after adding what is wrong with the file to ``problems``."""
    start = Place(str(path), 1, 1)
    content = _read_text(path, start, problems)
    if content is None:
        return None
    before = len(problems.found)
    try:
        root = _build(content, str(path), problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = start if mark is None else Place(str(path), mark.line + 1, mark.column + 1)
        problems.add(place, f"not valid YAML: {error.problem or error.context}{_syntax_hint(content, place)}")
        return None
    except yaml.YAMLError as error:
        problems.add(start, f"not valid YAML: {error}")
        return None
    if len(problems.found) > before:
        return None
    if root is None or (isinstance(root, Text) and root.is_null):
        problems.add(start, "the file is empty; a policy starts with 'apiVersion: routerd/v1' and 'kind: Policy'")
        return None
    if not isinstance(root, Table):
        problems.add(root.place, "a policy file must be a mapping that starts with 'apiVersion: routerd/v1'")
        return None
    return root


def _read_text(path: Path, start: Place, problems: Problems) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or device would block or never end
            problems.add(start, "not a regular file")
            return None
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problems.add(start, "no such file")
        return None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        problems.add(start, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    if len(raw) > MAX_BYTES:
        problems.add(
            start, f"larger than {MAX_BYTES // 1024} KiB, the limit for a policy file; split it into several files"
        )
        return None
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        readable = error.object[: error.start].decode("utf-8", errors="replace")
        problems.add(
            _place_after(start.file, readable), f"not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        )
        return None
    unprintable = _UNPRINTABLE.search(content)
    if unprintable is not None:
        place = _place_after(start.file, content[: unprintable.start()])
        problems.add(place, f"the character U+{ord(unprintable.group()):04X} is not allowed in YAML")
        return None
    return content


def _place_after(file: str, content: str) -> Place:
    return Place(file, content.count("\n") + 1, len(content) - (content.rfind("\n") + 1) + 1)


def _syntax_hint(content: str, place: Place) -> str:
    lines = content.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "${" in line:
        return "; inside {…} or […] a ${…} must stand in quotes"
    return ""


def _build(content: str, file: str, problems: Problems) -> Node | None:
    """The tree of the only document. Reading stops at the first bound that is passed."""
    root: Node | None = None
    stack: list[_Open] = []
    values = 0
    for event in _events(content):
        place = Place(file, event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            problems.add(place, "a second document starts here; a policy file holds one")
            return None
        if not isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            continue
        values += 1
        if values > MAX_VALUES:
            problems.add(place, f"more than {MAX_VALUES} values, the limit for a policy file")
            return None
        finished: Node
        if isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            finished = (
                Table(closed.place, closed.entries) if closed.is_table else Items(closed.place, tuple(closed.nodes))
            )
        else:
            _refuse_extras(event, place, problems)
            if isinstance(event, yaml.CollectionStartEvent):
                if len(stack) >= MAX_DEPTH:
                    problems.add(place, f"nested deeper than {MAX_DEPTH} levels")
                    return None
                stack.append(_Open(place, isinstance(event, yaml.MappingStartEvent)))
                continue
            if isinstance(event, yaml.ScalarEvent):
                if len(event.value) > MAX_TEXT:
                    problems.add(place, f"a value of more than {MAX_TEXT} characters, the limit in a policy file")
                    return None
                finished = Text(place, event.value, quoted=event.style in ("'", '"', "|", ">"))
            else:  # an alias, already reported
                finished = Text(place, "", quoted=True)
        if stack:
            _attach(stack[-1], finished, problems)
        else:
            root = finished
    return root


def _events(content: str) -> Iterator[Any]:
    loader = _Loader(content)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _refuse_extras(event: Any, place: Place, problems: Problems) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        problems.add(place, "anchors and aliases are not supported; name the value under params and write $name")
    if getattr(event, "tag", None) is not None:
        problems.add(place, f"the tag {event.tag} is not supported; write the plain value")


def _attach(parent: _Open, node: Node, problems: Problems) -> None:
    if not parent.is_table:
        parent.nodes.append(node)
    elif parent.key is None:
        if not isinstance(node, Text):
            problems.add(node.place, "a key must be a plain name")
            node = Text(node.place, f"<{node.place.line}:{node.place.column}>", quoted=True)
        parent.key = node
    else:
        key, parent.key = parent.key, None
        first = parent.entries.get(key.value)
        if first is not None:
            problems.add(key.place, f"the key {key.value} is given twice (first on line {first.key_place.line})")
        else:
            parent.entries[key.value] = Entry(key.place, node)
