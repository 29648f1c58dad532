"""Indicators against TA-Lib on random, real and awkward prices, and Bollinger bands against exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace, Workload
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.indicators import ATR, BBANDS, EMA, MACD, RSI, SMA, WORKLOADS
from tests.near import near

Run = Callable[..., dict[str, Any]]
AGREEMENT = 2e-9
every_indicator = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)


def params_for(workload: Workload, period: int) -> dict[str, int]:
    """Parameters whose longest average is about ``period`` bars long."""
    if workload is MACD:
        slow = max(3, period // 2)
        return {"fast_period": max(2, slow // 2), "slow_period": slow, "signal_period": max(1, period // 3)}
    return {"period": period}


def bars(close: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Bars that hold their close, and reach beyond it by up to 2 %."""
    reach = np.random.default_rng(seed).uniform(0.0, 0.02, (2, *close.shape)) * np.abs(close)
    return {"high": close + reach[0], "low": close - reach[1], "close": close}


def inputs(workload: Workload, close: np.ndarray) -> dict[str, np.ndarray]:
    given = bars(close)
    return {array.name: given[array.name] for array in workload.inputs}


def reference(workload: Workload, arrays: dict[str, np.ndarray], params: dict[str, int]) -> dict[str, np.ndarray]:
    talib = pytest.importorskip("talib", reason="TA-Lib is not installed")
    function = getattr(talib, workload.name.split(".")[1].upper())
    columns = []
    for index in range(arrays["close"].shape[1]):
        series = [np.ascontiguousarray(array[:, index]) for array in arrays.values()]
        values = function(*series, *params.values(), *([2.0, 2.0] if workload is BBANDS else []))
        columns.append(values if isinstance(values, tuple) else (values,))
    return {
        output.name: np.stack([column[place] for column in columns], axis=1)
        for place, output in enumerate(workload.outputs)
    }


def assert_agrees(workload: Workload, close: np.ndarray, period: int, run: Run, **options: Any) -> None:
    arrays, params = inputs(workload, close), params_for(workload, period)
    out = run(workload, arrays, **params, **options)
    for name, expected in reference(workload, arrays, params).items():
        np.testing.assert_allclose(out[name], expected, rtol=AGREEMENT, atol=AGREEMENT, err_msg=name)


def exact_bands(close: np.ndarray, period: int) -> dict[str, np.ndarray]:
    """Mean ± 2 deviations of each window, with mean and variance in fractions."""
    bands = np.full((3, *close.shape), np.nan)
    for column in range(close.shape[1]):
        exact = [Fraction(value) for value in close[:, column].tolist()]
        for row in range(period - 1, close.shape[0]):
            window = exact[row - period + 1 : row + 1]
            mean = sum(window) / period
            deviation = sqrt(sum((value - mean) ** 2 for value in window) / period)
            bands[:, row, column] = float(mean) + 2.0 * deviation, float(mean), float(mean) - 2.0 * deviation
    return dict(zip(("upper", "middle", "lower"), bands, strict=True))


def walk(seed: int, rows: int, columns: int) -> np.ndarray:
    return 100.0 * np.exp(np.cumsum(0.01 * np.random.default_rng(seed).standard_normal((rows, columns)), axis=0))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(6, 2_000),
    columns=st.integers(1, 4),
    ticks=st.booleans(),
    data=st.data(),
)
@every_indicator
def test_agrees_with_talib(
    workload: Workload, run: Run, seed: int, rows: int, columns: int, ticks: bool, data: st.DataObject
) -> None:
    period = data.draw(st.integers(2, min(rows - 1, 300)))
    close = walk(seed, rows, columns)
    if ticks:
        close = np.maximum(np.round(2.0 * close), 1.0) / 2.0  # many bars without a move
    assert_agrees(workload, close, period, run)


@every_indicator
@pytest.mark.parametrize("period", [2, 14, 200])
def test_agrees_with_talib_on_real_prices(workload: Workload, period: int, real_prices: np.ndarray, run: Run) -> None:
    assert_agrees(workload, real_prices, max(period, 6) if workload is MACD else period, run)


@every_indicator
def test_agrees_with_talib_on_a_long_series(workload: Workload, run: Run, precise: Namespace) -> None:
    rng = np.random.default_rng(1)
    close = 1e4 + np.cumsum(rng.choice([-0.25, 0.0, 0.25], (150_001, 1)), axis=0)
    assert_agrees(workload, close, 20, run, namespace=precise)


@every_indicator
def test_agrees_with_talib_on_a_constant_series(workload: Workload, run: Run) -> None:
    assert_agrees(workload, np.full((50, 2), 7.3), 14, run)


@every_indicator
def test_agrees_with_talib_when_moves_stop(workload: Workload, run: Run) -> None:
    close = np.concatenate([100.0 + np.random.default_rng(0).standard_normal((40, 1)), np.full((400, 1), 100.0)])
    assert_agrees(workload, close, 14, run)


@every_indicator
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_agrees_with_talib_on_one_way_series(workload: Workload, direction: float, run: Run) -> None:
    assert_agrees(workload, 500.0 + direction * np.arange(100.0)[:, None], 14, run)


@pytest.mark.parametrize("tick", [0.5, 0.25])
@pytest.mark.parametrize("level", [0.0, 1e4, 2.0**33])
def test_bands_keep_all_digits_however_high_the_prices(tick: float, level: float, precise: Namespace, run: Run) -> None:
    steps = np.random.default_rng(3).choice([-tick, 0.0, tick], (400, 2), p=[0.1, 0.8, 0.1])
    close = level + np.cumsum(steps, axis=0)
    out = run(BBANDS, {"close": close}, namespace=precise, period=10)
    for name, expected in exact_bands(close, 10).items():
        assert out[name] == near(expected, rel=1e-15, abs=1e-12, nan_ok=True)


def test_bands_take_their_own_number_of_deviations(run: Run) -> None:
    close = walk(0, 60, 1)
    out = run(BBANDS, {"close": close}, period=9, deviations_up=3.0, deviations_down=0.0)
    deviation = np.array([close[row - 8 : row + 1].std() for row in range(8, 60)])
    assert (out["upper"] - out["middle"])[8:, 0] == pytest.approx(3.0 * deviation)
    assert np.array_equal(out["lower"], out["middle"], equal_nan=True)


def test_single_precision_survives_high_prices_with_small_moves(single: Namespace, run: Run) -> None:
    close = 1e4 + np.cumsum(np.random.default_rng(1).choice([-0.25, 0.0, 0.25], (3_000, 2)), axis=0)
    rounded = 1e-7 * close.max()
    for workload, name, size in (
        (SMA, "sma", rounded),
        (BBANDS, "upper", rounded),
        (EMA, "ema", 10 * rounded),
        (RSI, "rsi", 1e-3),
        (MACD, "macd", 1e-5),
        (MACD, "histogram", 1e-5),
    ):
        outputs = run(workload, {"close": close}, namespace=single)
        contract = run(workload, {"close": close})
        assert outputs[name] == near(contract[name], rel=0.0, abs=size, nan_ok=True), name
    bands = {space: run(BBANDS, {"close": close}, namespace=space) for space in (single, NumpyNamespace())}
    widths = [out["upper"] - out["lower"] for out in bands.values()]
    assert widths[0] == near(widths[1], rel=0.0, abs=4 * rounded, nan_ok=True)


@every_indicator
def test_the_shortest_series_gives_one_value(workload: Workload, run: Run) -> None:
    close = np.array([[1.0], [2.0], [4.0], [3.0], [5.0]])
    if workload is MACD:
        params = {"fast_period": 2, "slow_period": 3, "signal_period": 3}
    else:
        params = {"period": 4 if workload in (RSI, ATR) else 5}
    arrays = inputs(workload, close)
    expected = reference(workload, arrays, params)
    for name, values in run(workload, arrays, **params).items():
        assert np.isnan(values[:-1]).all() and np.isfinite(values[-1]).all()
        assert values == near(expected[name], rel=AGREEMENT, abs=AGREEMENT, nan_ok=True)


@pytest.mark.parametrize(("workload", "name"), [(SMA, "sma"), (EMA, "ema"), (BBANDS, "middle"), (BBANDS, "upper")])
def test_a_period_of_one_is_the_series(workload: Workload, name: str, run: Run) -> None:
    close = np.random.default_rng(0).random((30, 2))
    assert run(workload, {"close": close}, period=1)[name] == near(close, rel=1e-15)


def test_a_period_of_one_is_the_true_range(run: Run) -> None:
    talib = pytest.importorskip("talib", reason="TA-Lib is not installed")
    arrays = bars(walk(0, 50, 1))
    expected = talib.TRANGE(*(array[:, 0].copy() for array in arrays.values()))
    assert run(ATR, arrays, period=1)["atr"][:, 0] == near(expected, rel=1e-12, nan_ok=True)


@every_indicator
def test_the_size_of_a_block_changes_nothing(workload: Workload, run: Run) -> None:
    arrays, params = inputs(workload, walk(2, 3_000, 3)), params_for(workload, 30)
    small = NumpyNamespace()
    small.block = 50
    blocks = run(workload, arrays, namespace=small, **params)
    for name, whole in run(workload, arrays, **params).items():
        assert blocks[name] == near(whole, rel=1e-12, abs=1e-12, nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
@every_indicator
def test_series_do_not_touch_each_other(workload: Workload, run: Run, shares: list[float]) -> None:
    assert workload.split is not None and workload.merge is not None
    whole = Example(dict(params_for(workload, 10)), inputs(workload, walk(3, 200, 5)))
    parts = [run(workload, part.arrays, **part.params) for part in workload.split(whole, shares)]
    merged = workload.merge(whole, parts)
    for name, values in run(workload, whole.arrays, **whole.params).items():
        assert merged[name] == near(values, rel=1e-12, abs=1e-12, nan_ok=True)


@every_indicator
def test_a_period_beyond_the_series_is_refused(workload: Workload, run: Run) -> None:
    params = {"slow_period": 30} if workload is MACD else {"period": 11}
    with pytest.raises(InvalidParameter, match="bars, close has 10"):
        run(workload, inputs(workload, np.ones((10, 1))), **params)


@pytest.mark.parametrize("workload", [RSI, ATR], ids=["rsi", "atr"])
def test_changes_need_one_bar_more_than_the_period(workload: Workload, run: Run) -> None:
    with pytest.raises(InvalidParameter, match="at least 11 bars"):
        run(workload, inputs(workload, np.ones((10, 1))), period=10)


def test_macd_needs_a_fast_period_below_the_slow_one(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="fast_period must be less than slow_period, got 26 and 26"):
        run(MACD, {"close": np.ones((100, 1))}, fast_period=26)


@every_indicator
def test_missing_prices_are_refused(workload: Workload, run: Run) -> None:
    arrays = inputs(workload, np.ones((50, 1)))
    arrays["close"][20] = np.nan
    with pytest.raises(InvalidArray, match=r"close\[20, 0\]"):
        run(workload, arrays, **params_for(workload, 6))


def test_a_high_below_its_low_is_refused(run: Run) -> None:
    arrays = bars(np.full((50, 2), 10.0))
    arrays["high"][30, 1] = 9.0
    with pytest.raises(InvalidArray, match=r"low\[30, 1\] is 9\.\d+, above high\[30, 1\], which is 9;"):
        run(ATR, arrays, period=5)
