"""Facts, their values and units."""

from __future__ import annotations

from datetime import datetime

import pytest

from routerd.interfaces import DEVICE_KINDS
from routerd.policy import FACTS, Vocabulary, time_facts
from routerd.policy.facts import OPERATORS, Fact, find_fact, parse_number, parse_operand, parse_scalar, parse_time
from routerd.types import Scalar


def test_every_fact_is_found_and_explained(vocabulary: Vocabulary, flags: dict[str, Scalar | None]) -> None:
    for name, fact in FACTS.items():
        concrete = name.replace("<device>", "neural_engine").replace("<NAME>", "GPU_DEBUG")
        assert find_fact(concrete, vocabulary, flags).type == fact.type
        assert fact.doc
        assert "is" in OPERATORS[fact.type] and "exists" in OPERATORS[fact.type]


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_every_device_kind_has_facts(vocabulary: Vocabulary, flags: dict[str, Scalar | None], kind: str) -> None:
    assert find_fact(f"hardware.{kind}.free_bytes", vocabulary, flags).unit == "bytes"


@pytest.mark.parametrize("name", ["", "task", "task.", "hardware", "hardware.cpu", "hardware.cpu.", "workload.name.x", "x.cpu.available"])  # fmt: skip
def test_other_names_are_no_facts(vocabulary: Vocabulary, flags: dict[str, Scalar | None], name: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        find_fact(name, vocabulary, flags)


@pytest.mark.parametrize(
    ("flag", "kind"),
    [("GPU_ACCELERATION", "bool"), ("METAL_GPU_PRIORITY", "name"), ("LARGE_DATA_THRESHOLD", "number"), ("GPU_DEBUG", "any")],
)  # fmt: skip
def test_a_flag_has_the_type_of_its_value(
    vocabulary: Vocabulary, flags: dict[str, Scalar | None], flag: str, kind: str
) -> None:
    assert find_fact(f"flags.{flag}", vocabulary, flags).type == kind


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("1", "", 1), ("-10", "", -10), ("1_000", "", 1000), ("1e6", "", 1_000_000), ("2.5", "", 2.5), (".5", "", 0.5),
        ("9007199254740993", "", 9007199254740993),
        ("2GiB", "bytes", 2 * 1024**3), ("2 GB", "bytes", 2_000_000_000), ("1.5KiB", "bytes", 1536), ("64", "bytes", 64),
        ("3kB", "bytes", 3000), ("7B", "bytes", 7), ("1TiB", "bytes", 1024**4),
        ("200ms", "ms", 200), ("1.5s", "ms", 1500), ("250us", "ms", 0.25), ("250µs", "ms", 0.25), ("250μs", "ms", 0.25),
        ("2min", "ms", 120_000), ("1h", "ms", 3_600_000), ("80%", "fraction", 0.8),
        ("65", "watts", 65), ("65W", "watts", 65), ("1.5kW", "watts", 1500), ("250 mW", "watts", 0.25), ("0.8", "fraction", 0.8),
    ],
)  # fmt: skip
def test_numbers_and_units(text: str, unit: str, value: float) -> None:
    parsed = parse_number(text, unit)
    assert parsed == pytest.approx(value, rel=1e-15) if isinstance(value, float) else parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "0x10", "1,5", "1 2", "--1", "1e", "9" * 400, "GiB"])
def test_what_is_not_a_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a number|too large|unknown unit"):
        parse_number(text, "bytes")


@pytest.mark.parametrize(
    ("text", "value"), [("6:05", "06:05"), ("00:00", "00:00"), ("23:59", "23:59"), ("24:00", "24:00")]
)
def test_times(text: str, value: str) -> None:
    assert parse_time(text) == value


@pytest.mark.parametrize("text", ["24:01", "12:60", "1260", "12:5", "noon", "-1:00", "12:00:00"])
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a time of day"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "fact", "value"),
    [
        ("Friday", FACTS["time.weekday"], "fri"),
        ("sun", FACTS["time.weekday"], "sun"),
        ("self", FACTS["client.uid"], "self"),
        ("501", FACTS["client.uid"], 501),
        ("No", FACTS["hardware.on_battery"], False),
        ("12", FACTS["client.name"], "12"),
        ("12", Fact("any", ""), 12),
        ("LOW", Fact("any", ""), "LOW"),
    ],
)
def test_operands_have_the_type_of_their_fact(text: str, fact: Fact, value: Scalar) -> None:
    assert parse_operand(text, fact) == value
    assert type(parse_operand(text, fact)) is type(value)


def test_scalars_are_guessed_only_where_nothing_tells_the_type() -> None:
    assert [parse_scalar(text) for text in ("on", "1.0", "2GiB", "x")] == [True, 1, "2GiB", "x"]


def test_time_facts_of_a_moment() -> None:
    assert time_facts(datetime(2024, 2, 29, 7, 5, 59)) == {"time.local": "07:05", "time.weekday": "thu"}
