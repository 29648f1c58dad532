"""Haircuts against a plain loop and pandas; margins against the Basel text, loop by loop, and the dense quadratic form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.collateral import HAIRCUT, MARGIN_SBA
from tests.near import near

Run = Callable[..., dict[str, Any]]


def positions(rng: np.random.Generator, count: int, accounts: int) -> dict[str, np.ndarray]:
    return {
        "quantity": rng.normal(100.0, 80.0, count),
        "price": rng.uniform(1.0, 200.0, count),
        "haircut": rng.uniform(0.0, 1.0, count),
        "fx": rng.uniform(0.1, 2.0, count),
        "account": rng.integers(0, accounts, count),
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 300), accounts=st.integers(1, 20))
def test_haircut_agrees_with_a_plain_loop(run: Run, seed: int, count: int, accounts: int) -> None:
    arrays = positions(np.random.default_rng(seed), count, accounts)
    collateral, market = [0.0] * accounts, [0.0] * accounts
    for quantity, price, haircut, fx, account in zip(*arrays.values(), strict=True):
        market[account] += quantity * price * fx
        collateral[account] += quantity * price * (1.0 - haircut) * fx
    out = run(HAIRCUT, arrays, num_accounts=accounts)
    assert out["collateral_value"] == near(np.array(collateral), rel=1e-12, abs=1e-8)
    assert out["market_value"] == near(np.array(market), rel=1e-12, abs=1e-8)


def test_haircut_agrees_with_pandas_on_real_prices(run: Run, precise: Namespace, real_prices: np.ndarray) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    rng = np.random.default_rng(0)
    arrays = positions(rng, 5_000, 100)
    arrays["price"] = real_prices[-1, rng.integers(0, real_prices.shape[1], 5_000)]
    frame = pd.DataFrame(arrays)
    value = frame.quantity * frame.price * (1.0 - frame.haircut) * frame.fx
    expected = value.groupby(frame.account).sum().to_numpy()
    out = run(HAIRCUT, arrays, namespace=precise, num_accounts=100)
    assert out["collateral_value"] == near(expected, rel=1e-12)


def test_accounts_without_positions_are_worth_nothing(run: Run) -> None:
    arrays = {"quantity": [10.0], "price": [5.0], "haircut": [0.2], "fx": [1.1]}
    out = run(HAIRCUT, {**arrays, "account": np.array([1])}, num_accounts=3)
    assert out["collateral_value"] == pytest.approx([0.0, 44.0, 0.0])
    assert out["market_value"] == pytest.approx([0.0, 55.0, 0.0])


@pytest.mark.parametrize(("haircut", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_extreme_haircuts(haircut: float, kept: float, run: Run) -> None:
    arrays = positions(np.random.default_rng(1), 50, 4)
    out = run(HAIRCUT, {**arrays, "haircut": np.full(50, haircut)}, num_accounts=4)
    assert out["collateral_value"] == near(kept * out["market_value"], rel=1e-14)


def test_accounts_may_be_32_bit_integers(run: Run, single: Namespace) -> None:
    arrays = positions(np.random.default_rng(2), 500, 10)
    wide = run(HAIRCUT, arrays, namespace=single, num_accounts=10)
    narrow = run(HAIRCUT, {**arrays, "account": arrays["account"].astype(np.int32)}, namespace=single, num_accounts=10)
    assert narrow["collateral_value"] == near(wide["collateral_value"], rel=1e-6)


def test_a_long_account_loses_no_precision_in_float32(run: Run, single: Namespace) -> None:
    single.block = 2**22  # all positions at once, as on a GPU
    rng = np.random.default_rng(3)
    arrays = {**positions(rng, 1_000_000, 1), "quantity": rng.uniform(0.0, 100.0, 1_000_000)}
    contract = run(HAIRCUT, arrays, num_accounts=1)["market_value"]
    assert run(HAIRCUT, arrays, namespace=single, num_accounts=1)["market_value"] == near(contract, rel=2e-6)


def test_haircut_does_not_depend_on_the_size_of_a_block(run: Run) -> None:
    arrays = positions(np.random.default_rng(4), 1_000, 3)
    small = NumpyNamespace()
    small.block = 7
    whole = run(HAIRCUT, arrays, num_accounts=3)
    blocked = run(HAIRCUT, arrays, namespace=small, num_accounts=3)
    assert blocked["collateral_value"] == near(whole["collateral_value"], rel=1e-12)


@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_haircut_of_parts_adds_up(run: Run, shares: list[float]) -> None:
    assert HAIRCUT.split and HAIRCUT.merge
    whole = Example({"num_accounts": 7}, positions(np.random.default_rng(5), 200, 7))
    parts = [run(HAIRCUT, part.arrays, **part.params) for part in HAIRCUT.split(whole, shares)]
    merged, expected = HAIRCUT.merge(whole, parts), run(HAIRCUT, whole.arrays, **whole.params)
    for name, values in expected.items():
        assert merged[name] == near(values, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("account", 4, r"account\[2\] is 4, but num_accounts is 4"),
        ("account", -1, "account must be >= 0"),
        ("price", np.nan, r"price\[2\]"),
        ("haircut", 1.01, "haircut must be <= 1"),
        ("fx", 0.0, "fx must be > 0"),
    ],
)
def test_wrong_positions_are_refused(name: str, value: float, message: str, run: Run) -> None:
    arrays = positions(np.random.default_rng(6), 5, 4)
    arrays[name][2] = value
    with pytest.raises(InvalidArray, match=message):
        run(HAIRCUT, arrays, num_accounts=4)


def test_the_number_of_accounts_is_needed(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="num_accounts"):
        run(HAIRCUT, positions(np.random.default_rng(7), 5, 4))


def book(rng: np.random.Generator, accounts: int, factors: int, buckets: int) -> dict[str, np.ndarray]:
    """Any correlations at all, so that quadratic forms and totals may be negative too."""
    rho = rng.uniform(-1.0, 1.0, (factors, factors))
    gamma = rng.uniform(-1.0, 1.0, (buckets, buckets))
    rho, gamma = (rho + rho.T) / 2.0, (gamma + gamma.T) / 2.0
    np.fill_diagonal(rho, 1.0)
    return {
        "sensitivities": 1e4 * rng.standard_normal((accounts, factors)),
        "risk_weights": rng.uniform(0.0, 0.7, factors),
        "bucket": rng.integers(0, buckets, factors),
        "rho": rho,
        "gamma": gamma,
    }


SCENARIOS: dict[str, Callable[[float], float]] = {
    "low": lambda correlation: max(2.0 * correlation - 1.0, 0.75 * correlation),
    "medium": lambda correlation: correlation,
    "high": lambda correlation: max(min(1.25 * correlation, 1.0), -1.0),
}


def basel_margin(arrays: dict[str, np.ndarray], account: int, scenario: str) -> tuple[float, bool]:
    """MAR21.4 word by word, and whether its step (5)(b), the alternative sums, was needed."""
    change = SCENARIOS[scenario]
    bucket, buckets = arrays["bucket"], len(arrays["gamma"])
    weighted = arrays["sensitivities"][account] * arrays["risk_weights"]
    members = [[factor for factor in range(len(bucket)) if bucket[factor] == b] for b in range(buckets)]
    squares = [
        max(
            0.0,
            sum(weighted[k] * weighted[m] * change(arrays["rho"][k, m]) for k in inside for m in inside),
        )
        for inside in members
    ]
    sums = [sum(weighted[k] for k in inside) for inside in members]

    def total(sums: list[float]) -> float:
        return sum(squares) + sum(
            change(arrays["gamma"][b, c]) * sums[b] * sums[c] for b in range(buckets) for c in range(buckets) if b != c
        )

    if total(sums) >= 0.0:
        return total(sums) ** 0.5, False
    capped = [max(min(s, square**0.5), -(square**0.5)) for s, square in zip(sums, squares, strict=True)]
    return max(total(capped), 0.0) ** 0.5, True


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), factors=st.integers(1, 12), buckets=st.integers(1, 4))
def test_margin_agrees_with_the_text_of_the_standard(run: Run, seed: int, factors: int, buckets: int) -> None:
    arrays = book(np.random.default_rng(seed), 4, factors, buckets)
    expected = [[basel_margin(arrays, account, scenario)[0] for scenario in SCENARIOS] for account in range(4)]
    out = run(MARGIN_SBA, arrays)
    assert out["scenario_margins"] == near(np.array(expected), rel=1e-9, abs=1e-6)
    assert out["margin"] == near(np.max(expected, axis=1), rel=1e-9, abs=1e-6)


def test_alternative_sums_are_taken_where_needed(run: Run, precise: Namespace) -> None:
    example = MARGIN_SBA.example(1e5, np.random.default_rng(0))
    results = [
        basel_margin(example.arrays, account, scenario)
        for account in range(len(example.arrays["sensitivities"]))
        for scenario in SCENARIOS
    ]
    assert {needed for _, needed in results} == {False, True}
    out = run(MARGIN_SBA, example.arrays, namespace=precise)
    assert out["scenario_margins"].ravel() == near(np.array([margin for margin, _ in results]), rel=1e-11)


def test_margin_agrees_with_the_dense_quadratic_form(run: Run, precise: Namespace) -> None:
    rng = np.random.default_rng(1)
    bucket = rng.permutation(np.repeat(np.arange(10), 20))
    loadings = rng.uniform(0.4, 0.6, 200)
    rho = np.outer(loadings, loadings)
    np.fill_diagonal(rho, 1.0)
    gamma = np.full((10, 10), 0.02)
    arrays = {
        "sensitivities": rng.standard_normal((300, 200)),
        "risk_weights": rng.uniform(0.3, 0.7, 200),
        "bucket": bucket,
        "rho": rho,
        "gamma": gamma,
    }
    omega = np.where(bucket[:, None] == bucket, rho, gamma[np.ix_(bucket, bucket)])
    weighted = arrays["sensitivities"] * arrays["risk_weights"]
    expected = np.sqrt(np.einsum("ak,kl,al->a", weighted, omega, weighted))
    out = run(MARGIN_SBA, arrays, namespace=precise)
    assert out["scenario_margins"][:, 1] == pytest.approx(expected, rel=1e-12)


def test_margin_of_two_factors() -> None:
    """K² = 3² + 4² + 2ρ·3·4 with ρ = 0.375, 0.5 and 0.625."""
    arrays = {
        "sensitivities": np.array([[6.0, 8.0]]),
        "risk_weights": np.array([0.5, 0.5]),
        "bucket": np.array([0, 0]),
        "rho": np.array([[1.0, 0.5], [0.5, 1.0]]),
        "gamma": np.ones((1, 1)),
    }
    out = MARGIN_SBA.kernel(NumpyNamespace(), {}, arrays)
    assert out["scenario_margins"] == pytest.approx(np.sqrt([[34.0, 37.0, 40.0]]), rel=1e-14)
    assert out["margin"] == pytest.approx(np.sqrt([40.0]), rel=1e-14)


def test_a_perfect_hedge_and_an_empty_account_need_no_margin(run: Run, precise: Namespace) -> None:
    arrays = {
        "sensitivities": np.array([[5.0, -5.0], [0.0, 0.0]]),
        "risk_weights": np.array([1.0, 1.0]),
        "bucket": np.array([1, 1]),
        "rho": np.ones((2, 2)),
        "gamma": np.full((3, 3), 0.3),  # buckets 0 and 2 are empty
    }
    assert run(MARGIN_SBA, arrays, namespace=precise)["margin"] == pytest.approx([0.0, 0.0])


def test_margin_grows_with_the_book_and_ignores_its_sign(run: Run) -> None:
    arrays = book(np.random.default_rng(2), 20, 15, 3)
    margin = run(MARGIN_SBA, arrays)["margin"]
    turned = run(MARGIN_SBA, {**arrays, "sensitivities": -3.0 * arrays["sensitivities"]})["margin"]
    assert turned == pytest.approx(3.0 * margin, rel=1e-11)


def test_margin_does_not_depend_on_the_size_of_a_block(run: Run) -> None:
    arrays = book(np.random.default_rng(3), 50, 12, 3)
    small = NumpyNamespace()
    small.block = 30
    whole, blocked = run(MARGIN_SBA, arrays), run(MARGIN_SBA, arrays, namespace=small)
    assert blocked["scenario_margins"] == near(whole["scenario_margins"], rel=1e-11)


@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_margins_of_parts_follow_each_other(run: Run, shares: list[float]) -> None:
    assert MARGIN_SBA.split and MARGIN_SBA.merge
    whole = Example({}, book(np.random.default_rng(4), 30, 10, 3))
    parts = [run(MARGIN_SBA, part.arrays) for part in MARGIN_SBA.split(whole, shares)]
    merged, expected = MARGIN_SBA.merge(whole, parts), run(MARGIN_SBA, whole.arrays)
    for name, values in expected.items():
        assert merged[name] == near(values, rel=1e-11)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("bucket", (1,), 3, r"bucket\[1\] is 3, but gamma has 3 buckets"),
        ("bucket", (1,), -1, "bucket must be >= 0"),
        ("rho", (0, 1), 0.9, r"rho must be symmetric; rho\[0, 1\] is 0.9"),
        ("rho", (2, 2), 0.5, r"rho\[2, 2\] is 0.5"),
        ("rho", (0, 1), 1.5, "rho must be <= 1"),
        ("gamma", (2, 0), -0.9, r"gamma must be symmetric"),
        ("risk_weights", (0,), -0.1, "risk_weights must be >= 0"),
        ("sensitivities", (1, 2), np.nan, r"sensitivities\[1, 2\]"),
    ],
)
def test_wrong_tables_are_refused(name: str, place: tuple[int, ...], value: float, message: str, run: Run) -> None:
    arrays = book(np.random.default_rng(5), 4, 6, 3)
    arrays["rho"][0, 1] = arrays["rho"][1, 0] = 0.1
    arrays["gamma"][2, 0] = arrays["gamma"][0, 2] = 0.2
    arrays[name][place] = value
    with pytest.raises(InvalidArray, match=message):
        run(MARGIN_SBA, arrays)


def test_work_counts_what_happens_across_buckets() -> None:
    """Many buckets of few factors: the products across buckets are nearly all there is to do."""
    few, many = ({"A": 100, "R": 10, "B": buckets} for buckets in (1, 300))
    assert MARGIN_SBA.work({}, many) > 100.0 * MARGIN_SBA.work({}, few)
