"""References inside values: ``${FLAG:type=default}`` for an environment flag, ``$name`` for a parameter, ``$$`` for ``$``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from routerd.errors import suggest
from routerd.policy.facts import parse_bool, parse_number
from routerd.policy.source import Items, Node, Place, Problems, Text
from routerd.types import Scalar

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<flag>[^{}]*)\}|(?P<param>[A-Za-z_]\w*))?")
_FLAG = re.compile(r"(?P<name>\w+)(?::(?P<type>\w*))?(?:=(?P<default>.*))?")


def _parse_int(text: str) -> int:
    number = parse_number(text)
    if not isinstance(number, int):
        raise ValueError(f"{text!r} is not a whole number")
    return number


_TYPES: dict[str, Callable[[str], Scalar]] = {
    "int": _parse_int,
    "float": lambda text: float(parse_number(text)),
    "bool": parse_bool,
    "str": str,
}


class References:
    """Replaces references by what they stand for, and remembers which flags and parameters were used.

    A parameter that is itself wrong stays known, so that its uses are not reported as well. ``complete=False`` says
    that some file could not be read: an unknown parameter may be defined there.
    """

    def __init__(self, flags: Mapping[str, Scalar | None], problems: Problems) -> None:
        self.flags = flags
        self.problems = problems
        self.params: dict[str, Text | Items | None] = {}
        self.used_flags: dict[str, Scalar | None] = {}
        self.used_params: set[str] = set()
        self.complete = True

    def resolve(self, node: Node, *, with_params: bool = True) -> Node | None:
        """``node`` with its references replaced; ``None`` after a problem was added."""
        if not isinstance(node, Text) or "$" not in node.value:
            return node
        whole = _REFERENCE.fullmatch(node.value)
        if whole is not None and whole["param"] and with_params:
            target = self._param(whole["param"], node.place)
            return None if target is None else replace(target, place=node.place)
        pieces: list[str] = []
        end = 0
        for match in _REFERENCE.finditer(node.value):
            piece = self._piece(match, node.place, with_params=with_params)
            if piece is None:
                return None
            pieces += [node.value[end : match.start()], piece]
            end = match.end()
        return Text(node.place, "".join(pieces) + node.value[end:], quoted=True)

    def _piece(self, match: re.Match[str], place: Place, *, with_params: bool) -> str | None:
        if match["dollar"]:
            return "$"
        if match["flag"] is not None:
            return self._flag(match["flag"], place)
        if match["param"] is None:
            self.problems.add(
                place, "a $ must begin a reference ($name, ${FLAG:type=default}); write $$ for the sign itself"
            )
            return None
        if not with_params:
            self.problems.add(
                place, f"a parameter cannot refer to another one (${match['param']}); flags can be used here"
            )
            return None
        target = self._param(match["param"], place)
        if isinstance(target, Items):
            self.problems.add(place, f"${match['param']} is a list and cannot stand inside a text")
        return target.value if isinstance(target, Text) else None

    def _param(self, name: str, place: Place) -> Text | Items | None:
        if name in self.params:
            self.used_params.add(name)
            return self.params[name]
        if self.complete:
            self.problems.add(place, f"unknown parameter ${name}{suggest(name, self.params)}")
        return None

    def _flag(self, reference: str, place: Place) -> str | None:
        match = _FLAG.fullmatch(reference)
        if match is None:
            self.problems.add(place, f"${{{reference}}} is not a flag reference; write ${{FLAG:type=default}}")
            return None
        name, type_name, default = match["name"], match["type"], match["default"]
        if name not in self.flags:
            hint = f"; a parameter is written ${name}" if name in self.params else suggest(name, self.flags)
            self.problems.add(place, f"unknown flag {name}{hint}")
            return None
        if type_name is not None and type_name not in _TYPES:
            known = ", ".join(_TYPES)
            self.problems.add(
                place, f"unknown type {type_name!r} for flag {name}; use {known}{suggest(type_name, _TYPES)}"
            )
            return None
        value = self.flags[name]
        self.used_flags[name] = value
        if value is None and default is None:
            self.problems.add(
                place, f"flag {name} is not set and has no default; write ${{{name}:{type_name or 'type'}=default}}"
            )
            return None
        converted: str | None = None
        # The default is checked even while the flag is set, or its error would surface on the machine without the flag.
        for origin, given in (("default of flag", default), ("value of flag", value)):
            if given is None:
                continue
            try:
                converted = _text(given, type_name)
            except ValueError as error:
                self.problems.add(place, f"{origin} {name}: {error}")
                return None
        return converted


def _text(value: Scalar, type_name: str | None) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if type_name is None:
        return text
    typed = _TYPES[type_name](text)
    return str(typed).lower() if isinstance(typed, bool) else str(typed)
