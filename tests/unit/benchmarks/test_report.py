"""Verdicts and tables: what a reader of a benchmark relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _harness as harness
from benchmarks import _report as report


@pytest.mark.parametrize(
    ("value", "target", "at_least", "verdict"),
    [
        (15.0, 15.0, False, "met"),
        (15.1, 15.0, False, "not met"),
        (2e5, 2e5, True, "met"),
        (1.9e5, 2e5, True, "not met"),
        (1.0, None, False, ""),
    ],
)
def test_a_verdict_compares_with_the_target(value: float, target: float | None, at_least: bool, verdict: str) -> None:
    assert report.Figure("x", value, "µs", target, at_least).verdict == verdict


def test_the_ratio_is_to_the_floor() -> None:
    cells = report.Figure("x", 30.0, "µs", 15.0, floor=12.0).cells
    assert cells == ("x", "30 µs", "12 µs", "2.5×", "≤ 15 µs", "not met")


def test_a_percentile_is_a_sample() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert harness.percentile(samples, 0.5) == 51.0
    assert harness.percentile(samples, 0.99) == 100.0
    assert harness.percentile([7.0], 0.99) == 7.0


def test_one_disturbed_block_does_not_count() -> None:
    assert harness.over_blocks([[1.0, 2.0], [500.0, 900.0], [1.0, 3.0]], 0.99) == 3.0


def test_blocks_alternate_and_the_first_only_warms_up() -> None:
    seen: list[str] = []

    def subject(name: str, value: float) -> harness.Subject:
        def measure(count: int) -> list[float]:
            seen.append(name)
            return [value] * count

        return measure

    found = harness.interleave({"a": subject("a", 1.0), "b": subject("b", 2.0)}, blocks=2, calls=3)
    assert seen == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [[1.0] * 3] * 2, "b": [[2.0] * 3] * 2}


def test_a_page_gets_the_table_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: x -->\nold\n<!-- end -->\nafter\n")
    options = harness.Options("", ["--quick", "--update", str(page)])
    report.publish("x", [report.Figure("speed", 3.0, "µs", 4.0)], {"cores": "may sleep"}, options)
    text = page.read_text()
    assert "| speed | 3 µs |" in text and "old" not in text
    assert text.startswith("before\n<!-- results: x -->\n") and text.endswith("<!-- end -->\nafter\n")


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit, match="no place for the table"):
        report.publish("x", [], {}, harness.Options("", ["--quick", "--update", str(page)]))
