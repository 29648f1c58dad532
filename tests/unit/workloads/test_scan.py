"""Scans against the loops they replace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.scan import filled, joined, row_spans, smooth
from tests.near import near


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
    expected = loop(series, initial, decay, 0.7)
    out = list(
        smooth(NumpyNamespace(), [series[low:high].copy() for low, high in pairwise(edges)], initial, decay, 0.7)
    )
    assert [block.shape[0] for block in out] == [high - low for low, high in pairwise(edges)]
    assert np.concatenate(out) == near(expected, rel=1e-11)


@pytest.mark.parametrize(("rows", "columns"), [(70_000, 1), (5_000, 2)])
def test_smoothing_many_rows_goes_through_every_level(rows: int, columns: int, precise: Namespace) -> None:
    rng = np.random.default_rng(0)
    series, initial = rng.random((rows, columns)), rng.random(columns)
    (out,) = smooth(precise, [precise.from_host(series.copy())], precise.from_host(initial), 0.9995, 0.05)
    assert precise.to_host(out) == near(loop(series, initial, 0.9995, 0.05), rel=1e-12)


def test_what_is_done_with_a_block_does_not_reach_the_next() -> None:
    series = np.random.default_rng(0).random((40, 2))
    out = []
    for block in smooth(NumpyNamespace(), [series[:20].copy(), series[20:].copy()], np.zeros(2), 0.9, 1.0):
        out.append(block.copy())
        block[:] = 0.0
    assert np.concatenate(out) == near(loop(series, np.zeros(2), 0.9, 1.0), rel=1e-13)


def test_smoothing_fades_without_losing_relative_precision() -> None:
    series = np.zeros((2_000, 1))
    (out,) = smooth(NumpyNamespace(), [series], np.ones(1), 0.8, 0.2)
    assert out[:, 0] == pytest.approx(0.8 ** np.arange(1.0, 2_001.0), rel=1e-11)


def test_spans_cover_all_rows_once() -> None:
    namespace = NumpyNamespace()
    namespace.block = 10
    spans = row_spans(namespace, 3, 300, 4)
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(3, 300))
    assert row_spans(namespace, 5, 5, 4) == []
    assert row_spans(namespace, 0, 100, 4, least=100) == [(0, 100)]


def test_filled_puts_the_blocks_below_nan() -> None:
    out = filled(NumpyNamespace(), (4, 1), 1, [np.array([[1.0]]), np.array([[2.0], [3.0]])])
    assert np.isnan(out[0]).all() and out[1:].tolist() == [[1.0], [2.0], [3.0]]


def test_joined_keeps_the_order() -> None:
    namespace = NumpyNamespace()
    assert joined(namespace, [np.array([[1.0]]), np.array([[2.0], [3.0]])]).tolist() == [[1.0], [2.0], [3.0]]
