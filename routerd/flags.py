"""The environment flags as given: read, typed, implied by their masters, and reported without pretence."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from routerd.errors import InvalidFlag, suggest
from routerd.flag_table import BY_NAME, FLAGS, PRIORITIES, Flag, FlagType
from routerd.types import Scalar

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})

#: Source of a value that was neither given nor implied.
DEFAULT: Final = "default"
_ENVIRONMENT: Final = "environment"


class FlagState(Struct, frozen=True):
    """One flag as it stands here.

    ``source`` is ``default``, ``environment`` or ``implied by <MASTER>``. ``state`` is ``active`` where setting the flag
    makes a difference, else ``inert`` with the ``reason``.
    """

    name: str
    group: str
    type: FlagType
    value: Scalar
    default: Scalar
    source: str
    effect: str
    owner: str
    state: Literal["active", "inert"]
    reason: str


class Flags:
    """The value of every flag, frozen at start. Make it with :func:`load_flags`."""

    def __init__(self, given: Mapping[str, Scalar]) -> None:
        self._given = dict(given)
        self._sources = dict.fromkeys(given, _ENVIRONMENT)
        self._values: dict[str, Scalar] = {flag.name: flag.default for flag in FLAGS} | self._given
        for flag in FLAGS:
            if self._given.get(flag.name) is True:
                self._imply(flag, flag.name)

    def _imply(self, master: Flag, origin: str) -> None:
        for name in master.sets:
            if name not in self._given:
                self._values[name] = True
                self._sources.setdefault(name, f"implied by {origin}")
                self._imply(BY_NAME[name], origin)

    def __getitem__(self, name: str) -> Any:
        """The typed value. Raises ``KeyError`` for a name that is no flag."""
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"no flag {name}{suggest(name, BY_NAME)}") from None

    def as_mapping(self) -> dict[str, Scalar | None]:
        """Every flag with its value where it was given or implied, and ``None`` where nobody set it.

        That is how policies see flags, so that ``${FLAG:int=5}`` can bring its own default.
        """
        return {name: value if name in self._sources else None for name, value in self._values.items()}

    def source(self, name: str) -> str:
        """Where the value comes from: ``default``, ``environment`` or ``implied by <MASTER>``."""
        return self._sources.get(name, DEFAULT)

    def report(self, devices: Collection[str]) -> tuple[FlagState, ...]:
        """Every flag in the table's order, given the device kinds that were found on this machine."""
        return tuple(self._state(flag, devices) for flag in FLAGS)

    def _state(self, flag: Flag, devices: Collection[str]) -> FlagState:
        value = self._values[flag.name]
        reason = why_inert(flag, value, devices)
        return FlagState(
            name=flag.name,
            group=flag.group,
            type=flag.type,
            value=value,
            default=flag.default,
            source=self.source(flag.name),
            effect=flag.effect,
            owner=flag.owner,
            state="inert" if reason else "active",
            reason=reason,
        )


def load_flags(environ: Mapping[str, str] = os.environ) -> Flags:
    """Read every flag. Raises ``InvalidFlag`` that names all bad values at once, one line each."""
    given: dict[str, Scalar] = {}
    bad: dict[str, str] = {}
    for flag in FLAGS:
        text = environ.get(flag.name, "").strip()
        if not text:
            continue
        value = _parse(flag, text)
        if value is None:
            bad[flag.name] = f"{flag.name}={text}: must be {flag.accepted}"
        else:
            given[flag.name] = value
    if bad:
        raise InvalidFlag("\n".join(bad.values()), flags=list(bad))
    return Flags(given)


def why_inert(flag: Flag, value: Scalar, devices: Collection[str]) -> str:
    """Why the flag with this value does nothing where only these device kinds exist; empty if it does something."""
    if flag.inert:
        return flag.inert
    if flag.devices:
        if any(kind in devices for kind in flag.devices):
            return ""
        return f"no {' or '.join(flag.devices)} was found on this machine; routerctl backends says why"
    if flag.always and value is False:
        return flag.always
    if flag.sets and not any(_can_act(BY_NAME[name], devices) for name in flag.sets):
        return "every flag that it switches on is inert here"
    return ""


def _can_act(flag: Flag, devices: Collection[str]) -> bool:
    return not flag.always and not why_inert(flag, True, devices)


def _parse(flag: Flag, text: str) -> Scalar | None:
    """The typed value, or ``None`` where the flag's type does not allow the text."""
    if flag.type == "bool":
        word = text.lower()
        return True if word in _TRUE else False if word in _FALSE else None
    if flag.type == "priority":
        return text.upper() if text.upper() in PRIORITIES else None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if flag.minimum <= number <= flag.maximum else None
