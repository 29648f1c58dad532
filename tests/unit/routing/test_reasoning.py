"""The sentence of a decision, word for word."""

from __future__ import annotations

import pytest

from routerd.costs.choice import Choice
from routerd.costs.curve import curve_through, prior_curve
from routerd.routing.reasoning import doubts_about, duration, explain, quantity
from routerd.types import Candidate


def candidate(backend, seconds, queue=0.0, error=1e-7):
    return Candidate(backend, backend.split(".")[0], seconds, queue, 0.0, seconds - queue, 0.1, error)


GPU, CPU = candidate("metal.mlx", 2e-3), candidate("cpu.numpy", 0.0805, error=0.0)


def words(*ranking, rule="big", doubts=(), contract=0.0805):
    return explain(2e9, 1e-5, Choice(ranking, 0.9, "it is predicted fastest"), contract, rule=rule, doubts=doubts)


def test_the_choice_the_contract_and_the_grounds():
    assert words(GPU, CPU) == (
        "metal.mlx: 2 ms predicted against 80.5 ms on cpu.numpy for work 2e9; error 1.0e-07 within tolerance 1e-05; "
        "rule big: it is predicted fastest"
    )


def test_the_contract_is_compared_with_the_next_best():
    text = words(CPU, GPU)
    assert text.startswith("cpu.numpy: 80.5 ms predicted against 2 ms on metal.mlx")
    assert "it is the float64 contract" in text


def test_a_queue_guesses_and_a_lone_candidate_are_said():
    queued = candidate("metal.mlx", 5e-3, queue=4e-3)
    text = words(queued, doubts=doubts_about({"metal.mlx": prior_curve()}, 2e9))
    assert "4 ms of it in the queue" in text
    assert "not yet timed here: metal.mlx;" in text
    assert "against 80.5 ms on cpu.numpy, which may not take it" in text
    assert text.endswith("rule big: it is the only candidate")


def test_few_sizes_and_far_ones_are_said():
    curves = {
        "a.x": curve_through([1e3], [1e-3], [0.1]),
        "b.x": curve_through([1e3, 1e4, 1e5], [1e-3, 1e-2, 1e-1], [0.1] * 3),
    }
    assert doubts_about(curves, 1e3) == ["timed at few sizes: a.x"]
    assert doubts_about(curves, 1e9)[1] == "extrapolated beyond what was timed: a.x, b.x"


def test_a_first_task_is_said():
    cold = Candidate("metal.mlx", "metal_gpu", 0.5, 0.0, 0.0, 0.1, 0.1, 0.0, 0.4)
    assert "400 ms of it because this is its first task" in words(cold, CPU)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ns"), (9.994e-7, "999 ns"), (9.996e-7, "1 µs"), (1.5e-5, "15 µs"), (0.0123456, "12.3 ms"), (0.9999, "1 s"),
     (75.0, "75 s")],
)  # fmt: skip
def test_durations_in_the_unit_that_reads_best(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(5, "5"), (1000, "1000"), (1.68e10, "1.7e10"), (1e100, "1e100")])
def test_quantities_in_few_characters(number, text):
    assert quantity(number) == text
