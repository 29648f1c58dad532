"""Rolling features against pandas and literal loops: random and real bars, and series that stand still."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.differencing import difference_weights, fractional_difference
from routerd.workloads.features import ROLLING
from routerd.workloads.prices import example_bars

Run = Callable[..., dict[str, Any]]
NAMES = ("zscore", "ewma_volatility", "garman_klass_volatility", "fractional_difference")
SHORT = {"weight_threshold": 1e-2}


def make_bars(seed: int, rows: int, columns: int) -> dict[str, np.ndarray]:
    bars = example_bars(16 * 4_096, np.random.default_rng(seed), rows)
    return {name: array[:rows, :columns] for name, array in bars.items()}


def features(run: Run, bars: dict[str, np.ndarray], **params: Any) -> dict[str, np.ndarray]:
    out = run(ROLLING, bars, **params)["features"]
    assert out.shape == (*bars["close"].shape, len(NAMES))
    return {name: out[:, :, place] for place, name in enumerate(NAMES)}


def loop_garman_klass(bars: dict[str, np.ndarray], window: int) -> np.ndarray:
    """½·u² for the range and (2·ln 2 − 1)·c² for the move of every bar, one bar after another."""
    rows, columns = bars["close"].shape
    out = np.full((rows, columns), np.nan)
    for column in range(columns):
        terms = []
        for row in range(rows):
            reach = math.log(bars["high"][row, column] / bars["low"][row, column])
            move = math.log(bars["close"][row, column] / bars["open"][row, column])
            terms.append(0.5 * reach**2 - (2.0 * math.log(2.0) - 1.0) * move**2)
            if row >= window - 1:
                out[row, column] = math.sqrt(math.fsum(terms[-window:]) / window)
    return out


def loop_difference(close: np.ndarray, order: float, threshold: float) -> np.ndarray:
    """Weights by the binomial series, until one is below the threshold; then every weight times every value."""
    weights = [1.0]
    while True:
        weight = -weights[-1] / len(weights) * (order - len(weights) + 1)
        if abs(weight) < threshold:
            break
        weights.append(weight)
    out = np.full(close.shape, np.nan)
    for column in range(close.shape[1]):
        logs = [math.log(value) for value in close[:, column]]
        for row in range(len(weights) - 1, close.shape[0]):
            out[row, column] = math.fsum(weight * logs[row - lag] for lag, weight in enumerate(weights))
    return out


def real_bars() -> dict[str, np.ndarray]:
    """Daily bars of the tickers in bokeh-sampledata, the last 2 000 of those that have as many."""
    spec = find_spec("bokeh_sampledata")
    path = (
        Path(spec.origin).parent / "_data" / "stocks.csv.gz" if spec is not None and spec.origin is not None else None
    )
    if path is None or not path.exists():
        pytest.skip("bokeh-sampledata is not installed")
    series: dict[str, list[list[float]]] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            lower = {key.lower(): value for key, value in row.items()}
            bar = [float(lower[name]) for name in ("open", "high", "low", "close")]
            series.setdefault(lower["ticker" if "ticker" in lower else "symbol"], []).append(bar)
    stacked = np.array([bars[-2_000:] for bars in series.values() if len(bars) >= 2_000])
    return {name: stacked[:, :, place].T for place, name in enumerate(("open", "high", "low", "close"))}


def assert_like_pandas(bars: dict[str, np.ndarray], run: Run, window: int, decay: float, **params: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    out = features(run, bars, window=window, decay_factor=decay, **params)
    close = pandas.DataFrame(bars["close"])
    rolling = close.rolling(window)
    zscore = (close - rolling.mean()) / rolling.std()
    squares = np.log(close / close.shift()) ** 2
    volatility = np.sqrt(squares.ewm(alpha=1.0 - decay).mean())
    np.testing.assert_allclose(out["ewma_volatility"], volatility, rtol=1e-9)
    # pandas takes values out of its sums again, which leaves traces.
    np.testing.assert_allclose(out["zscore"], zscore, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(30, 500),
    columns=st.integers(1, 4),
    window=st.integers(2, 30),
    decay=st.sampled_from([1e-6, 0.5, 0.94, 0.9999]),
)
def test_agrees_with_pandas(run: Run, seed: int, rows: int, columns: int, window: int, decay: float) -> None:
    assert_like_pandas(make_bars(seed, rows, columns), run, window, decay, **SHORT)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(60, 200),
    columns=st.integers(1, 3),
    window=st.integers(2, 60),
    order=st.sampled_from([0.0, 0.1, 0.4, 0.75, 1.0, 1.3, 2.0]),
    threshold=st.sampled_from([0.09, 1e-2, 3e-3]),  # none is a weight itself, whose rounding would decide
)
def test_agrees_with_the_loops(
    run: Run, seed: int, rows: int, columns: int, window: int, order: float, threshold: float
) -> None:
    bars = make_bars(seed, rows, columns)
    out = features(run, bars, window=window, difference_order=order, weight_threshold=threshold)
    np.testing.assert_allclose(out["garman_klass_volatility"], loop_garman_klass(bars, window), rtol=1e-12)
    np.testing.assert_allclose(
        out["fractional_difference"], loop_difference(bars["close"], order, threshold), rtol=1e-11, atol=1e-13
    )


def test_agrees_on_real_bars(run: Run) -> None:
    bars = real_bars()
    assert_like_pandas(bars, run, 20, 0.94)
    late = {name: array[-400:] for name, array in bars.items()}
    out = features(run, late)
    np.testing.assert_allclose(out["garman_klass_volatility"], loop_garman_klass(late, 20), rtol=1e-12)
    np.testing.assert_allclose(out["fractional_difference"], loop_difference(late["close"], 0.4, 1e-4), rtol=1e-11)


def test_orders_zero_and_one_are_the_log_price_and_its_return(run: Run) -> None:
    bars = make_bars(0, 100, 2)
    logs = np.log(bars["close"])
    none = features(run, bars, difference_order=0.0)["fractional_difference"]
    np.testing.assert_allclose(none, logs, rtol=1e-14)
    first = features(run, bars, difference_order=1.0)["fractional_difference"]
    np.testing.assert_allclose(first[1:], np.diff(logs, axis=0), rtol=1e-11, atol=1e-14)
    assert np.isnan(first[0]).all()


def test_half_differences_twice_are_a_return() -> None:
    # With every weight there is: (1 − B)^½ twice is 1 − B.
    half = np.array(difference_weights(0.5, 1e-5))[:400]
    product = np.convolve(half, half)[:400]
    assert product == pytest.approx(np.concatenate(([1.0, -1.0], np.zeros(398))), abs=1e-15)


@pytest.mark.parametrize(("rows", "columns"), [(60, 1), (1_000, 1), (5_000, 1), (3_333, 3), (500, 20)])
def test_differences_do_not_depend_on_how_a_series_is_cut(rows: int, columns: int, precise: Namespace) -> None:
    series = np.random.default_rng(0).random((rows, columns))
    weights = difference_weights(0.4, 1e-3)
    expected = np.stack([np.convolve(column, weights, "valid") for column in series.T], axis=1)
    out = fractional_difference(precise, precise.from_host(series), 0.4, 1e-3)
    np.testing.assert_allclose(precise.to_host(out), expected, rtol=1e-12)


def test_the_weights_reach_as_far_as_asked() -> None:
    weights = difference_weights(0.4, 1e-3)
    assert abs(weights[-1]) >= 1e-3 > abs(difference_weights(0.4, 1e-4)[len(weights)])
    assert weights[:3] == pytest.approx((1.0, -0.4, -0.12))


@pytest.mark.parametrize("level", [7.3, 1e-3, 123_456.7])
def test_a_series_that_stands_still_has_no_zscore(level: float, precise: Namespace, run: Run) -> None:
    still = np.full((60, 2), level)
    still[:10, 1] *= 3.0
    out = run(ROLLING, dict.fromkeys(("open", "high", "low", "close"), still), namespace=precise, window=20, **SHORT)
    zscore, ewma, garman_klass, _ = np.moveaxis(out["features"], 2, 0)
    assert np.isnan(zscore[:, 0]).all() and (ewma[1:, 0] == 0.0).all() and (garman_klass[19:] == 0.0).all()
    # Windows with the fall in them have a z-score; those after it have none.
    assert np.isfinite(zscore[19:29, 1]).all() and np.isnan(zscore[29:, 1]).all()


def test_zscores_keep_their_digits_at_high_prices(precise: Namespace, run: Run) -> None:
    steps = np.cumsum(np.random.default_rng(0).integers(-3, 4, (300, 2)), axis=0).astype(float)
    levels = [run(ROLLING, dict.fromkeys(("open", "high", "low", "close"), base + steps), namespace=precise, **SHORT)
              for base in (1e3, 2.0**33)]  # fmt: skip
    low, high = (out["features"][:, :, 0] for out in levels)
    np.testing.assert_allclose(high, low, rtol=1e-12, atol=1e-12)


def test_every_feature_survives_single_precision(single: Namespace, run: Run) -> None:
    bars = make_bars(1, 1_500, 3)
    contract = run(ROLLING, bars)["features"]
    out = run(ROLLING, bars, namespace=single)["features"]
    assert np.array_equal(np.isnan(out), np.isnan(contract))
    for place, name in enumerate(NAMES):
        warm = np.isfinite(contract[:, :, place])
        expected = contract[:, :, place][warm]
        error = np.linalg.norm(out[:, :, place][warm] - expected) / np.linalg.norm(expected)
        assert error < 5e-6, name


def test_each_feature_is_nan_until_it_is_warm(run: Run) -> None:
    out = features(run, make_bars(2, 200, 1), window=30, weight_threshold=1e-3)
    weights = len(difference_weights(0.4, 1e-3))
    for name, warm in zip(NAMES, (29, 1, 29, weights - 1), strict=True):
        assert np.isnan(out[name][:warm]).all() and np.isfinite(out[name][warm:]).all(), name


def test_the_size_of_a_block_changes_nothing(run: Run) -> None:
    bars = make_bars(3, 2_000, 2)
    small = NumpyNamespace()
    small.block = 50
    whole = run(ROLLING, bars, window=9, weight_threshold=1e-3)["features"]
    blocks = run(ROLLING, bars, namespace=small, window=9, weight_threshold=1e-3)["features"]
    np.testing.assert_allclose(blocks, whole, rtol=1e-11, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
def test_series_do_not_touch_each_other(run: Run, shares: list[float]) -> None:
    assert ROLLING.split is not None and ROLLING.merge is not None
    whole = Example({"weight_threshold": 1e-3}, make_bars(4, 150, 5))
    parts = [run(ROLLING, part.arrays, **part.params) for part in ROLLING.split(whole, shares)]
    expected = run(ROLLING, whole.arrays, **whole.params)["features"]
    np.testing.assert_allclose(ROLLING.merge(whole, parts)["features"], expected, rtol=1e-11, atol=1e-13)


def test_the_shortest_series_gives_one_value_of_each(run: Run) -> None:
    weights = len(difference_weights(0.4, 1e-2))
    out = features(run, make_bars(5, weights, 1), window=weights, **SHORT)
    for name in ("zscore", "garman_klass_volatility", "fractional_difference"):
        assert np.isnan(out[name][:-1]).all() and np.isfinite(out[name][-1]).all()


def test_series_shorter_than_a_feature_needs_are_refused(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="a window of 61 needs at least 61 bars, close has 60"):
        run(ROLLING, make_bars(0, 60, 1), window=61, **SHORT)
    with pytest.raises(InvalidParameter, match=r"needs at least 282 bars, close has 60; raise weight_threshold"):
        run(ROLLING, make_bars(0, 60, 1))


@pytest.mark.parametrize(("name", "factor"), [("open", 2.0), ("close", 2.0), ("open", 0.5), ("close", 0.5)])
def test_prices_beyond_the_bar_are_refused(name: str, factor: float, run: Run) -> None:
    bars = make_bars(0, 60, 2)
    bars[name] = bars[name].copy()
    bars[name][7, 1] *= factor
    inner = rf"{name}\[7, 1\]"
    outer = r"above high\[7, 1\]" if factor > 1.0 else r"low\[7, 1\]"
    with pytest.raises(InvalidArray, match=rf"{inner}.*{outer}" if factor > 1.0 else rf"{outer}.*above {inner}"):
        run(ROLLING, bars, **SHORT)


@pytest.mark.parametrize(("value", "message"), [(np.nan, r"close\[3, 0\]"), (0.0, "close must be > 0")])
def test_missing_prices_and_prices_of_nothing_are_refused(value: float, message: str, run: Run) -> None:
    bars = make_bars(0, 60, 1)
    bars["close"] = bars["close"].copy()
    bars["close"][3] = value
    with pytest.raises(InvalidArray, match=message):
        run(ROLLING, bars, **SHORT)
