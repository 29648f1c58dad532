"""The sentence of a decision, word for word."""

from __future__ import annotations

import pytest

from routerd.costs.choice import Choice
from routerd.reasoning import duration, explain, quantity
from routerd.types import Candidate, Task


def candidate(backend, seconds, queue=0.0, error=1e-7):
    return Candidate(backend, backend.split(".")[0], seconds, queue, 0.0, seconds - queue, 0.1, error)


TASK = Task("linalg.gemm", {}, {}, {}, 2e9, 1000, 1e-5)
GPU, CPU = candidate("metal.mlx", 2e-3), candidate("cpu.numpy", 0.0805, error=0.0)


def words(*ranking, rule="big", priors=frozenset(), contract=0.0805):
    return explain(TASK, Choice(ranking, 0.9, "it is predicted fastest"), contract, rule=rule, priors=priors)


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
    text = words(queued, priors=frozenset({"metal.mlx", "not.there"}))
    assert "4 ms of it in the queue" in text
    assert "not yet timed here: metal.mlx;" in text
    assert "against 80.5 ms on cpu.numpy, which may not take it" in text
    assert text.endswith("rule big: it is the only candidate")


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
