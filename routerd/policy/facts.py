"""The facts that conditions are about: their names, types, units and meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from routerd.errors import suggest
from routerd.types import Scalar

FactType: TypeAlias = Literal["name", "number", "bool", "time", "weekday", "uid", "any"]
FactValue: TypeAlias = Scalar | tuple[str, ...]
#: What is known about one task. A fact that is absent (or ``None``) is missing.
Facts: TypeAlias = Mapping[str, FactValue | None]

THERMAL_STATES = ("nominal", "fair", "serious", "critical")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG_WEEKDAYS = dict(
    zip(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), WEEKDAYS, strict=True)
)

_BYTES = {"B": 1} | {
    f"{letter}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("KMGT", start=1)
}
#: Units that a value may carry, by the unit of its fact, as factors of that unit.
UNITS: dict[str, dict[str, float]] = {
    "bytes": {**_BYTES, "kB": 1000},
    "ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000},
    "fraction": {"%": 0.01},
    "watts": {"mW": 1e-3, "W": 1, "kW": 1000},
}


class Fact(NamedTuple):
    """A fact's type, its meaning, its unit, and its only values where they are few.

    Types: ``name`` (text, globs match it), ``number``, ``bool``, ``time`` (``HH:MM``), ``weekday`` (``mon`` … ``sun``),
    ``uid`` (a number, ``self`` or ``root``), ``any`` (a flag that is not set).
    """

    type: FactType
    doc: str
    unit: str = ""
    choices: tuple[str, ...] = ()


#: Every fact. ``<device>`` stands for each device kind, ``<NAME>`` for each environment flag.
FACTS: dict[str, Fact] = {
    "workload.name": Fact("name", "the workload, e.g. options.monte_carlo_european"),
    "workload.family": Fact("name", "the part of its name before the dot, e.g. options"),
    "workload.engine": Fact("name", "the client engines that use the workload; matches if any of them does"),
    "task.work": Fact("number", "the workload's own measure of cost, e.g. paths or multiply-adds"),
    "task.bytes": Fact("number", "size of all inputs and outputs", "bytes"),
    "task.batch": Fact("number", "length of the batch dimension; missing where the workload has none"),
    "task.deadline_ms": Fact("number", "time the result is worth waiting for; missing if the client gave none", "ms"),
    "task.tolerance": Fact("number", "largest relative error that the task accepts"),
    "task.priority": Fact("number", "-10 to 10; 0 is usual"),
    "task.model": Fact("name", "the model that ml.model runs; missing for every other workload"),
    "task.model_version": Fact("number", "the version of that model; missing for every other workload"),
    "client.name": Fact("name", "the name that the client gave in hello"),
    "client.uid": Fact("uid", "user id of the peer, as the kernel reports it; self is the daemon's user, root is 0"),
    "client.gid": Fact("number", "group id of the peer, as the kernel reports it"),
    "hardware.thermal": Fact("name", "thermal state of the machine", choices=THERMAL_STATES),
    "hardware.on_battery": Fact("bool", "the machine runs on its battery"),
    "hardware.<device>.available": Fact("bool", "some backend of the device kind takes work"),
    "hardware.<device>.free_bytes": Fact("number", "memory free on the device", "bytes"),
    "hardware.<device>.utilisation": Fact("number", "busy share of the device, 0 to 1", "fraction"),
    "hardware.<device>.queue_ms": Fact("number", "predicted wait before new work starts on the device", "ms"),
    "hardware.<device>.watts": Fact(
        "number", "power that the device draws now; missing where no sensor reads it", "watts"
    ),
    "time.local": Fact("time", "local time of day as HH:MM"),
    "time.weekday": Fact("weekday", "local day of the week: mon, tue, wed, thu, fri, sat, sun"),
    "flags.<NAME>": Fact("any", "an environment flag; missing while it is not set"),
}

#: Operators by the type of the fact. ``is`` is the bare value.
OPERATORS: dict[FactType, tuple[str, ...]] = {
    "name": ("is", "in", "not_in", "exists"),
    "number": ("is", "in", "not_in", "gt", "gte", "lt", "lte", "between", "exists"),
    "bool": ("is", "in", "not_in", "exists"),
    "time": ("is", "in", "not_in", "gt", "gte", "lt", "lte", "between", "exists"),
    "weekday": ("is", "in", "not_in", "between", "exists"),
    "uid": ("is", "in", "not_in", "exists"),
    "any": ("is", "in", "not_in", "gt", "gte", "lt", "lte", "between", "exists"),
}

_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ%]*)")
_TIME = re.compile(r"(\d{1,2}):(\d{2})")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that exist here; a policy that uses any other is refused.

    ``backends`` may be empty where no plugins are loaded: then any name of the shape ``word.word`` is taken.
    """

    workloads: frozenset[str]
    families: frozenset[str]
    engines: frozenset[str]
    backends: frozenset[str]
    device_kinds: frozenset[str]

    def names_for(self, fact: str) -> frozenset[str] | None:
        """The names that ``fact`` may take, or ``None`` where it is free text."""
        return {
            "workload.name": self.workloads,
            "workload.family": self.families,
            "workload.engine": self.engines,
        }.get(fact)


def find_fact(name: str, vocabulary: Vocabulary, flags: Mapping[str, Scalar | None]) -> Fact:
    """The fact called ``name``. Raises ``ValueError`` with a suggestion if there is none."""
    known = FACTS.get(name)
    if known is not None and "<" not in name:
        return known
    group, _, rest = name.partition(".")
    if group == "flags":
        if rest not in flags:
            raise ValueError(f"unknown flag {rest}{suggest(rest, flags)}")
        return Fact(_flag_type(flags[rest]), FACTS["flags.<NAME>"].doc)
    device, _, quantity = rest.rpartition(".")
    if group == "hardware" and device:
        if device not in vocabulary.device_kinds:
            raise ValueError(f"unknown device {device}{suggest(device, vocabulary.device_kinds)}")
        known = FACTS.get(f"hardware.<device>.{quantity}")
        if known is not None:
            return known
    raise ValueError(f"unknown fact {name}{suggest(name, _all_names(vocabulary, flags))}")


def parse_operand(text: str, fact: Fact) -> Scalar:
    """What ``text`` means as a value of ``fact``. Raises ``ValueError`` that says what was expected instead."""
    if fact.type == "number":
        return parse_number(text, fact.unit)
    if fact.type == "bool":
        return parse_bool(text)
    if fact.type == "time":
        return parse_time(text)
    if fact.type == "weekday":
        return _parse_weekday(text)
    if fact.type == "uid" and text not in ("self", "root"):
        return _parse_uid(text)
    if fact.type == "any":
        return parse_scalar(text)
    if fact.choices and text not in fact.choices:
        raise ValueError(f"{text!r} is none of {', '.join(fact.choices)}{suggest(text, fact.choices)}")
    return text


def parse_number(text: str, unit: str = "") -> int | float:
    """A finite number, with a unit where ``unit`` (a key of ``UNITS``) has some. Whole numbers come back as ``int``."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a number")
    digits, given = match.groups()
    factors = UNITS.get(unit, {})
    given = given.replace("μ", "µ")
    if given and given not in factors:
        expected = f"use one of {', '.join(factors)}" if factors else "the value has no unit"
        same = [name for name in factors if name.lower() == given.lower()]
        raise ValueError(f"unknown unit {given} in {text!r}; {expected}{suggest(same[0] if same else given, factors)}")
    number = float(digits.replace("_", "")) * factors.get(given, 1)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is too large")
    if number.is_integer():
        return (
            int(digits.replace("_", ""))
            if digits.lstrip("+-").replace("_", "").isdigit() and not given
            else int(number)
        )
    return number


def parse_bool(text: str) -> bool:
    """``true`` or ``false`` (also yes, no, on, off)."""
    truth = _TRUTH.get(text.lower())
    if truth is None:
        raise ValueError(f"{text!r} is neither true nor false")
    return truth


def parse_time(text: str) -> str:
    """A time of day as ``HH:MM``; ``24:00`` is the end of the day."""
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) > 59 or int(match[1]) * 60 + int(match[2]) > 24 * 60:
        raise ValueError(f'{text!r} is not a time of day; write "HH:MM"')
    return f"{int(match[1]):02d}:{match[2]}"


def parse_scalar(text: str) -> Scalar:
    """A truth value, a number or, failing both, the text itself."""
    try:
        return _TRUTH[text.lower()] if text.lower() in _TRUTH else parse_number(text)
    except ValueError:
        return text


def time_facts(moment: datetime) -> dict[str, str]:
    """The ``time.*`` facts of a local moment."""
    return {"time.local": f"{moment:%H:%M}", "time.weekday": WEEKDAYS[moment.weekday()]}


def _parse_weekday(text: str) -> str:
    day = _LONG_WEEKDAYS.get(text.lower(), text.lower())
    if day not in WEEKDAYS:
        raise ValueError(f"{text!r} is not a day of the week; use {', '.join(WEEKDAYS)}{suggest(day, WEEKDAYS)}")
    return day


def _parse_uid(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a user id; use a number, self or root{suggest(text, ('self', 'root'))}"
        ) from None


def _flag_type(value: Scalar | None) -> FactType:
    if value is None:
        return "any"
    if isinstance(value, bool):
        return "bool"
    return "name" if isinstance(value, str) else "number"


def _all_names(vocabulary: Vocabulary, flags: Mapping[str, Scalar | None]) -> list[str]:
    names = [name for name in FACTS if "<" not in name]
    for name in FACTS:
        names.extend(name.replace("<device>", kind) for kind in vocabulary.device_kinds if "<device>" in name)
    return names + [f"flags.{flag}" for flag in flags]
