"""Choosers on made-up machines."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.scoring.baselines import (
    AlwaysOne,
    FixedPriority,
    PowerRegression,
    RandomChoice,
    SizeHistory,
    fit_power_law,
    priority_order,
)
from routerd.scoring.trials import Sample

WORKS = [10.0 ** (2 + step * 5 / 6) for step in range(7)]


def samples(workload="w", works=WORKS, **laws):
    """Points of ``a·work**b + c`` for each backend."""
    return [Sample(workload, backend, work, a * work**b + c) for backend, (a, b, c) in laws.items() for work in works]


class TestPowerLaw:
    @settings(max_examples=25, deadline=None)
    @given(st.floats(-11, -6), st.floats(0.7, 1.4), st.floats(-6, -2))
    def test_it_recovers_the_law_that_made_the_points(self, log_a, b, log_c):
        a, c = 10**log_a, 10**log_c
        law = fit_power_law([(work, a * work**b + c) for work in WORKS])
        for work in (150.0, 3e4, 5e6):
            assert law.seconds(work) == pytest.approx(a * work**b + c, rel=5e-3)

    def test_its_parameters_are_found_where_the_points_show_them(self):
        law = fit_power_law([(work, 2e-9 * work**1.1 + 3e-5) for work in WORKS])
        assert law.a == pytest.approx(2e-9, rel=1e-3)
        assert law.b == pytest.approx(1.1, rel=1e-3)
        assert law.c == pytest.approx(3e-5, rel=1e-3)

    def test_noise_moves_it_little(self):
        points = [(work, (1e-9 * work + 1e-4) * (1.05 if step % 2 else 0.95)) for step, work in enumerate(WORKS)]
        law = fit_power_law(points)
        for work in WORKS:
            assert law.seconds(work) == pytest.approx(1e-9 * work + 1e-4, rel=0.1)

    def test_one_size_makes_no_curve(self):
        assert fit_power_law([(10.0, 1.0), (10.0, 1.1)]) is None

    def test_two_sizes_are_met_exactly(self):
        law = fit_power_law([(10.0, 1.0), (1000.0, 4.0)])
        assert law.seconds(10.0) == pytest.approx(1.0)
        assert law.seconds(1000.0) == pytest.approx(4.0)


class TestPowerRegression:
    def test_it_finds_where_two_curves_cross(self):
        chooser = PowerRegression(samples(quick_start=(1e-8, 1.0, 1e-5), slow_start=(1e-10, 1.0, 1e-3)))
        assert chooser.choose("w", 1e3, ["quick_start", "slow_start"]) == "quick_start"
        assert chooser.choose("w", 1e6, ["quick_start", "slow_start"]) == "slow_start"
        assert chooser.choose("w", 1e6, ["quick_start"]) == "quick_start"

    def test_what_was_never_measured_is_tried(self):
        chooser = PowerRegression(samples(known=(1e-9, 1.0, 0.0)))
        assert chooser.choose("w", 1e3, ["known", "new"]) == "new"


class TestSizeHistory:
    def test_a_known_size_goes_where_its_mean_is_least(self):
        seen = [Sample("w", "a", 10.0, 1.0), Sample("w", "a", 10.0, 4.0), Sample("w", "b", 10.0, 2.0)]
        assert SizeHistory(seen).choose("w", 10.0, ["a", "b"]) == "b"
        assert SizeHistory([*seen, Sample("w", "a", 10.0, 0.1)]).choose("w", 10.0, ["a", "b"]) == "a"

    def test_another_size_is_another_class(self):
        chooser = SizeHistory(samples(a=(1e-9, 1.0, 0.0), b=(1e-8, 1.0, 0.0)))
        assert chooser.choose("w", WORKS[3], ["a", "b"]) == "a"
        tries = Counter(chooser.choose("w", WORKS[3] * (1 + step), ["a", "b"]) for step in range(1, 11))
        assert tries == {"a": 5, "b": 5}

    def test_the_backend_without_history_is_tried_before_a_fast_one(self):
        chooser = SizeHistory([Sample("w", "a", 10.0, 1e-6)])
        assert chooser.choose("w", 10.0, ["a", "b"]) == "b"


class TestFixedPriority:
    def test_the_first_that_may_is_taken(self):
        chooser = FixedPriority(["gpu", "npu", "cpu"])
        assert chooser.choose("w", 1.0, ["cpu", "gpu", "npu"]) == "gpu"
        assert chooser.choose("w", 1e9, ["cpu", "npu"]) == "npu"
        assert chooser.choose("w", 1.0, ["other", "cpu"]) == "cpu"

    def test_accelerators_and_low_precision_come_first(self):
        machine = [
            ("cpu.numpy", "cpu", "float64"),
            ("cpu.torch", "cpu", "float32"),
            ("cpu.torch_bf16", "cpu", "bfloat16"),
            ("ane.coreml", "neural_engine", "float16"),
            ("metal.mlx", "metal_gpu", "float32"),
            ("odd.one", "something_else", "exact"),
        ]
        assert priority_order(machine) == [
            "metal.mlx", "ane.coreml", "cpu.torch_bf16", "cpu.torch", "cpu.numpy", "odd.one"]  # fmt: skip

    def test_equals_stay_in_the_order_of_registration(self):
        assert priority_order([("cpu.b", "cpu", "float32"), ("cpu.a", "cpu", "float32")]) == ["cpu.b", "cpu.a"]


def test_one_backend_is_always_taken_where_it_can_be():
    chooser = AlwaysOne("cpu.numpy")
    assert chooser.name == "always cpu.numpy"
    assert chooser.choose("w", 1.0, ["gpu", "cpu.numpy"]) == "cpu.numpy"
    assert chooser.choose("w", 1.0, ["gpu", "npu"]) == "gpu"


def test_random_choices_are_repeatable_and_even():
    first, second = RandomChoice(3), RandomChoice(3)
    drawn = [first.choose("w", 1.0, ["a", "b"]) for _ in range(400)]
    assert drawn == [second.choose("w", 1.0, ["a", "b"]) for _ in range(400)]
    assert abs(drawn.count("a") - 200) < 4 * math.sqrt(100)
