"""Reading fields out of a tree: every method returns the value, or ``None`` after adding a problem with its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from routerd.errors import suggest
from routerd.policy.facts import Vocabulary, parse_number
from routerd.policy.references import References
from routerd.policy.source import Items, Node, Place, Problems, Table, Text
from routerd.types import Scalar

_BACKEND = re.compile(r"[A-Za-z]\w*\.\w+")


class Checker:
    """What all sections share: the names that exist, the references, and the problems found so far."""

    def __init__(self, vocabulary: Vocabulary, flags: Mapping[str, Scalar | None]) -> None:
        self.vocabulary = vocabulary
        self.flags = flags
        self.problems = Problems()
        self.warnings = Problems()
        self.references = References(flags, self.problems)

    def table(self, node: Node, what: str) -> Table | None:
        """A mapping."""
        if isinstance(node, Table):
            return node
        self.problems.add(node.place, f"{what} must be a mapping, not {kind_of(node)}")
        return None

    def items(self, node: Node, what: str) -> tuple[Node, ...] | None:
        """The members of a list; a list parameter may stand for it."""
        resolved = self.references.resolve(node)
        if isinstance(resolved, Items):
            return resolved.nodes
        if resolved is not None:
            self.problems.add(node.place, f"{what} must be a list, not {kind_of(resolved)}")
        return None

    def known_keys(self, table: Table, known: Collection[str], what: str) -> None:
        """Report every key that ``what`` does not have."""
        for key, entry in table.entries.items():
            if key not in known:
                hint = suggest(key, known) or f"; it has {', '.join(known)}"
                self.problems.add(entry.key_place, f"{what} has no key {key}{hint}")

    def text(self, node: Node, what: str) -> Text | None:
        """A scalar that is not null, references replaced."""
        resolved = self.references.resolve(node)
        if resolved is None:
            return None
        if not isinstance(resolved, Text):
            self.problems.add(node.place, f"{what} must be a single value, not {kind_of(resolved)}")
            return None
        if resolved.is_null:
            self.problems.add(node.place, f"{what} has no value")
            return None
        return resolved

    def choice(self, node: Node, known: Collection[str], what: str) -> str | None:
        """One of a few words."""
        text = self.text(node, what)
        if text is None:
            return None
        if text.value not in known:
            self.problems.add(
                text.place, f"{what} must be one of {', '.join(known)}, not {text.value}{suggest(text.value, known)}"
            )
            return None
        return text.value

    def choices(self, node: Node, known: Collection[str], what: str) -> tuple[str, ...]:
        """A list of some of a few words, none twice."""
        found = [self.choice(item, known, f"each of {what}") for item in self.items(node, what) or ()]
        names = [name for name in found if name is not None]
        if len(set(names)) < len(names):
            self.problems.add(node.place, f"{what} names something twice")
        return tuple(dict.fromkeys(names))

    def number(
        self, node: Node, what: str, *, minimum: float, maximum: float, unit: str = "", whole: bool = False
    ) -> int | float | None:
        """A number within bounds (both inclusive)."""
        text = self.text(node, what)
        if text is None:
            return None
        try:
            value = parse_number(text.value, unit)
        except ValueError as error:
            self.problems.add(text.place, f"{what}: {error}")
            return None
        if whole and not isinstance(value, int):
            self.problems.add(text.place, f"{what} must be a whole number, not {text.value}")
            return None
        if not minimum <= value <= maximum:
            self.problems.add(text.place, f"{what} must be between {minimum:g} and {maximum:g}, not {text.value}")
            return None
        return value

    def targets(self, node: Node, what: str) -> tuple[str, ...]:
        """A list of device kinds and backends, in order, none twice and not empty."""
        names: list[str] = []
        members = self.items(node, what)
        for item in members or ():
            text = self.text(item, f"each of {what}")
            if text is None or not self._is_target(text):
                continue
            if text.value in names:
                self.problems.add(item.place, f"{what} names {text.value} twice")
            names.append(text.value)
        if members == ():
            self.problems.add(
                node.place, f"{what} is an empty list; name device kinds or backends, or leave {what} out"
            )
        return tuple(names)

    def workload_name(self, fact: str, value: str, place: Place) -> None:
        """Check a value of ``workload.*`` against the catalogue: an unknown name is an error, an idle glob a warning."""
        known = self.vocabulary.names_for(fact)
        if known is None:
            return
        kind = fact.split(".")[1].replace("name", "workload")
        if is_glob(value):
            if not any(glob_regex(value).match(name) for name in known):
                self.warnings.add(place, f"{value} matches no {kind} that exists here")
        elif value not in known:
            self.problems.add(place, f"unknown {kind} {value}{suggest(value, known)}")

    def _is_target(self, text: Text) -> bool:
        name, vocabulary = text.value, self.vocabulary
        if name in vocabulary.device_kinds or name in vocabulary.backends:
            return True
        if not vocabulary.backends and _BACKEND.fullmatch(name):
            return True
        kind = "backend" if "." in name else "device"
        hint = suggest(name, vocabulary.device_kinds | vocabulary.backends)
        self.problems.add(text.place, f"unknown {kind} {name}{hint}")
        return False


def kind_of(node: Node) -> str:
    """What a node is, for messages."""
    if isinstance(node, Text):
        return "empty" if node.is_null else f"the value {node.value!r}" if len(node.value) <= 40 else "a long text"
    return "a list" if isinstance(node, Items) else "a mapping"


def is_glob(value: str) -> bool:
    """Whether ``value`` is a pattern rather than a name."""
    return any(mark in value for mark in "*?[")


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob (``*``, ``?``, ``[…]``) as a regular expression for the whole name; case counts."""
    from fnmatch import translate

    return re.compile(translate(pattern))
