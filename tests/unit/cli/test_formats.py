"""Values as people read them."""

from __future__ import annotations

import pytest

from routerd.cli import formats
from routerd.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("1.5s", 1.5), ("10m", 600.0), ("2h", 7200.0), ("1d", 86400.0)]
)
def test_spans(text, seconds):
    assert formats.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1m", "1w", "nan", "1 hour"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(BadRequest, match="span of time"):
        formats.seconds_of(text)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (65, "1 min 5 s"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")])
def test_ages(seconds, text):
    assert formats.age(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5 GiB"), (2**41, "2 TiB")]
)
def test_sizes(size, text):
    assert formats.byte_size(size) == text


def test_scalars_and_absent_values():
    assert [formats.number(value) for value in (True, 0.1, 3, "x", None)] == ["true", "0.1", "3", "x", "–"]
    assert [formats.when(value) for value in (None, 0.0, 0.002)] == ["–", "0", "2 ms"]
    assert [formats.gain(value) for value in (1.0, 3.14159, 12345.6)] == ["1×", "3.14×", "12346×"]
