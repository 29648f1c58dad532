"""Window sums, scatters and movements against a loop over the windows in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.windows import window_moments, window_moved, window_spans, window_sums
from tests.near import near


def windows(series: np.ndarray, length: int) -> list[np.ndarray]:
    return [series[row : row + length] for row in range(series.shape[0] - length + 1)]


def exact_scatter(column: np.ndarray) -> float:
    exact = [Fraction(value) for value in column.tolist()]
    return float(len(exact) * sum(value * value for value in exact) - sum(exact) ** 2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 150), columns=st.integers(1, 3), data=st.data())
def test_sums_and_scatters_of_every_window(seed: int, rows: int, columns: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, rows))
    series = 1e4 + np.random.default_rng(seed).random((rows, columns))
    sums, scatter = window_moments(series, length)
    assert sums == near(np.array([window.sum(axis=0) for window in windows(series, length)]), rel=1e-14)
    assert window_sums(series, length) == near(sums, rel=1e-14)
    expected = [[exact_scatter(column) for column in window.T] for window in windows(series, length)]
    # The prices themselves are rounded to 2e-12, about 1e-11 of a deviation.
    assert scatter == near(np.array(expected), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("length", [1, 2, 10, 15, 49])
def test_windows_after_a_giant_are_exact(length: int) -> None:
    # A prefix sum would carry the giant's rounding into every later window.
    series = np.ones((500, 1))
    series[3] = 1e17
    sums, scatter = window_moments(series, length)
    assert sums[4:].tolist() == [[float(length)]] * (497 - length)
    assert window_sums(series, length)[4:].tolist() == sums[4:].tolist()
    assert not scatter[4:].any()


@pytest.mark.parametrize("length", [2, 3, 5, 16, 20])
def test_scatters_keep_all_digits_however_high_the_prices(length: int) -> None:
    steps = np.cumsum(np.random.default_rng(0).integers(-3, 4, (300, 2)), axis=0).astype(float)
    _, low = window_moments(steps, length)
    _, high = window_moments(steps + 2.0**40, length)
    assert high == near(low, rel=1e-13)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 21])
def test_movement_is_any_difference_within_the_window(length: int) -> None:
    series = np.repeat(np.random.default_rng(0).random((12, 2)), 11, axis=0)
    expected = np.array([np.ptp(window, axis=0) > 0.0 for window in windows(series, length)])
    assert np.array_equal(window_moved(NumpyNamespace(), series, length), expected)


def test_windows_in_single_precision(single: Namespace) -> None:
    series = 1e4 + 0.25 * np.random.default_rng(0).integers(-8, 9, (400, 2))
    device = single.from_host(series - series[:1])
    sums, scatter = (single.to_host(one) for one in window_moments(device, 20))
    exact_sums, exact = window_moments(series - series[:1], 20)
    assert sums == near(exact_sums, rel=1e-6)
    assert scatter == near(exact, rel=1e-6)
    assert np.array_equal(single.to_host(window_moved(single, device, 20)), window_moved(NumpyNamespace(), series, 20))


def test_spans_cover_all_windows_once() -> None:
    namespace = NumpyNamespace()
    namespace.block = 100
    spans = window_spans(namespace, 1_000, 4, 7)
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(994))
    assert window_spans(namespace, 7, 4, 7) == [(0, 1)]
