"""Factor returns against toraniko's own estimate: random, real and degenerate cross-sections."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
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
from routerd.workloads.toraniko import FACTOR_RETURNS
from tests.near import near

Run = Callable[..., dict[str, Any]]
MANY = 20  # dates enough for products that serve all of them


def panel(rng: np.random.Generator, dates: int, names: int, sectors: int = 4, styles: int = 2) -> dict[str, np.ndarray]:
    return {
        "returns": 0.01 * rng.standard_normal((dates, 1)) + 0.02 * rng.standard_normal((dates, names)),
        "market_cap": np.exp(22.0 + 1.5 * rng.standard_normal((dates, names))),
        "sector": np.eye(sectors)[rng.permutation(np.arange(names) % sectors)][None],
        "style": rng.standard_normal((dates, names, styles)),
    }


def reference(
    arrays: dict[str, np.ndarray], winsor_factor: float = 0.05, residualize_styles: bool = True
) -> dict[str, np.ndarray]:
    model = pytest.importorskip("toraniko.model", reason="toraniko is not installed")
    winsorize = pytest.importorskip("toraniko.math", reason="toraniko is not installed").winsorize
    days = []
    for day in range(len(arrays["returns"])):
        returns, sector = arrays["returns"][day], arrays["sector"][day % len(arrays["sector"])]
        if winsor_factor:
            returns = winsorize(returns, winsor_factor)
        days.append(
            model._factor_returns(returns, arrays["market_cap"][day], sector, arrays["style"][day], residualize_styles)
        )
    factors, residuals = zip(*days, strict=True)
    return {"factor_returns": np.stack(factors), "residuals": np.stack(residuals)}


def assert_agrees(out: dict[str, np.ndarray], expected: dict[str, np.ndarray], relative: float = 1e-11) -> None:
    for name, values in expected.items():
        assert np.linalg.norm(out[name] - values) <= relative * np.linalg.norm(values)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dates=st.sampled_from([1, 2, MANY]),
    names=st.integers(20, 120),
    sectors=st.integers(1, 6),
    styles=st.integers(1, 4),
    winsor_factor=st.sampled_from([0.0, 0.01, 0.05, 0.333]),
    residualize_styles=st.booleans(),
)
def test_agrees_with_toraniko(
    run: Run,
    seed: int,
    dates: int,
    names: int,
    sectors: int,
    styles: int,
    winsor_factor: float,
    residualize_styles: bool,
) -> None:
    arrays = panel(np.random.default_rng(seed), dates, names, sectors, styles)
    options = {"winsor_factor": winsor_factor, "residualize_styles": residualize_styles}
    assert_agrees(run(FACTOR_RETURNS, arrays, **options), reference(arrays, **options), 1e-10)


@pytest.mark.parametrize("dates", [2, MANY])
def test_sectors_may_change_from_date_to_date(dates: int, run: Run, precise: Namespace) -> None:
    rng = np.random.default_rng(1)
    arrays = {**panel(rng, dates, 60), "sector": rng.uniform(0.0, 1.0, (dates, 60, 4))}
    assert_agrees(run(FACTOR_RETURNS, arrays, namespace=precise), reference(arrays))


@pytest.mark.parametrize("dates", [1, MANY])
@pytest.mark.parametrize("varying", [False, True])
def test_float32_agrees_on_every_path(dates: int, varying: bool, run: Run, single: Namespace) -> None:
    arrays = panel(np.random.default_rng(2), dates, 100)
    if varying:
        arrays["sector"] = np.repeat(arrays["sector"], dates, axis=0)
    assert_agrees(run(FACTOR_RETURNS, arrays, namespace=single), reference(arrays), 5e-6)


def test_agrees_with_the_public_estimate(run: Run) -> None:
    pl = pytest.importorskip("polars", reason="polars is not installed")
    model = pytest.importorskip("toraniko.model", reason="toraniko is not installed")
    arrays = panel(np.random.default_rng(3), 3, 30)
    days = [date(2024, 1, 1) + timedelta(day) for day in range(3)]
    keys = {"date": [day for day in days for _ in range(30)], "symbol": [f"{name:02}" for name in range(30)] * 3}
    sector = np.tile(arrays["sector"][0], (3, 1))
    factors, residuals = model.estimate_factor_returns(
        pl.DataFrame({**keys, "asset_returns": arrays["returns"].ravel()}),
        pl.DataFrame({**keys, "market_cap": arrays["market_cap"].ravel()}),
        pl.DataFrame({**keys, **{f"sector{column}": sector[:, column] for column in range(4)}}),
        pl.DataFrame({**keys, **{f"style{column}": arrays["style"][:, :, column].ravel() for column in range(2)}}),
    )
    expected = {
        "factor_returns": factors.sort("date").drop("date").to_numpy(),
        "residuals": residuals.sort("date").drop("date").to_numpy(),
    }
    assert_agrees(run(FACTOR_RETURNS, arrays), expected)


def test_agrees_with_toraniko_on_real_returns(run: Run, precise: Namespace) -> None:
    prices = sp500_prices()[-300:]
    returns = prices[1:] / prices[:-1] - 1.0
    dates, names = returns.shape[0] - 20, returns.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(returns, 20, axis=0)[:-1]
    style = np.stack([windows.mean(axis=2), windows.std(axis=2)], axis=2)
    arrays = {
        "returns": returns[20:],
        "market_cap": 1e9 * prices[20:-1],
        "sector": np.eye(3)[np.arange(names) % 3][None],
        "style": (style - style.mean(axis=1, keepdims=True)) / style.std(axis=1, keepdims=True),
    }
    assert dates > 200
    assert_agrees(run(FACTOR_RETURNS, arrays, namespace=precise), reference(arrays))


def sp500_prices() -> np.ndarray:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    spec = find_spec("skfolio")
    if spec is None or spec.origin is None:
        pytest.skip("skfolio is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / "sp500_dataset.csv.gz"
    return np.asarray(pd.read_csv(path, index_col=0))


def degenerate(case: str, dates: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    arrays = panel(rng, dates, 200, sectors=5, styles=3)
    if case == "first sector empty":
        arrays["sector"] = np.eye(5)[1 + np.arange(200) % 4][None]
    elif case == "last two sectors empty":
        arrays["sector"] = np.eye(5)[np.arange(200) % 3][None]
    elif case == "style twice":
        arrays["style"][:, :, 2] = 3.0 * arrays["style"][:, :, 0]
    elif case == "style zero":
        arrays["style"][:, :, 1] = 0.0
    elif case == "no weight on one date":
        arrays["market_cap"][-1] = 0.0
    return arrays


CASES = ["first sector empty", "last two sectors empty", "style twice", "style zero", "no weight on one date"]


@pytest.mark.parametrize("dates", [2, MANY])
@pytest.mark.parametrize("case", CASES)
def test_of_dependent_factors_the_least_norm_is_taken(case: str, dates: int, run: Run, precise: Namespace) -> None:
    arrays = degenerate(case, dates)
    assert_agrees(run(FACTOR_RETURNS, arrays, namespace=precise), reference(arrays))


@pytest.mark.parametrize("case", CASES)
def test_float32_recognises_dependent_factors(case: str, run: Run, single: Namespace) -> None:
    arrays = degenerate(case, MANY)
    assert_agrees(run(FACTOR_RETURNS, arrays, namespace=single), reference(arrays), 5e-6)


def test_the_unit_of_a_style_changes_its_return_alone(run: Run, single: Namespace) -> None:
    arrays = panel(np.random.default_rng(5), 3, 80)
    scaled = {**arrays, "style": arrays["style"] * np.array([1e-4, 1e4])}
    plain = run(FACTOR_RETURNS, arrays, namespace=single)
    out = run(FACTOR_RETURNS, scaled, namespace=single)
    back = out["factor_returns"] * np.array([1.0] * 5 + [1e-4, 1e4])
    assert_agrees({"factor_returns": back, "residuals": out["residuals"]}, plain, 5e-6)


def test_sectors_sum_to_zero_and_residuals_are_orthogonal_to_styles(run: Run, precise: Namespace) -> None:
    arrays = panel(np.random.default_rng(6), MANY, 60)
    out = run(FACTOR_RETURNS, arrays, namespace=precise)
    assert np.sum(out["factor_returns"][:, 1:5], axis=1) == near(np.zeros(MANY), abs=1e-15)
    weighted = out["residuals"] * np.sqrt(arrays["market_cap"])
    moments = (weighted[:, None, :] @ arrays["style"])[:, 0, :]
    assert moments == near(np.zeros((MANY, 2)), abs=1e-9 * np.abs(weighted).sum())


def test_returns_that_follow_the_model_leave_nothing(run: Run) -> None:
    arrays = panel(np.random.default_rng(7), 2, 40)
    factors = np.array([0.01, 0.02, -0.01, 0.005, -0.015])
    arrays["returns"] = np.tile(factors[0] + arrays["sector"][0] @ factors[1:], (2, 1))
    out = run(FACTOR_RETURNS, arrays, winsor_factor=0.0)
    assert out["factor_returns"] == near(np.tile([*factors, 0.0, 0.0], (2, 1)), abs=1e-14)
    assert out["residuals"] == near(np.zeros((2, 40)), abs=1e-14)


def test_one_name_is_the_market(run: Run) -> None:
    arrays = {"returns": [[0.03]], "market_cap": [[1e9]], "sector": [[[1.0]]], "style": [[[0.7]]]}
    out = run(FACTOR_RETURNS, arrays)
    assert out["factor_returns"] == pytest.approx(np.array([[0.03, 0.0, 0.0]]), abs=1e-16)


@pytest.mark.parametrize("varying", [False, True])
def test_the_size_of_a_block_changes_nothing(varying: bool, run: Run) -> None:
    arrays = panel(np.random.default_rng(8), MANY, 50)
    if varying:
        arrays["sector"] = np.repeat(arrays["sector"], MANY, axis=0)
    small = NumpyNamespace()
    small.block = 20
    assert_agrees(run(FACTOR_RETURNS, arrays, namespace=small), run(FACTOR_RETURNS, arrays))


@pytest.mark.parametrize("varying", [False, True])
@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_parts_follow_each_other(run: Run, varying: bool, shares: list[float]) -> None:
    assert FACTOR_RETURNS.split and FACTOR_RETURNS.merge
    arrays = panel(np.random.default_rng(9), MANY, 30)
    if varying:
        arrays["sector"] = np.random.default_rng(10).uniform(0.0, 1.0, (MANY, 30, 4))
    whole = Example({}, arrays)
    parts = [run(FACTOR_RETURNS, part.arrays) for part in FACTOR_RETURNS.split(whole, shares)]
    assert_agrees(FACTOR_RETURNS.merge(whole, parts), run(FACTOR_RETURNS, arrays))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("returns", np.nan, r"returns\[0, 1\]"),
        ("market_cap", -1.0, "market_cap must be >= 0"),
        ("style", np.inf, r"style\[0, 1, 0\]"),
    ],
)
def test_wrong_values_are_refused(name: str, value: float, message: str, run: Run) -> None:
    arrays = panel(np.random.default_rng(11), 2, 10)
    arrays[name].reshape(2, 10, -1)[0, 1, 0] = value
    with pytest.raises(InvalidArray, match=message):
        run(FACTOR_RETURNS, arrays)


def test_sectors_of_some_dates_are_refused(run: Run) -> None:
    arrays = panel(np.random.default_rng(12), 5, 10)
    with pytest.raises(InvalidArray, match="sector has 3 dates, returns has 5"):
        run(FACTOR_RETURNS, {**arrays, "sector": np.repeat(arrays["sector"], 3, axis=0)})


def test_more_than_half_cannot_be_clipped(run: Run) -> None:
    with pytest.raises(InvalidParameter, match=r"winsor_factor must be <= 0\.5"):
        run(FACTOR_RETURNS, panel(np.random.default_rng(13), 1, 10), winsor_factor=0.6)


def test_styles_too_large_for_the_precision_give_no_number_and_do_not_fail(run: Run) -> None:
    arrays = panel(np.random.default_rng(3), 2, 30)
    arrays["style"] *= 1e200
    with np.errstate(all="ignore"):
        assert np.isnan(run(FACTOR_RETURNS, arrays)["factor_returns"]).any()
