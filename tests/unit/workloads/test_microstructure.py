"""VPIN against a loop that fills one bucket after another from one bar after another, as the paper tells it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray
from routerd.interfaces import Namespace
from routerd.namespaces.execution import refusal
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.microstructure import VPIN
from tests.near import near

Run = Callable[..., dict[str, Any]]


def loop(close: np.ndarray, volume: np.ndarray, size: float, window: int) -> tuple[list[float], list[int]]:
    normal, prices = NormalDist(), close.tolist()
    changes = [after - before for before, after in pairwise(prices)]
    deviation = stdev(changes)
    imbalances, bars = [], []
    bought, filled = 0.0, 0.0
    for bar, (change, traded) in enumerate(zip(changes, volume[1:].tolist(), strict=True), start=1):
        left = traded
        share = normal.cdf(change / deviation)
        while filled + left >= size:
            bought += (size - filled) * share
            left -= size - filled
            imbalances.append(abs((size - bought) - bought))
            bars.append(bar)
            bought, filled = 0.0, 0.0
        bought += left * share
        filled += left
    windows = range(len(imbalances) - window + 1)
    return [sum(imbalances[first : first + window]) / (window * size) for first in windows], bars[window - 1 :]


def market(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes in quarters and whole volumes, some of them 0."""
    rng = np.random.default_rng(seed)
    close = 4_000.0 + np.cumsum(rng.integers(-6, 7, rows) * 0.25)
    return close, np.floor(rng.gamma(0.6, 500.0, rows))


def one(
    run: Run, arrays: dict[str, np.ndarray], *, bucket_volume: float, window: int = 50, **options: Any
) -> dict[str, Any]:
    """The values of a single symbol."""
    columns = {name: array[:, None] for name, array in arrays.items()}
    out = run(VPIN, {**columns, "bucket_volume": np.array([bucket_volume])}, window=window, **options)
    assert out["symbol_offsets"].tolist() == [0, len(out["vpin"])]
    return out


def assert_agrees(
    run: Run, close: np.ndarray, volume: np.ndarray, size: float, window: int, rel: float = 1e-10, **options: Any
) -> None:
    out = one(run, {"close": close, "volume": volume}, bucket_volume=size, window=window, **options)
    vpin, bars = loop(close, volume, size, window)
    assert out["vpin"] == near(np.array(vpin), rel=rel, abs=1e-12)
    assert out["bar"].dtype == np.int64 and out["bar"].tolist() == bars


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(20, 600),
    bars_per_bucket=st.sampled_from([0.07, 0.4, 1.0, 3.0]),
    window=st.integers(1, 5),
)
def test_agrees_with_the_loop(run: Run, seed: int, rows: int, bars_per_bucket: float, window: int) -> None:
    close, volume = market(seed, rows)
    size = max(1.0, np.floor(min(300.0 * bars_per_bucket, volume[1:].sum() / (window + 1))))
    assert_agrees(run, close, volume, size, window)


def test_agrees_with_the_loop_on_a_long_series(run: Run, precise: Namespace) -> None:
    close, volume = market(1, 150_000)
    assert_agrees(run, close, volume, 6_007.0, 50, namespace=precise)


def test_agrees_with_the_loop_on_volumes_that_are_not_whole(run: Run, precise: Namespace) -> None:
    close, volume = market(2, 40_000)
    assert_agrees(run, close, volume / np.pi, 777.7, 20, rel=1e-9, namespace=precise)


def test_agrees_with_the_loop_on_real_prices(run: Run, real_prices: np.ndarray) -> None:
    volume = np.random.default_rng(3).lognormal(13.0, 0.6, real_prices.shape[0])
    for close in real_prices.T:
        assert_agrees(run, close, volume, volume.mean() * 2.3, 30)


def test_an_example_by_hand(run: Run) -> None:
    """Changes of +1 and −1 in turn deviate by √(4/3) and are bought to Φ(±√¾): a bucket of one bar is 2Φ(√¾) − 1 off, one
    of two bars is balanced."""
    arrays = {"close": np.array([5.0, 6.0, 5.0, 6.0, 5.0]), "volume": np.array([9.0, 100.0, 100.0, 100.0, 100.0])}
    single = one(run, arrays, bucket_volume=100.0, window=2)
    assert single["vpin"] == pytest.approx([2.0 * NormalDist().cdf(0.75**0.5) - 1.0] * 3, rel=1e-14)
    assert single["bar"].tolist() == [2, 3, 4]
    double = one(run, arrays, bucket_volume=200.0, window=1)
    assert double["vpin"] == pytest.approx([0.0, 0.0], abs=1e-15)


def test_a_price_that_never_moves_is_balanced(run: Run, precise: Namespace) -> None:
    arrays = {"close": np.full(50, 7.3), "volume": np.full(50, 10.0)}
    assert one(run, arrays, namespace=precise, bucket_volume=20.0, window=3)["vpin"].tolist() == [0.0] * 22


@pytest.mark.parametrize("step", [2.0, -2.0])
def test_a_price_of_equal_steps_is_one_sided(run: Run, step: float) -> None:
    arrays = {"close": 500.0 + step * np.arange(50.0), "volume": np.full(50, 10.0)}
    assert one(run, arrays, bucket_volume=25.0, window=3)["vpin"] == pytest.approx(1.0, rel=1e-14)


def test_one_bar_may_fill_many_buckets(run: Run) -> None:
    arrays = {"close": np.array([10.0, 11.0, 13.0, 13.0]), "volume": np.array([0.0, 1.0, 1_000.0, 5.0])}
    out = one(run, arrays, bucket_volume=10.0, window=1)
    assert out["bar"].tolist() == [2] * 100
    assert out["vpin"][1:] == pytest.approx(out["vpin"][-1], rel=1e-13)


def test_the_first_volume_and_the_unfilled_bucket_do_not_count(run: Run) -> None:
    close, volume = market(4, 300)
    size = 1_000.0
    rest = volume[1:].sum() % size
    whole = one(run, {"close": close, "volume": volume}, bucket_volume=size, window=4)
    volume[0] = 1e6
    volume[-1] += (size - rest) / 2.0
    again = one(run, {"close": close, "volume": volume}, bucket_volume=size, window=4)
    assert np.array_equal(again["vpin"], whole["vpin"])


def test_tenths_fill_a_bucket_of_one(run: Run, precise: Namespace) -> None:
    """Ten times 0.1 is a rounding short of 1."""
    close = 10.0 + np.cumsum(np.random.default_rng(5).standard_normal(41))
    arrays = {"close": close, "volume": np.full(41, 0.1)}
    assert one(run, arrays, namespace=precise, bucket_volume=1.0, window=1)["bar"].tolist() == [10, 20, 30, 40]


def test_it_lies_between_0_and_1_and_knows_no_units(run: Run) -> None:
    close, volume = market(6, 5_000)
    vpin = one(run, {"close": close, "volume": volume}, bucket_volume=900.0)["vpin"]
    assert vpin.min() > 0.0 and vpin.max() <= 1.0
    other = one(run, {"close": 64.0 * close - 9_000.0, "volume": 8.0 * volume}, bucket_volume=7_200.0)["vpin"]
    assert other == pytest.approx(vpin, rel=1e-12)


def test_the_mirrored_price_has_the_same_toxicity(run: Run) -> None:
    close, volume = market(7, 2_000)
    out = one(run, {"close": close, "volume": volume}, bucket_volume=900.0)
    mirrored = one(run, {"close": 9_000.0 - close, "volume": volume}, bucket_volume=900.0)
    assert mirrored["vpin"] == near(out["vpin"], rel=1e-12)


@pytest.mark.parametrize("block", [2, 14, 600])
def test_the_size_of_a_block_changes_nothing(run: Run, block: int) -> None:
    close, volume = market(8, 2_500)
    small = NumpyNamespace()
    small.block = block
    for size in (40.0, 1_300.0):
        options = {"bucket_volume": size, "window": 10}
        whole = one(run, {"close": close, "volume": volume}, **options)
        parts = one(run, {"close": close, "volume": volume}, namespace=small, **options)
        assert parts["vpin"] == near(whole["vpin"], rel=1e-11)
        assert np.array_equal(parts["bar"], whole["bar"])


def test_float32_is_refused_with_the_reason(single: Namespace) -> None:
    assert "needs more than 32 bits of precision" in (refusal(VPIN, single) or "")


def test_too_few_buckets_are_refused(run: Run) -> None:
    arrays = {"close": np.arange(10.0), "volume": np.full(10, 10.0)}
    assert one(run, arrays, bucket_volume=10.0, window=9)["vpin"].shape == (1,)
    with pytest.raises(InvalidArray, match="symbol 0 after the first bar fills 9 buckets of 10, a window needs 10"):
        one(run, arrays, bucket_volume=10.0, window=10)


def test_a_bucket_far_too_small_is_refused(run: Run) -> None:
    arrays = {"close": np.arange(10.0), "volume": np.full(10, 1e12)}
    with pytest.raises(InvalidArray, match="9e\\+12 buckets"):
        one(run, arrays, bucket_volume=1.0)


def test_two_bars_are_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="at least 3"):
        one(run, {"close": np.ones(2), "volume": np.ones(2)}, bucket_volume=1.0)


def test_missing_and_negative_values_are_refused(run: Run) -> None:
    good = {"close": np.ones(5), "volume": np.ones(5)}
    for name, value, message in (
        ("close", np.nan, r"close\[3, 0\]"),
        ("volume", np.nan, r"volume\[3, 0\]"),
        ("volume", -1.0, "volume must be >= 0"),
    ):
        bad = {other: array.copy() for other, array in good.items()}
        bad[name][3] = value
        with pytest.raises(InvalidArray, match=message):
            one(run, bad, bucket_volume=1.0, window=1)
    with pytest.raises(InvalidArray, match="bucket_volume must be > 0"):
        one(run, good, bucket_volume=0.0)


def test_symbols_do_not_touch_each_other(run: Run) -> None:
    close, volume = (
        np.stack(columns, axis=1) for columns in zip(*(market(seed, 900) for seed in range(3)), strict=True)
    )
    sizes = np.array([700.0, 1_500.0, 4_000.0])
    together = run(VPIN, {"close": close, "volume": volume, "bucket_volume": sizes}, window=5)
    for symbol, (start, stop) in enumerate(pairwise(together["symbol_offsets"].tolist())):
        arrays = {"close": close[:, symbol], "volume": volume[:, symbol]}
        alone = one(run, arrays, bucket_volume=sizes[symbol], window=5)
        assert np.array_equal(together["vpin"][start:stop], alone["vpin"])
        assert np.array_equal(together["bar"][start:stop], alone["bar"])
    with pytest.raises(InvalidArray, match=r"symbol 2 after the first bar fills .* lower bucket_volume\[2\]"):
        run(VPIN, {"close": close, "volume": volume, "bucket_volume": sizes}, window=120)


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.1, 0.7, 0.2)])
def test_parts_are_some_symbols_each(run: Run, shares: tuple[float, ...]) -> None:
    whole = VPIN.example(1e5, np.random.default_rng(0))
    assert VPIN.split is not None and VPIN.merge is not None
    parts = [run(VPIN, part.arrays, **part.params) for part in VPIN.split(whole, shares)]
    expected = run(VPIN, whole.arrays, **whole.params)
    merged = VPIN.merge(whole, parts)
    assert merged.keys() == expected.keys()
    assert all(np.array_equal(merged[name], expected[name]) for name in expected)
