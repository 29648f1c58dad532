"""Order checks against scalar rules in exact decimals: random batches, limits met exactly, malformed orders, splits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.execution import PRETRADE

Run = Callable[..., dict[str, Any]]
Arrays = dict[str, np.ndarray]
COLLAR, QUANTITY, NOTIONAL, POSITION, INSTRUMENT, MALFORMED = 1, 2, 4, 8, 16, 32

ONE_INSTRUMENT = {
    "reference_price": 100.0,
    "max_quantity": 50.0,
    "max_notional": 4_000.0,
    "position": 0.0,
    "open_buys": 0.0,
    "open_sells": 0.0,
    "position_limit": 100.0,
}


def batch(rows: list[tuple[int, int, float, float]], **tables: float) -> Arrays:
    """Orders (instrument, side, price, quantity) in one instrument's limits."""
    columns = zip(("instrument", "side", "price", "quantity"), zip(*rows, strict=True), strict=True)
    kinds = {"instrument": np.int64, "side": np.int64}
    found = {name: np.array(values, dtype=kinds.get(name, np.float64)) for name, values in columns}
    return {**found, **{name: np.array([value]) for name, value in {**ONE_INSTRUMENT, **tables}.items()}}


def flags(
    run: Run, rows: list[tuple[int, int, float, float]], price_collar: float = 0.05, **tables: float
) -> list[int]:
    found: list[int] = run(PRETRADE, batch(rows, **tables), price_collar=price_collar)["flags"].tolist()
    return found


def by_rules(arrays: Arrays, price_collar: float) -> list[int]:
    """One order after another, numbers taken for the decimals that they print as."""

    def exact(value: float) -> Fraction:
        return Fraction(repr(float(value)))

    tables = {name: arrays[name].tolist() for name in ONE_INSTRUMENT}
    tradable = [0.0 < price < math.inf for price in tables["reference_price"]]
    filled: dict[tuple[int, int], Fraction] = {}
    found = []
    columns = (arrays[name].tolist() for name in ("instrument", "side", "price", "quantity"))
    for instrument, side, price, quantity in zip(*columns, strict=True):
        flag = 0
        if not 0 <= instrument < len(tradable) or not tradable[instrument]:
            flag |= INSTRUMENT
        if side not in (-1, 1) or not all(0.0 < value < math.inf for value in (price, quantity)):
            flag |= MALFORMED
        if flag == 0:
            here = {name: exact(values[instrument]) for name, values in tables.items()}
            reference, size = here["reference_price"], exact(quantity)
            if abs(exact(price) - reference) > exact(price_collar) * reference:
                flag |= COLLAR
            if size > here["max_quantity"]:
                flag |= QUANTITY
            if exact(price) * size > here["max_notional"]:
                flag |= NOTIONAL
        if flag == 0:
            before = filled.get((instrument, side), here["open_buys" if side > 0 else "open_sells"])
            filled[instrument, side] = before + size
            if before + size + side * here["position"] > here["position_limit"]:
                flag |= POSITION
        found.append(flag)
    return found


def random_batch(seed: int, orders: int, instruments: int) -> Arrays:
    """Round numbers on coarse grids, so that limits are often met exactly, and in decimals that floats do not hold."""
    rng = np.random.default_rng(seed)

    def grid(low: float, high: float, step: float, size: int) -> np.ndarray:
        return np.round(step * rng.integers(round(low / step), round(high / step), size, endpoint=True), 6)

    reference = grid(9.0, 11.0, 0.1, instruments)
    instrument = rng.integers(0, instruments, orders)
    arrays = {
        "instrument": instrument,
        "side": rng.choice((-1, 1), orders),
        "price": np.round(reference[instrument] * (1.0 + grid(-0.06, 0.06, 0.01, orders)), 4),
        "quantity": grid(0.1, 1.1, 0.1, orders),
        "reference_price": reference,
        "max_quantity": np.full(instruments, 1.0),
        "max_notional": grid(8.0, 10.0, 0.05, instruments),
        "position": grid(-1.0, 1.0, 0.1, instruments),
        "open_buys": grid(0.0, 0.5, 0.1, instruments),
        "open_sells": grid(0.0, 0.5, 0.1, instruments),
        "position_limit": grid(0.5, 5.0, 0.1, instruments),
    }
    arrays["reference_price"] = np.where(rng.random(instruments) < 0.1, np.nan, reference)
    for name, wrong in (
        ("instrument", instruments),
        ("instrument", -1),
        ("side", 0),
        ("price", np.nan),
        ("quantity", -1),
    ):
        arrays[name][rng.random(orders) < 0.02] = wrong
    return arrays


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    orders=st.integers(1, 200),
    instruments=st.integers(1, 12),
    price_collar=st.sampled_from([0.0, 0.01, 0.05]),
)
def test_agrees_with_scalar_rules(run: Run, seed: int, orders: int, instruments: int, price_collar: float) -> None:
    arrays = random_batch(seed, orders, instruments)
    out = run(PRETRADE, arrays, price_collar=price_collar)["flags"]
    assert out.dtype == np.int64
    assert out.tolist() == by_rules(arrays, price_collar)


def test_agrees_with_scalar_rules_over_many_instruments(run: Run) -> None:
    """More instruments and sides than 16 bits number."""
    arrays = random_batch(1, 3_000, 100_000)
    arrays["instrument"][1_000:2_000] = np.random.default_rng(2).choice([7, 7 + 2**15, 7 + 2**16], 1_000)
    out = run(PRETRADE, arrays)["flags"].tolist()
    assert out == by_rules(arrays, 0.05)
    assert {0, COLLAR, POSITION, INSTRUMENT, MALFORMED} <= set(out)


def test_the_example_gives_every_flag(run: Run) -> None:
    example = PRETRADE.example(20_000, np.random.default_rng(0))
    out = run(PRETRADE, example.arrays, **example.params)["flags"]
    assert out.tolist() == by_rules(example.arrays, 0.05)
    shares = {bit: float(np.mean(out & bit != 0)) for bit in (1, 2, 4, 8, 16, 32)}
    assert all(0.0005 < share < 0.1 for share in shares.values()), shares


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((0, 1, 105.0, 1.0), 0),
        ((0, 1, 105.01, 1.0), COLLAR),
        ((0, -1, 95.0, 1.0), 0),
        ((0, -1, 94.99, 1.0), COLLAR),
        ((0, 1, 80.0, 50.0), COLLAR),
        ((0, 1, 96.0, 51.0), QUANTITY | NOTIONAL),
        ((0, 1, 100.0, 40.0), 0),
        ((0, 1, 100.0, 40.01), NOTIONAL),
        ((0, 1, 200.0, 60.0), COLLAR | QUANTITY | NOTIONAL),
        ((1, 1, 100.0, 1.0), INSTRUMENT),
        ((-1, 1, 100.0, 1.0), INSTRUMENT),
        ((0, 0, 100.0, 1.0), MALFORMED),
        ((0, 2, 100.0, 1.0), MALFORMED),
        ((0, 1, math.nan, 1.0), MALFORMED),
        ((0, 1, math.inf, 1.0), MALFORMED),
        ((0, 1, 0.0, 1.0), MALFORMED),
        ((0, 1, -5.0, 1.0), MALFORMED),
        ((0, 1, 100.0, 0.0), MALFORMED),
        ((0, 1, 100.0, math.nan), MALFORMED),
        ((0, 1, 100.0, -math.inf), MALFORMED),
        ((9, 1, math.nan, 1.0), INSTRUMENT | MALFORMED),
        ((0, 1, 1e308, 1e308), COLLAR | QUANTITY | NOTIONAL),
    ],
)
def test_each_flag_by_hand(order: tuple[int, int, float, float], expected: int, run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flags(run, [order]) == [expected]
        sound = (0, 1, 100.0, 1.0)
        assert flags(run, [sound, order, sound]) == [0, expected, 0]  # the others are judged all the same


@pytest.mark.parametrize("reference", [math.nan, math.inf, 0.0, -1.0])
def test_without_a_reference_price_nothing_is_traded(reference: float, run: Run) -> None:
    assert flags(run, [(0, 1, 100.0, 1.0)], reference_price=reference) == [INSTRUMENT]


def test_earlier_orders_count_as_filled_and_the_other_side_as_not(run: Run) -> None:
    buys = [(0, 1, 100.0, 40.0)] * 3
    sells = [(0, -1, 100.0, 40.0)] * 3
    assert flags(run, buys) == [0, 0, POSITION]
    assert flags(run, [buys[0], sells[0], buys[1], sells[1], buys[2], sells[2]]) == [0, 0, 0, 0, POSITION, POSITION]
    assert flags(run, buys + sells, position=-40.0) == [0, 0, 0, 0, POSITION, POSITION]
    assert flags(run, buys, open_buys=21.0) == [0, POSITION, POSITION]
    assert flags(run, sells, open_buys=100.0) == [0, 0, POSITION]


def test_an_order_beyond_the_limit_leaves_no_room_for_the_next(run: Run) -> None:
    assert flags(run, [(0, 1, 100.0, 30.0), (0, 1, 100.0, 1.0)], position=80.0) == [POSITION, POSITION]


def test_an_order_with_another_flag_takes_no_room(run: Run) -> None:
    assert flags(run, [(0, 1, 200.0, 10.0), (0, 1, 100.0, 20.0)], position=80.0) == [COLLAR, 0]


def test_what_reduces_a_position_beyond_its_limit_passes(run: Run) -> None:
    assert flags(run, [(0, -1, 100.0, 40.0), (0, 1, 100.0, 1.0)], position=150.0) == [0, POSITION]


def test_limits_are_inclusive_in_decimals(run: Run) -> None:
    """In floats 10.605 − 10.10 is more than 5 % of 10.10, and ten times 0.1 is not 1."""
    assert flags(run, [(0, 1, 10.605, 1.0), (0, 1, 10.6051, 1.0)], reference_price=10.1) == [0, COLLAR]
    assert flags(run, [(0, 1, 100.0, 0.1)] * 11, position_limit=1.0) == [0] * 10 + [POSITION]
    assert flags(run, [(0, 1, 100.1, 0.3)], max_notional=30.03) == [0]


def test_a_huge_position_does_not_blur_a_small_one(run: Run) -> None:
    rows = [(0, 1, 100.0, 1e15), (1, 1, 100.0, 0.0001), (1, 1, 100.0, 0.0001), (0, 1, 100.0, 1e15)]
    arrays = batch(rows, max_quantity=1e300, max_notional=1e300)
    arrays = {name: np.repeat(array, 2) if name in ONE_INSTRUMENT else array for name, array in arrays.items()}
    arrays["position_limit"] = np.array([2e15, 0.0002])
    assert run(PRETRADE, arrays)["flags"].tolist() == [0, 0, 0, 0]
    arrays["position_limit"] = np.array([1.9e15, 0.00019])
    assert run(PRETRADE, arrays)["flags"].tolist() == [0, 0, POSITION, POSITION]


def test_one_order_is_judged_as_in_a_batch_of_its_own(run: Run) -> None:
    arrays = random_batch(3, 50, 200)
    _, first = np.unique(arrays["instrument"], return_index=True)  # one order of each instrument
    together = run(PRETRADE, arrays)["flags"]
    for row in first:
        alone = {name: array[row : row + 1] if array.size == 50 else array for name, array in arrays.items()}
        assert run(PRETRADE, alone)["flags"][0] == together[row]


def test_the_size_of_a_block_changes_no_flag(run: Run) -> None:
    arrays = random_batch(4, 500, 20)
    small = NumpyNamespace()
    small.block = 7
    assert np.array_equal(run(PRETRADE, arrays, namespace=small)["flags"], run(PRETRADE, arrays)["flags"])


def test_32_bit_identifiers_are_taken(run: Run) -> None:
    arrays = random_batch(5, 500, 20)
    narrow = {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in arrays.items()}
    assert np.array_equal(run(PRETRADE, narrow)["flags"], run(PRETRADE, arrays)["flags"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_parts_of_a_batch_merge_to_the_whole(run: Run, seed: int, shares: list[float]) -> None:
    assert PRETRADE.split is not None and PRETRADE.merge is not None
    whole = Example({"price_collar": 0.05}, random_batch(seed, 200, 5))
    parts = [run(PRETRADE, part.arrays, **part.params) for part in PRETRADE.split(whole, shares)]
    assert np.array_equal(PRETRADE.merge(whole, parts)["flags"], run(PRETRADE, whole.arrays)["flags"])


@pytest.mark.parametrize(
    ("table", "value", "message"),
    [
        ("position_limit", math.nan, r"position_limit\[0\] is nan"),
        ("max_notional", -1.0, "max_notional must be >= 0"),
        ("position", math.inf, r"position\[0\] is inf"),
        ("open_buys", -0.5, "open_buys must be >= 0"),
    ],
)
def test_a_wrong_table_is_refused(table: str, value: float, message: str, run: Run) -> None:
    with pytest.raises(InvalidArray, match=message):
        flags(run, [(0, 1, 100.0, 1.0)], **{table: value})


def test_prices_that_lost_digits_are_refused(run: Run) -> None:
    arrays = batch([(0, 1, 100.0, 1.0)])
    with pytest.raises(InvalidArray, match="price must be float64, got float32"):
        run(PRETRADE, {**arrays, "price": arrays["price"].astype(np.float32)})


def test_a_negative_collar_is_refused(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="price_collar must be >= 0"):
        flags(run, [(0, 1, 100.0, 1.0)], price_collar=-0.1)


def test_the_largest_number_is_no_limit(run: Run) -> None:
    tables = dict.fromkeys(("max_quantity", "max_notional", "position_limit"), np.finfo(np.float64).max)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flags(run, [(0, 1, 100.0, 1e9)], **tables) == [0]
