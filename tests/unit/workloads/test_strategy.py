"""Moving-average backtests against a literal loop over the days and against pandas, on ties, real prices and ruin."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.strategy import BACKTEST_SMA_SWEEP
from tests.near import near

Run = Callable[..., dict[str, Any]]
Outputs = dict[str, Any]


def by_hand(close: np.ndarray, windows: np.ndarray, cost: float = 0.0, allow_short: bool = False) -> Outputs:
    """One pair of windows and one day after another, averages compared as fractions of whole numbers."""
    days = [int(price) for price in close]
    curves, statistics, turnover = [], [], []
    for fast, slow in windows.tolist():
        equity, peak, drawdown, held, traded = [1.0], 1.0, 0.0, 0, 0
        earned = []
        for day in range(1, len(days)):
            position = 0
            if day >= slow:
                crossed = sum(days[day - fast : day]) * slow > sum(days[day - slow : day]) * fast
                position = 1 if crossed else (-1 if allow_short else 0)
            pnl = position * (days[day] - days[day - 1]) / days[day - 1] - cost * abs(position - held)
            traded += abs(position - held)
            held = position
            earned.append(pnl)
            equity.append(equity[-1] * max(0.0, 1.0 + pnl))
            peak = max(peak, equity[-1])
            drawdown = min(drawdown, equity[-1] / peak - 1.0)
        deviation = np.std(earned, ddof=1)
        sharpe = np.mean(earned) / deviation * math.sqrt(252.0) if any(earned) else np.nan
        curves.append(equity)
        statistics.append([equity[-1] - 1.0, sharpe, drawdown])
        turnover.append(traded)
    return {"equity": np.array(curves).T, "statistics": np.array(statistics), "turnover": np.array(turnover)}


def by_pandas(close: np.ndarray, windows: np.ndarray, cost: float, allow_short: bool) -> Outputs:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    price = pd.Series(close.astype(float))
    curves, statistics, turnover = [], [], []
    for fast, slow in windows.tolist():
        averages = price.rolling(fast).mean(), price.rolling(slow).mean()
        signal = pd.Series(np.where(averages[0] > averages[1], 1.0, -1.0 if allow_short else 0.0))
        position = signal.where(averages[1].notna(), 0.0).shift(1, fill_value=0.0)
        traded = position.diff().abs().fillna(0.0)
        pnl = (position * price.pct_change()).fillna(0.0) - cost * traded
        equity = (1.0 + pnl).cumprod()
        sharpe = pnl[1:].mean() / pnl[1:].std() * math.sqrt(252.0)
        curves.append(equity)
        statistics.append([equity.iloc[-1] - 1.0, sharpe, (equity / equity.cummax() - 1.0).min()])
        turnover.append(int(traded.sum()))
    return {"equity": np.array(curves).T, "statistics": np.array(statistics), "turnover": np.array(turnover)}


def assert_same(out: Outputs, expected: Outputs, rel: float = 1e-10) -> None:
    assert np.array_equal(out["turnover"], expected["turnover"])
    assert out["equity"] == near(expected["equity"], rel=rel, abs=1e-12)
    assert out["statistics"] == near(expected["statistics"], rel=rel, abs=max(1e-11, rel / 10), nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    periods=st.integers(3, 150),
    pairs=st.integers(1, 6),
    start=st.sampled_from([6, 200, 2**31]),
    cost=st.sampled_from([0.0, 0.001, 0.3]),
    allow_short=st.booleans(),
)
def test_agrees_with_a_literal_loop(
    run: Run, seed: int, periods: int, pairs: int, start: int, cost: float, allow_short: bool
) -> None:
    """Few prices make many ties, and ties by rounding if anything were rounded."""
    rng = np.random.default_rng(seed)
    close = start + np.abs(np.cumsum(rng.integers(-1, 2, periods)))
    slow = rng.integers(2, min(periods, 40), pairs) if periods > 3 else np.full(pairs, 2)
    windows = np.stack((rng.integers(1, slow), slow), axis=1)
    out = run(BACKTEST_SMA_SWEEP, {"close": close, "windows": windows}, cost=cost, allow_short=allow_short)
    assert_same(out, by_hand(close, windows, cost, allow_short), rel=1e-9)


@pytest.mark.parametrize("allow_short", [False, True])
def test_agrees_with_pandas_on_real_prices(
    allow_short: bool, real_prices: np.ndarray, run: Run, precise: Namespace
) -> None:
    windows = np.array([[fast, slow] for fast in (1, 5, 20, 50) for slow in (60, 100, 200)])
    for column in real_prices.T[:2]:
        close = np.rint(100.0 * column).astype(np.int64)
        out = run(
            BACKTEST_SMA_SWEEP,
            {"close": close, "windows": windows},
            namespace=precise,
            cost=0.0005,
            allow_short=allow_short,
        )
        assert_same(out, by_pandas(close, windows, 0.0005, allow_short))


def test_float32_holds_the_very_same_positions(run: Run, single: Namespace) -> None:
    rng = np.random.default_rng(4)
    close = 10_000 + np.cumsum(rng.choice([-25, 0, 25], 1_000))  # averages on a grid: many are equal, or nearly
    windows = np.array([[fast, slow] for fast in (1, 2, 5, 10, 20) for slow in (25, 40, 100)])
    inputs = {"close": close, "windows": windows}
    for allow_short in (False, True):
        contract = run(BACKTEST_SMA_SWEEP, inputs, allow_short=allow_short, cost=0.001)
        out = run(BACKTEST_SMA_SWEEP, inputs, namespace=single, allow_short=allow_short, cost=0.001)
        assert_same(out, contract, rel=1e-5)


def test_positions_by_hand(run: Run) -> None:
    close = np.array([100, 110, 121, 110, 88, 110])
    # The averages of 1 and 2 closes say: long from the close of day 1, out from that of day 3.
    out = run(BACKTEST_SMA_SWEEP, {"close": close, "windows": np.array([[1, 2]])}, cost=0.01)
    after_entry = 1.0 + 0.1 - 0.01
    after_fall = after_entry * (110 / 121)
    assert out["equity"][:, 0] == pytest.approx([1, 1, after_entry, after_fall, after_fall * 0.99, after_fall * 0.99])
    assert out["turnover"].tolist() == [2]
    assert out["statistics"][0, 2] == pytest.approx(0.99 * 110 / 121 - 1.0)


def test_equal_averages_are_no_signal(run: Run, precise: Namespace) -> None:
    close = np.full(100, 730)  # 7.30, which no float holds
    windows = np.array([[3, 7], [5, 20], [1, 99]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = run(BACKTEST_SMA_SWEEP, {"close": close, "windows": windows}, namespace=precise, cost=0.01)
    assert (out["equity"] == 1.0).all() and (out["turnover"] == 0).all()
    assert np.isnan(out["statistics"][:, 1]).all() and (out["statistics"][:, [0, 2]] == 0.0).all()


@pytest.mark.parametrize("periods", [3, 63, 64, 65, 128, 129])
def test_a_slow_window_of_all_but_one_close_holds_for_one_period(periods: int, run: Run) -> None:
    close = np.arange(100, 100 + periods)
    out = run(BACKTEST_SMA_SWEEP, {"close": close, "windows": np.array([[1, periods - 1]])})
    assert out["turnover"].tolist() == [1]
    assert out["equity"].shape == (periods, 1)
    assert (out["equity"][:-1] == 1.0).all()
    assert out["equity"][-1, 0] == pytest.approx(close[-1] / close[-2], rel=1e-14)


@pytest.mark.parametrize("later", [1, 500])
def test_who_loses_everything_has_nothing_left(later: int, run: Run, single: Namespace) -> None:
    close = np.concatenate(
        ([100, 90, 80, 70, 150], np.resize([160, 700], later))
    )  # a short seller's ruin, again and again
    inputs = {"close": close, "windows": np.array([[1, 2]])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = run(BACKTEST_SMA_SWEEP, inputs, allow_short=True)
    assert out["equity"][3, 0] > 1.0 and (out["equity"][4:] == 0.0).all()
    assert out["statistics"][0, [0, 2]].tolist() == [-1.0, -1.0]
    assert_same(out, by_hand(close, inputs["windows"], allow_short=True))
    assert_same(run(BACKTEST_SMA_SWEEP, inputs, namespace=single, allow_short=True), out, rel=1e-5)


def test_always_long_earns_what_the_market_does(run: Run) -> None:
    close = np.cumsum(np.random.default_rng(0).integers(1, 50, 400)) + 1_000  # only rises
    out = run(BACKTEST_SMA_SWEEP, {"close": close, "windows": np.array([[2, 10]])})
    assert out["equity"][10:, 0] == pytest.approx(close[10:] / close[9], rel=1e-12)
    assert out["statistics"][0, 2] == 0.0


def test_the_unit_of_prices_does_not_matter(run: Run) -> None:
    inputs = BACKTEST_SMA_SWEEP.example(20_000, np.random.default_rng(5)).arrays
    cents = run(BACKTEST_SMA_SWEEP, inputs)
    finer = run(BACKTEST_SMA_SWEEP, {**inputs, "close": 1_000 * inputs["close"]})
    assert_same(finer, cents, rel=1e-12)


def test_32_bit_inputs_do_not_overflow(run: Run, precise: Namespace) -> None:
    inputs = {"close": np.arange(2**31 - 600, 2**31 - 1, 2), "windows": np.array([[3, 40], [20, 200]])}
    narrow = {name: array.astype(np.int32) for name, array in inputs.items()}
    assert_same(run(BACKTEST_SMA_SWEEP, narrow, namespace=precise), run(BACKTEST_SMA_SWEEP, inputs), rel=1e-14)


def test_the_size_of_a_block_changes_nothing(run: Run) -> None:
    example = BACKTEST_SMA_SWEEP.example(50_000, np.random.default_rng(6))
    small = NumpyNamespace()
    small.block = 10
    whole = run(BACKTEST_SMA_SWEEP, example.arrays, **example.params)
    assert_same(run(BACKTEST_SMA_SWEEP, example.arrays, namespace=small, **example.params), whole, rel=1e-14)


@settings(max_examples=10, deadline=None)
@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_parts_merge_to_the_whole(run: Run, shares: list[float]) -> None:
    assert BACKTEST_SMA_SWEEP.split is not None and BACKTEST_SMA_SWEEP.merge is not None
    example = BACKTEST_SMA_SWEEP.example(20_000, np.random.default_rng(7))
    whole = Example({**example.params, "allow_short": True, "periods_per_year": 252}, example.arrays)
    parts = [run(BACKTEST_SMA_SWEEP, part.arrays, **part.params) for part in BACKTEST_SMA_SWEEP.split(whole, shares)]
    merged = BACKTEST_SMA_SWEEP.merge(whole, parts)
    for name, expected in run(BACKTEST_SMA_SWEEP, whole.arrays, **whole.params).items():
        assert np.array_equal(merged[name], expected)


@pytest.mark.parametrize(
    ("pair", "message"), [((5, 5), r"windows\[1\] is \(5, 5\)"), ((5, 50), "slow < 50"), ((0, 5), ">= 1")]
)
def test_windows_that_do_not_fit_are_refused(pair: tuple[int, int], message: str, run: Run) -> None:
    with pytest.raises(InvalidArray, match=message):
        run(BACKTEST_SMA_SWEEP, {"close": np.arange(1, 51), "windows": np.array([[2, 3], pair])})


def test_prices_that_would_overflow_are_refused(run: Run) -> None:
    close = np.full(50_000, 2**39)
    with pytest.raises(InvalidArray, match="larger ticks, at most 23058"):
        run(BACKTEST_SMA_SWEEP, {"close": close, "windows": np.array([[10_000, 40_000]])})
    with pytest.raises(InvalidArray, match="close must be >= 1"):
        run(BACKTEST_SMA_SWEEP, {"close": np.arange(50), "windows": np.array([[2, 3]])})


def test_prices_must_be_whole_ticks(run: Run) -> None:
    with pytest.raises(InvalidArray, match="close must be int64"):
        run(BACKTEST_SMA_SWEEP, {"close": np.full(50, 7.3), "windows": np.array([[2, 3]])})


def test_two_closes_are_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="it needs 3 to"):
        run(BACKTEST_SMA_SWEEP, {"close": np.array([1, 2]), "windows": np.array([[1, 2]])})


def test_a_negative_cost_is_refused(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="cost must be >= 0"):
        run(BACKTEST_SMA_SWEEP, {"close": np.arange(1, 51), "windows": np.array([[2, 3]])}, cost=-0.01)
