"""Bars against pandas and a loop over the ticks: synthetic trades, real closes, and awkward streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.marketdata import OHLCV_BARS
from routerd.workloads.ticks import tick_stream
from tests.near import near

Run = Callable[..., dict[str, Any]]
SIZES: dict[str, tuple[str, float]] = {
    "time": ("interval_seconds", 0.8),
    "tick": ("ticks_per_bar", 7),
    "volume": ("volume_per_bar", 700.0),
    "dollar": ("dollars_per_bar", 90_000.0),
}
every_bar_type = pytest.mark.parametrize("bar_type", SIZES)


def size_of(bar_type: str) -> dict[str, Any]:
    name, size = SIZES[bar_type]
    return {"bar_type": bar_type, name: size}


def ticks_of(seed: int, count: int, symbols: int) -> dict[str, np.ndarray]:
    """Synthetic trades whose prices are quarters, so that values and their sums are exact."""
    ticks = tick_stream(np.random.default_rng(seed), count, symbols)
    return {**ticks, "price": np.round(4.0 * ticks["price"]) / 4.0}


def stream(quantity: list[float], **arrays: Any) -> dict[str, np.ndarray]:
    """Trades of one symbol at a price of 10, a second apart, unless said otherwise."""
    count = len(quantity)
    usual = {
        "timestamp": np.arange(count) * 1_000_000_000,
        "symbol": np.zeros(count, dtype=np.int64),
        "price": np.full(count, 10.0),
        "quantity": np.asarray(quantity, dtype=np.float64),
    }
    return {**usual, **{name: np.asarray(values) for name, values in arrays.items()}}


def loop(ticks: dict[str, np.ndarray], bar_type: str, size: float) -> dict[str, np.ndarray]:
    """One tick after another, one symbol after another."""
    interval = round(size * 1e9)
    bars: list[list[float]] = []
    notes: list[list[int]] = []
    for symbol in np.unique(ticks["symbol"]).tolist():
        mine = ticks["symbol"] == symbol
        filled, number = np.inf, None
        columns = (ticks[name][mine].tolist() for name in ("timestamp", "price", "quantity"))
        for time, price, quantity in zip(*columns, strict=True):
            if (time // interval != number) if bar_type == "time" else (filled >= size):
                filled, number = 0.0, time // interval
                start = number * interval if bar_type == "time" else time
                bars.append([price, price, price, price, 0.0, 0.0])
                notes.append([symbol, start, 0, 0])
            bar, note = bars[-1], notes[-1]
            bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
            bar[4] += quantity
            bar[5] += price * quantity
            note[2] = note[1] + interval if bar_type == "time" else time
            note[3] += 1
            filled += {"time": 0.0, "tick": 1.0, "volume": quantity, "dollar": price * quantity}[bar_type]
    out = np.array(bars)
    with np.errstate(invalid="ignore"):
        out[:, 5] /= out[:, 4]
    names = ("symbol", "bar_start", "bar_end", "tick_count")
    return {"bars": out, **dict(zip(names, np.array(notes, dtype=np.int64).T, strict=True))}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    assert np.array_equal(actual["bars"][:, :5], expected["bars"][:, :5])
    assert actual["bars"][:, 5] == near(expected["bars"][:, 5], rel=1e-13, nan_ok=True)
    for name in actual.keys() - {"bars"}:
        assert actual[name].dtype == np.int64
        assert np.array_equal(actual[name], expected[name]), name


def assert_agrees(run: Run, ticks: dict[str, np.ndarray], bar_type: str) -> None:
    assert_same(run(OHLCV_BARS, ticks, **size_of(bar_type)), loop(ticks, bar_type, SIZES[bar_type][1]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 400), symbols=st.integers(1, 6))
@every_bar_type
def test_agrees_with_a_loop_over_the_ticks(run: Run, bar_type: str, seed: int, count: int, symbols: int) -> None:
    assert_agrees(run, ticks_of(seed, count, symbols), bar_type)


@every_bar_type
def test_agrees_with_a_loop_over_a_long_stream(run: Run, bar_type: str) -> None:
    assert_agrees(run, ticks_of(5, 60_000, 3), bar_type)


@pytest.mark.parametrize("interval", [0.5, 60.0, 7_000.0])
@pytest.mark.parametrize("symbols", [1, 30])
def test_time_bars_are_those_of_pandas(run: Run, interval: float, symbols: int) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    ticks = tick_stream(np.random.default_rng(2), 500_000 if symbols == 1 else 50_000, symbols)
    frame = pd.DataFrame(ticks).assign(time=pd.to_datetime(ticks["timestamp"]))
    groups = frame.groupby(["symbol", pd.Grouper(key="time", freq=f"{round(interval * 1e3)}ms", origin="epoch")])
    bars = groups["price"].ohlc().assign(volume=groups["quantity"].sum()).dropna()
    out = run(OHLCV_BARS, ticks, interval_seconds=interval)
    assert np.array_equal(out["bars"][:, :5], bars.to_numpy())
    assert np.array_equal(out["symbol"], bars.index.get_level_values(0))
    assert np.array_equal(out["bar_start"], bars.index.get_level_values(1).as_unit("ns").astype(np.int64))


def test_weekly_bars_of_real_closes_are_those_of_pandas(run: Run, real_prices: np.ndarray) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    days = pd.bdate_range("2000-01-03", periods=real_prices.shape[0], unit="ns")
    close = pd.Series(real_prices[:, 0], index=days)
    ticks = stream([1.0] * len(days), timestamp=days.astype(np.int64), price=close.to_numpy())
    bars = run(OHLCV_BARS, ticks, interval_seconds=7 * 86_400.0)["bars"]
    assert np.array_equal(bars[:, :4], close.resample("7D", origin="epoch").ohlc().to_numpy())
    assert bars[:, 5] == near(close.resample("7D", origin="epoch").mean().to_numpy(), rel=1e-14)


@every_bar_type
def test_one_tick_is_one_bar(run: Run, bar_type: str) -> None:
    out = run(OHLCV_BARS, stream([3.0]), **size_of(bar_type))
    assert out["bars"].tolist() == [[10.0, 10.0, 10.0, 10.0, 3.0, 10.0]]
    assert out["tick_count"].tolist() == [1]


@pytest.mark.parametrize(
    "size",
    [
        {"interval_seconds": 1e6},
        {"bar_type": "tick", "ticks_per_bar": 1_000_000},
        {"bar_type": "volume", "volume_per_bar": 1e9},
        {"bar_type": "dollar", "dollars_per_bar": 1e9},
    ],
)
def test_all_ticks_may_share_one_bar(run: Run, size: dict[str, Any]) -> None:
    count = 70_000
    price = 10.0 + np.arange(count) % 7
    out = run(OHLCV_BARS, stream([1.0] * count, price=price), **size)
    assert out["bars"][0, :5].tolist() == [10.0, 16.0, 10.0, price[-1], count]
    assert out["tick_count"].tolist() == [count]


def test_the_tick_that_fills_a_bar_closes_it_and_its_excess_is_dropped(run: Run) -> None:
    out = run(OHLCV_BARS, stream([4.0, 6.0, 25.0, 9.0, 1.0, 2.0]), bar_type="volume", volume_per_bar=10.0)
    assert out["bars"][:, 4].tolist() == [10.0, 25.0, 10.0, 2.0]
    assert out["tick_count"].tolist() == [2, 1, 2, 1]


def test_a_last_bar_that_is_just_full_leaves_no_empty_one(run: Run) -> None:
    out = run(OHLCV_BARS, stream([5.0] * 4), bar_type="volume", volume_per_bar=10.0)
    assert out["tick_count"].tolist() == [2, 2]


@pytest.mark.parametrize("size", [1_000.0, 16_384.0, 30_000.0, 100_000.0])
def test_volume_bars_may_be_longer_than_what_is_summed_at_a_time(run: Run, size: float) -> None:
    count = 150_001
    out = run(OHLCV_BARS, stream([1.0] * count), bar_type="volume", volume_per_bar=size)
    full, rest = divmod(count, int(size))
    assert out["tick_count"].tolist() == [int(size)] * full + [rest] * (rest > 0)


def test_a_tick_at_the_border_belongs_to_the_interval_that_begins(run: Run) -> None:
    second = 1_000_000_000
    times = [second - 1, second, second, second, 2 * second]
    out = run(OHLCV_BARS, stream([1.0] * 5, timestamp=times, price=[1.0, 2.0, 4.0, 3.0, 5.0]), interval_seconds=1.0)
    assert out["bars"][:, :4].tolist() == [[1.0] * 4, [2.0, 4.0, 2.0, 3.0], [5.0] * 4]
    assert out["bar_start"].tolist() == [0, second, 2 * second]
    assert out["bar_end"].tolist() == [second, 2 * second, 3 * second]


def test_intervals_without_a_trade_have_no_bar(run: Run) -> None:
    out = run(OHLCV_BARS, stream([1.0, 1.0], timestamp=[0, 10**18]), interval_seconds=1e-9)
    assert out["bar_start"].tolist() == [0, 10**18]


def test_nanoseconds_are_exact(run: Run) -> None:
    late = 1_704_205_800_123_456_789
    out = run(OHLCV_BARS, stream([1.0, 1.0], timestamp=[late, late + 1]), bar_type="tick", ticks_per_bar=1)
    assert out["bar_start"].tolist() == out["bar_end"].tolist() == [late, late + 1]


def test_a_bar_without_volume_has_no_vwap(run: Run) -> None:
    bars = run(OHLCV_BARS, stream([0.0, 0.0, 1.0]), bar_type="tick", ticks_per_bar=2)["bars"]
    assert np.isnan(bars[:, 5]).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("ids", [[-5, 3], [7, 100_000], [-(2**31), 2**31 - 1]])
def test_symbols_may_be_any_integers(run: Run, ids: list[int], dtype: str) -> None:
    symbol = np.array([ids[1], ids[0], ids[1], ids[0]], dtype=dtype)
    out = run(OHLCV_BARS, stream([1.0, 2.0, 4.0, 8.0], symbol=symbol), interval_seconds=60.0)
    assert out["symbol"].dtype == np.int64 and out["symbol"].tolist() == ids
    assert out["bars"][:, 4].tolist() == [10.0, 5.0]


@every_bar_type
def test_symbols_do_not_touch_each_other(run: Run, bar_type: str) -> None:
    ticks = ticks_of(8, 5_000, 5)
    together = run(OHLCV_BARS, ticks, **size_of(bar_type))
    alone = run(OHLCV_BARS, {name: array[ticks["symbol"] == 2] for name, array in ticks.items()}, **size_of(bar_type))
    assert_same({name: array[together["symbol"] == 2] for name, array in together.items()}, alone)


@every_bar_type
def test_what_every_bar_keeps(run: Run, bar_type: str) -> None:
    ticks = tick_stream(np.random.default_rng(9), 20_000, 4)
    ticks["quantity"] = ticks["quantity"] / 7.0
    out = run(OHLCV_BARS, ticks, **size_of(bar_type))
    opened, high, low, close, volume, vwap = out["bars"].T
    for inside in (opened, close, vwap):
        assert (low <= inside).all() and (inside <= high).all()
    assert out["tick_count"].sum() == 20_000
    assert volume.sum() == pytest.approx(ticks["quantity"].sum(), rel=1e-12)
    assert (out["bar_start"] <= out["bar_end"]).all()


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.01, 0.9, 0.09], [0.2] * 5])
@every_bar_type
def test_parts_merged_are_the_whole(run: Run, bar_type: str, shares: list[float]) -> None:
    assert OHLCV_BARS.split is not None and OHLCV_BARS.merge is not None
    ticks, params = ticks_of(10, 4_000, 7), size_of(bar_type)
    parts = OHLCV_BARS.split(Example(params, ticks), shares)
    assert 1 <= len(parts) <= len(shares)
    merged = OHLCV_BARS.merge(Example(params, ticks), [run(OHLCV_BARS, part.arrays, **part.params) for part in parts])
    assert_same(merged, run(OHLCV_BARS, ticks, **params))


def test_one_symbol_is_not_split() -> None:
    assert OHLCV_BARS.split is not None
    assert len(OHLCV_BARS.split(Example({}, ticks_of(0, 100, 1)), [0.3, 0.3, 0.4])) == 1


@every_bar_type
def test_the_size_of_a_block_changes_nothing(run: Run, bar_type: str) -> None:
    ticks = ticks_of(11, 3_000, 3)
    small = NumpyNamespace()
    small.block = 10
    assert_same(
        run(OHLCV_BARS, ticks, namespace=small, **size_of(bar_type)), run(OHLCV_BARS, ticks, **size_of(bar_type))
    )


def test_symbols_may_follow_each_other_in_time(run: Run) -> None:
    out = run(OHLCV_BARS, stream([1.0] * 3, timestamp=[5, 6, 1], symbol=[1, 1, 2]), interval_seconds=60.0)
    assert out["symbol"].tolist() == [1, 2]


@pytest.mark.parametrize("symbol", [[4, 4, 4, 4], [4, 9, 4, 4]])
def test_ticks_out_of_order_are_refused(run: Run, symbol: list[int]) -> None:
    with pytest.raises(InvalidArray, match=r"timestamp\[3\] is earlier than timestamp\[2\] of the same symbol \(4\)"):
        run(OHLCV_BARS, stream([1.0] * 4, timestamp=[1, 2, 5, 3], symbol=symbol), interval_seconds=1.0)


@pytest.mark.parametrize("bar_type", SIZES)
def test_a_bar_needs_a_size(run: Run, bar_type: str) -> None:
    with pytest.raises(InvalidParameter, match=f"{bar_type} bars need the parameter {SIZES[bar_type][0]}"):
        run(OHLCV_BARS, stream([1.0]), bar_type=bar_type)


@pytest.mark.parametrize("name", ["volume_per_bar", "dollars_per_bar", "interval_seconds", "ticks_per_bar"])
def test_a_size_of_zero_is_refused(run: Run, name: str) -> None:
    with pytest.raises(InvalidParameter, match=name):
        run(OHLCV_BARS, stream([1.0]), **{name: 0})


def test_missing_and_negative_values_are_refused(run: Run) -> None:
    for name, value, message in (
        ("price", np.nan, r"price\[1\]"),
        ("quantity", np.inf, r"quantity\[1\]"),
        ("quantity", -1.0, "quantity must be >= 0"),
    ):
        ticks = stream([1.0, 1.0])
        ticks[name][1] = value
        with pytest.raises(InvalidArray, match=message):
            run(OHLCV_BARS, ticks, interval_seconds=1.0)


def test_dollar_bars_of_negative_prices_are_refused(run: Run) -> None:
    ticks = stream([1.0, 1.0], price=[5.0, -37.63])
    assert run(OHLCV_BARS, ticks, bar_type="volume", volume_per_bar=9.0)["bars"][0, 2] == -37.63
    with pytest.raises(InvalidArray, match="dollar bars need prices >= 0"):
        run(OHLCV_BARS, ticks, bar_type="dollar", dollars_per_bar=9.0)


def test_times_in_floating_point_are_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="timestamp must be int64"):
        run(OHLCV_BARS, stream([1.0], timestamp=[1.7e18]), interval_seconds=1.0)
