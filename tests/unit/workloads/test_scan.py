"""Scans against the loops they replace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.scan import joined, row_spans, smooth, window_sums


def loop(series: np.ndarray, initial: np.ndarray, decay: float, weight: float) -> np.ndarray:
    out, value = [], initial
    for row in series:
        value = decay * value + weight * row
        out.append(value)
    return np.array(out)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 700),
    columns=st.integers(1, 3),
    decay=st.sampled_from([0.0, 0.3, 0.9, 0.9999, 1.0]),
    cuts=st.lists(st.integers(1, 699), max_size=3),
)
def test_smoothing_is_the_recurrence_however_the_rows_are_cut(
    seed: int, rows: int, columns: int, decay: float, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    series, initial = rng.random((rows, columns)), rng.random(columns)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    blocks = [series[low:high] for low, high in pairwise(edges)]
    out = list(smooth(NumpyNamespace(), blocks, initial, decay, 0.7))
    assert [block.shape for block in out] == [block.shape for block in blocks]
    assert np.concatenate(out) == pytest.approx(loop(series, initial, decay, 0.7), rel=1e-11)


def test_smoothing_on_torch(precise: Namespace) -> None:
    rng = np.random.default_rng(0)
    series, initial = rng.random((1_000, 2)), rng.random(2)
    out = list(smooth(precise, [precise.from_host(series)], precise.from_host(initial), 0.95, 0.05))
    assert precise.to_host(out[0]) == pytest.approx(loop(series, initial, 0.95, 0.05), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 300), columns=st.integers(1, 3), data=st.data())
def test_window_sums(seed: int, rows: int, columns: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, rows))
    series = np.random.default_rng(seed).random((rows, columns))
    namespace = NumpyNamespace()
    namespace.block = 8
    expected = np.array([series[row : row + length].sum(axis=0) for row in range(rows - length + 1)])
    assert window_sums(namespace, series, length) == pytest.approx(expected, rel=1e-13)


def test_window_sums_after_a_giant_are_exact() -> None:
    # A prefix sum would carry the giant's rounding into every later window.
    series = np.ones((500, 1))
    series[3] = 1e17
    assert window_sums(NumpyNamespace(), series, 10)[4:].tolist() == [[10.0]] * 487


def test_spans_cover_all_rows_once() -> None:
    namespace = NumpyNamespace()
    namespace.block = 10
    spans = row_spans(namespace, 3, 100, 4)
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(3, 100))
    assert row_spans(namespace, 5, 5, 4) == []
    assert row_spans(namespace, 0, 100, 4, least=100) == [(0, 100)]


def test_joined_keeps_the_order() -> None:
    namespace = NumpyNamespace()
    assert joined(namespace, [np.array([[1.0]]), np.array([[2.0], [3.0]])]).tolist() == [[1.0], [2.0], [3.0]]
