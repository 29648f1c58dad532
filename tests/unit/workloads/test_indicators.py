"""Indicators against TA-Lib: random, real and awkward prices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Namespace, Workload
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.indicators import EMA, RSI, SMA, WORKLOADS

Run = Callable[..., dict[str, Any]]
AGREEMENT = 2e-9
every_indicator = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)


def short_name(workload: Workload) -> str:
    return workload.name.split(".")[1]


def reference(workload: Workload, close: np.ndarray, period: int) -> np.ndarray:
    talib = pytest.importorskip("talib", reason="TA-Lib is not installed")
    function = getattr(talib, short_name(workload).upper())
    return np.stack([function(np.ascontiguousarray(column), period) for column in close.T], axis=1)


def assert_agrees(workload: Workload, close: np.ndarray, period: int, run: Run, **options: Any) -> None:
    out = run(workload, {"close": close}, period=period, **options)[short_name(workload)]
    assert out == pytest.approx(reference(workload, close, period), rel=AGREEMENT, abs=AGREEMENT, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(3, 2_000),
    columns=st.integers(1, 4),
    ticks=st.sampled_from([None, 0.5]),
    data=st.data(),
)
@every_indicator
def test_agrees_with_talib(
    workload: Workload, run: Run, seed: int, rows: int, columns: int, ticks: float | None, data: st.DataObject
) -> None:
    period = data.draw(st.integers(2, min(rows - 1, 300)))
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(0.01 * rng.standard_normal((rows, columns)), axis=0))
    if ticks is not None:
        close = np.maximum(np.round(close / ticks), 1.0) * ticks  # many bars without a move
    assert_agrees(workload, close, period, run)


@every_indicator
@pytest.mark.parametrize("period", [2, 14, 200])
def test_agrees_with_talib_on_real_prices(workload: Workload, period: int, real_prices: np.ndarray, run: Run) -> None:
    assert_agrees(workload, real_prices, period, run)


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


@every_indicator
def test_the_shortest_series_gives_one_value(workload: Workload, run: Run) -> None:
    close = np.array([[1.0], [2.0], [4.0], [3.0], [5.0]])
    period = 4 if workload is RSI else 5
    out = run(workload, {"close": close}, period=period)[short_name(workload)]
    assert np.isnan(out[:-1]).all() and np.isfinite(out[-1]).all()
    assert_agrees(workload, close, period, run)


@pytest.mark.parametrize("workload", [SMA, EMA], ids=["sma", "ema"])
def test_a_period_of_one_is_the_series(workload: Workload, run: Run) -> None:
    close = np.random.default_rng(0).random((30, 2))
    assert run(workload, {"close": close}, period=1)[short_name(workload)] == pytest.approx(close, rel=1e-15)


@every_indicator
def test_the_size_of_a_block_changes_nothing(workload: Workload, run: Run) -> None:
    close = 100.0 + np.cumsum(np.random.default_rng(2).standard_normal((3_000, 3)), axis=0)
    small = NumpyNamespace()
    small.block = 50
    name = short_name(workload)
    whole = run(workload, {"close": close}, period=9)[name]
    assert run(workload, {"close": close}, namespace=small, period=9)[name] == pytest.approx(
        whole, rel=1e-12, nan_ok=True
    )


@every_indicator
def test_series_do_not_touch_each_other(workload: Workload, run: Run) -> None:
    close = 100.0 + np.random.default_rng(3).random((200, 3))
    name = short_name(workload)
    together = run(workload, {"close": close}, period=10)[name]
    alone = run(workload, {"close": close[:, 1:2]}, period=10)[name]
    assert together[:, 1:2] == pytest.approx(alone, rel=1e-13, nan_ok=True)


@every_indicator
def test_a_period_beyond_the_series_is_refused(workload: Workload, run: Run) -> None:
    with pytest.raises(InvalidParameter, match="bars, close has 10"):
        run(workload, {"close": np.ones((10, 1))}, period=11)


def test_rsi_needs_one_bar_more_than_its_period(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="at least 11 bars"):
        run(RSI, {"close": np.ones((10, 1))}, period=10)


@every_indicator
def test_missing_prices_are_refused(workload: Workload, run: Run) -> None:
    close = np.ones((50, 1))
    close[20] = np.nan
    with pytest.raises(InvalidArray, match=r"close\[20, 0\]"):
        run(workload, {"close": close}, period=5)
