"""Which backend is fastest where: crossovers, the table's words, what is timed and what is not, and the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest

from benchmarks._crossover_picture import picture_of
from benchmarks._crossovers import Size, crossovers, leaders, shown, with_changes
from benchmarks.backends import Effort, Timed, missing_parts, timed_in_turn
from routerd.errors import WorkerCrashed

WORKS = (1e3, 1e5, 1e7)
ERRORS = {"cpu.numpy": 0.0, "gpu.fast": 3e-7, "gpu.rough": 4e-3}
EFFORT = Effort(sizes=5, rounds=3, block_seconds=0.05, cell_seconds=1e9, longest_seconds=2.0, total_seconds=60.0)
SVG = "{http://www.w3.org/2000/svg}"


def size(work: float = 1e3, *, chosen: str = "", ways: dict[str, float] | None = None, **seconds: float) -> Size:
    """One size; ``numpy``, ``fast`` and ``rough`` stand for the three backends."""
    names = {"numpy": "cpu.numpy", "fast": "gpu.fast", "rough": "gpu.rough"}
    return Size(
        workload="linalg.gemm",
        work=work,
        tolerance=1e-5,
        seconds={names[name]: one for name, one in seconds.items()},
        errors=ERRORS,
        ways=ways or {},
        chosen=chosen,
    )


@pytest.fixture
def launched() -> list[Size]:
    """A processor that takes 10 ns for each unit of work beside a GPU that takes 1 ms for anything: they cross at 1e5."""
    return [size(work, numpy=1e-8 * work, fast=1e-3) for work in (1e3, 1e4, 1e6, 1e7)]


def test_the_crossover_is_where_the_times_are_equal(launched: list[Size]) -> None:
    (one,) = crossovers(launched)
    assert (one.before, one.after, one.low, one.high) == ("cpu.numpy", "gpu.fast", 1e4, 1e6)
    assert one.work == pytest.approx(1e5)
    assert [row.change for row in with_changes(launched)] == ["", "", "gpu.fast for cpu.numpy at 1e5", ""]


def test_a_lead_within_noise_changes_nothing() -> None:
    even = [
        size(WORKS[0], numpy=1.0, fast=2.0),
        size(WORKS[1], numpy=1.0, fast=0.95),
        size(WORKS[2], numpy=1.0, fast=1.2),
    ]
    assert [row.fastest for row in even] == ["cpu.numpy", "gpu.fast", "cpu.numpy"]
    assert leaders(even) == ["cpu.numpy"] * 3
    assert crossovers(even) == []


def test_one_that_crept_ahead_within_noise_crosses_at_the_smaller_size() -> None:
    (one,) = crossovers([size(1e2, numpy=1, fast=2), size(1e3, numpy=1, fast=0.95), size(1e5, numpy=1, fast=0.5)])
    assert one.work == pytest.approx(1e3)


def test_where_a_backend_was_not_timed_the_crossover_is_somewhere_between() -> None:
    rows = [size(1e3, numpy=1e-5, fast=1e-3), size(1e5), size(1e7, fast=1e-3)]
    (one,) = crossovers(rows)
    assert one.work is None
    assert str(one) == "gpu.fast for cpu.numpy between 1000 and 1e7"


def test_one_that_is_too_inexact_is_shown_but_never_the_fastest() -> None:
    row = size(numpy=4e-3, fast=2e-3, rough=1e-3)
    assert row.fastest == "gpu.fast"
    assert row.value == pytest.approx(2.0)
    assert row.cells[2:6] == ("cpu.numpy 4, gpu.fast 2, gpu.rough 1 (error 0.004)", "gpu.fast", "2×", "3e-07")
    assert len(row.cells) == len(Size.HEADINGS)


@pytest.mark.parametrize(
    ("chosen", "ways", "verdict", "words"),
    [
        ("gpu.fast", {}, "right", "gpu.fast"),
        ("cpu.numpy", {}, "wrong", "cpu.numpy (2.00× the best)"),
        ("cpu.numpy", {"cpu.numpy": 1.0, "gpu.fast": 1.0}, "right", "cpu.numpy"),
        ("", {}, "", ""),
    ],
)
def test_a_choice_is_judged_with_the_way_there(chosen: str, ways: dict[str, float], verdict: str, words: str) -> None:
    row = size(numpy=4e-3, fast=2e-3, chosen=chosen, ways=ways)
    assert (row.verdict, row.cells[7]) == (verdict, words)


def test_without_the_contract_there_is_no_ratio() -> None:
    row = size(fast=1e-3)
    assert row.value is None
    assert row.cells[3:6] == ("gpu.fast", "", "3e-07")
    assert size().fastest == ""


@pytest.mark.parametrize(("work", "words"), [(850.4, "850"), (9826.0, "9826"), (123456.0, "1.2e5"), (1.8e10, "1.8e10")])
def test_works_are_short(work: float, words: str) -> None:
    assert shown(work) == words


def constant(seconds: dict[str, float], asked: list[str]) -> Callable[[str, float], Sequence[float]]:
    def measure(backend: str, _budget: float) -> Sequence[float]:
        asked.append(backend)
        return [seconds[backend]] * 3

    return measure


def test_backends_take_turns_forwards_and_backwards() -> None:
    asked: list[str] = []
    known: dict[str, list[Timed]] = {"a": [], "b": []}
    seconds, unmeasured = timed_in_turn(["a", "b"], 1e3, constant({"a": 1.0, "b": 2.0}, asked), known, EFFORT)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert (seconds, unmeasured) == ({"a": 1.0, "b": 2.0}, {})
    assert known == {"a": [Timed(1e3, 1.0)], "b": [Timed(1e3, 2.0)]}


def test_one_disturbed_round_does_not_count() -> None:
    rounds = iter([[1.0, 9.0, 1.0], [50.0, 60.0, 70.0], [3.0, 2.0, 2.0]])
    seconds, _ = timed_in_turn(["a"], 1e3, lambda _backend, _budget: next(rounds), {"a": []}, EFFORT)
    assert seconds == {"a": 2.0}


def test_what_would_take_too_long_is_said_and_not_run() -> None:
    asked: list[str] = []
    names = ["cpu.numpy", "slow", "chosen", "launched"]
    known = {name: [Timed(1e3, 1.0)] for name in names} | {"launched": [Timed(1e1, 0.1), Timed(1e5, 0.1)]}
    measure = constant(dict.fromkeys(names, 1.0), asked)
    seconds, unmeasured = timed_in_turn(names, 1e5, measure, known, EFFORT, "chosen")
    assert unmeasured == {"slow": "not run (about 1e+02 s)"}
    assert set(seconds) == set(asked) == {"cpu.numpy", "chosen", "launched"}


def test_where_all_are_slow_the_least_slow_are_run() -> None:
    known = {"a": [Timed(1.0, 10.0)], "b": [Timed(1.0, 20.0)], "c": [Timed(1.0, 40.0)]}
    seconds, unmeasured = timed_in_turn(list(known), 1.0, constant(dict.fromkeys(known, 9.0), []), known, EFFORT)
    assert (set(seconds), set(unmeasured)) == ({"a", "b"}, {"c"})


def test_a_backend_that_has_had_its_share_of_the_time_gets_no_further_round() -> None:
    asked: list[str] = []
    tight = Effort(sizes=5, rounds=3, block_seconds=0.05, cell_seconds=0.0, longest_seconds=2.0, total_seconds=60.0)
    assert timed_in_turn(["a"], 1e3, constant({"a": 1.0}, asked), {"a": []}, tight)[0] == {"a": 1.0}
    assert asked == ["a"]


def test_a_failure_is_told_in_the_workers_words_and_ends_the_backends_turns() -> None:
    asked: list[str] = []

    def measure(backend: str, _budget: float) -> Sequence[float]:
        asked.append(backend)
        if backend == "broken":
            raise WorkerCrashed("the worker ended with signal 11")
        return [1.0]

    seconds, unmeasured = timed_in_turn(["a", "broken"], 1e3, measure, {"a": [], "broken": []}, EFFORT)
    assert (seconds, unmeasured) == ({"a": 1.0}, {"broken": "failed (the worker ended with signal 11)"})
    assert asked.count("broken") == 1


def drawn(sizes: Sequence[Size]) -> tuple[list[str], ElementTree.Element]:
    root = ElementTree.fromstring(picture_of(sizes, ["a machine & its date"]))
    return ["".join(node.itertext()) for node in root.iter(f"{SVG}text")], root


def test_the_picture_shows_curves_the_crossover_and_who_is_fastest(launched: list[Size]) -> None:
    texts, root = drawn(launched)
    assert {"linalg.gemm", "cpu.numpy", "gpu.fast", "a machine & its date", "1e5", "1 ms", "1000", "1e7"} <= set(texts)
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
    paper, *strip = root.iter(f"{SVG}rect")
    widths = [float(one.get("width", "0")) for one in strip]
    assert widths[0] == pytest.approx(widths[1], abs=0.2)  # 1e5 is in the middle between 1e3 and 1e7
    assert len({one.get("fill") for one in (paper, *strip)}) == 3


def test_curves_of_inexact_backends_are_dashed(launched: list[Size]) -> None:
    rough = [size(row.work, numpy=row.seconds["cpu.numpy"], rough=1e-4) for row in launched]
    _texts, root = drawn(rough)
    dashed = [one.get("stroke-dasharray") is not None for one in root.iter(f"{SVG}polyline")]
    assert dashed == [False, True]


def test_a_workload_at_one_size_has_no_curve(launched: list[Size]) -> None:
    texts, root = drawn(launched[:1])
    assert "linalg.gemm" not in texts
    assert not list(root.iter(f"{SVG}polyline"))


def test_who_is_missing_is_told_with_the_reason() -> None:
    pair = {"workload": "linalg.gemm", "state": "quarantined", "reason": "relative error 0.3 against the contract"}
    backends = [
        {"name": "gpu.fast", "state": "unavailable", "reason": "no such device", "workloads": []},
        {"name": "gpu.rough", "state": "ready", "reason": "", "workloads": [pair]},
    ]
    assert missing_parts(backends, ["linalg.gemm"]) == {
        "unavailable": "gpu.fast: no such device",
        "workloads": "gpu.rough takes 0 of 1",
        "quarantined": "linalg.gemm on gpu.rough: relative error 0.3 against the contract",
    }
