"""European Monte Carlo against the closed form, in itself, and across namespaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.binding import bind
from routerd.workloads.options import MONTE_CARLO_EUROPEAN, estimate, european

Run = Callable[..., dict[str, Any]]
REFERENCE = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2}
REFERENCE_PRICE = 6.040088129724
PSEUDO_RANDOM_ERROR_AT_ONE_MILLION = 0.0116


def closed_form(
    *,
    spot_price: float,
    strike_price: float,
    volatility: float,
    maturity: float = 1.0,
    rate: float = 0.05,
    option_type: str = "call",
) -> float:
    def cumulative(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    deviation = volatility * math.sqrt(maturity)
    upper = (math.log(spot_price / strike_price) + rate * maturity) / deviation + 0.5 * deviation
    sign = 1.0 if option_type == "call" else -1.0
    discounted = strike_price * math.exp(-rate * maturity)
    return sign * (spot_price * cumulative(sign * upper) - discounted * cumulative(sign * (upper - deviation)))


def test_closed_form_agrees_with_quantlib() -> None:
    ql = pytest.importorskip("QuantLib", reason="QuantLib is not installed")
    today = ql.Date(2, 1, 2024)
    ql.Settings.instance().evaluationDate = today
    day_count = ql.Actual365Fixed()
    process = ql.BlackScholesProcess(
        ql.QuoteHandle(ql.SimpleQuote(100.0)),
        ql.YieldTermStructureHandle(ql.FlatForward(today, 0.05, day_count)),
        ql.BlackVolTermStructureHandle(ql.BlackConstantVol(today, ql.NullCalendar(), 0.2, day_count)),
    )
    option = ql.VanillaOption(ql.PlainVanillaPayoff(ql.Option.Call, 110.0), ql.EuropeanExercise(today + 365))
    option.setPricingEngine(ql.AnalyticEuropeanEngine(process))
    assert option.NPV() == pytest.approx(REFERENCE_PRICE, abs=1e-11)
    assert closed_form(**REFERENCE) == pytest.approx(REFERENCE_PRICE, abs=1e-11)


def test_a_million_paths(run: Run) -> None:
    out = run(MONTE_CARLO_EUROPEAN, num_simulations=1_000_000, **REFERENCE)
    assert out["standard_error"] == pytest.approx(PSEUDO_RANDOM_ERROR_AT_ONE_MILLION, rel=0.02)
    assert abs(out["price"] - REFERENCE_PRICE) < 4 * out["standard_error"]


@settings(max_examples=25, deadline=None)
@given(
    strike=st.floats(60.0, 160.0),
    volatility=st.floats(0.02, 1.0),
    maturity=st.floats(0.02, 5.0),
    rate=st.floats(-0.05, 0.15),
    option_type=st.sampled_from(["call", "put"]),
    seed=st.integers(0, 2**53 - 1),
)
def test_both_methods_estimate_the_closed_form(
    run: Run, strike: float, volatility: float, maturity: float, rate: float, option_type: str, seed: int
) -> None:
    terms = {
        "spot_price": 100.0,
        "strike_price": strike,
        "volatility": volatility,
        "maturity": maturity,
        "rate": rate,
        "option_type": option_type,
    }
    exact = closed_form(**terms)  # type: ignore[arg-type]
    pseudo = run(MONTE_CARLO_EUROPEAN, num_simulations=20_000, seed=seed, **terms)
    # The absolute term covers options so far out of the money that hardly any path pays.
    assert abs(pseudo["price"] - exact) < 6 * pseudo["standard_error"] + 0.01
    quasi = run(MONTE_CARLO_EUROPEAN, num_simulations=4_096, seed=seed, method="quasi_random", **terms)
    assert abs(quasi["price"] - exact) < 1e-3 * max(1.0, exact)


def test_4096_lattice_points_beat_a_million_paths(run: Run) -> None:
    outs = [
        run(MONTE_CARLO_EUROPEAN, num_simulations=4_096, method="quasi_random", seed=seed, **REFERENCE)
        for seed in range(40)
    ]
    errors = np.array([float(out["price"]) - REFERENCE_PRICE for out in outs])
    reported = np.array([float(out["standard_error"]) for out in outs])
    rmse = float(np.sqrt(np.mean(errors**2)))
    assert rmse < PSEUDO_RANDOM_ERROR_AT_ONE_MILLION / 50
    assert 0.5 < np.sqrt(np.mean(reported**2)) / rmse < 2.0
    assert np.mean(np.abs(errors) < 3 * reported) >= 0.85


def test_standard_error_is_honest_about_pseudo_random_paths(run: Run) -> None:
    outs = [run(MONTE_CARLO_EUROPEAN, num_simulations=2_000, seed=seed, **REFERENCE) for seed in range(200)]
    scores = np.array([(out["price"] - REFERENCE_PRICE) / out["standard_error"] for out in outs])
    assert 0.85 < np.std(scores) < 1.15
    assert abs(np.mean(scores)) < 4 / np.sqrt(200)


def test_quasi_random_converges_to_the_exact_price(run: Run) -> None:
    out = run(MONTE_CARLO_EUROPEAN, num_simulations=400_000, method="quasi_random", **REFERENCE)
    assert abs(out["price"] - REFERENCE_PRICE) < 1e-7


@pytest.mark.parametrize("method", ["pseudo_random", "quasi_random"])
@pytest.mark.parametrize("paths", [2, 3, 7, 31, 1_001, 70_003])
def test_the_size_of_a_block_changes_nothing(method: str, paths: int, run: Run) -> None:
    small = NumpyNamespace()
    small.block = 1_000
    terms = {"num_simulations": paths, "method": method, "seed": 4, **REFERENCE}
    whole, blocked = run(MONTE_CARLO_EUROPEAN, **terms), run(MONTE_CARLO_EUROPEAN, namespace=small, **terms)
    assert blocked["price"] == pytest.approx(whole["price"], rel=1e-11)
    assert blocked["standard_error"] == pytest.approx(whole["standard_error"], rel=1e-8, abs=1e-14)


def test_the_estimate_is_the_mean_of_its_paths(run: Run) -> None:
    from routerd.workloads.randomness import normals

    draws = normals(NumpyNamespace(), 0, 0, 25)[:100]
    payoffs = np.exp(-0.05) * np.maximum(100.0 * np.exp(0.03 + 0.2 * draws) - 110.0, 0.0)
    out = run(MONTE_CARLO_EUROPEAN, num_simulations=100, **REFERENCE)
    assert out["price"] == pytest.approx(payoffs.mean(), rel=1e-12)
    assert out["standard_error"] == pytest.approx(payoffs.std(ddof=1) / 10.0, rel=1e-12)


@pytest.mark.parametrize("method", ["pseudo_random", "quasi_random"])
def test_same_seed_same_answer_on_every_namespace(method: str, precise: Namespace, single: Namespace, run: Run) -> None:
    terms = {"num_simulations": 10_000, "method": method, "seed": 123_456_789_012, **REFERENCE}
    wanted = run(MONTE_CARLO_EUROPEAN, **terms)
    assert run(MONTE_CARLO_EUROPEAN, **terms) == wanted
    same = run(MONTE_CARLO_EUROPEAN, namespace=precise, **terms)
    assert same["price"] == pytest.approx(wanted["price"], rel=1e-12)
    rounded = run(MONTE_CARLO_EUROPEAN, namespace=single, **terms)
    assert rounded["price"] == pytest.approx(wanted["price"], rel=1e-6)
    other = run(MONTE_CARLO_EUROPEAN, **{**terms, "seed": 1})
    assert other["price"] != wanted["price"]


@pytest.mark.parametrize("method", ["pseudo_random", "quasi_random"])
def test_puts_and_calls_on_the_same_paths_are_in_parity(method: str, run: Run) -> None:
    terms = {"num_simulations": 50_000, "method": method, **REFERENCE}
    call = run(MONTE_CARLO_EUROPEAN, option_type="call", **terms)
    put = run(MONTE_CARLO_EUROPEAN, option_type="put", **terms)
    spread = math.hypot(call["standard_error"], put["standard_error"]) + 1e-9
    assert abs(call["price"] - put["price"] - (100.0 - 110.0 * math.exp(-0.05))) < 5 * spread


def test_float32_never_reports_an_error_below_its_rounding(single: Namespace, run: Run) -> None:
    out = run(MONTE_CARLO_EUROPEAN, namespace=single, num_simulations=1_000_000, method="quasi_random", **REFERENCE)
    assert abs(out["price"] - REFERENCE_PRICE) < 4 * out["standard_error"]


def test_an_option_that_never_pays_costs_nothing(run: Run) -> None:
    terms = {"spot_price": 1.0, "strike_price": 1e9, "volatility": 0.1, "num_simulations": 1_000}
    out = run(MONTE_CARLO_EUROPEAN, **terms)
    assert (out["price"], out["standard_error"]) == (0.0, 0.0)


@pytest.mark.parametrize("paths", [0, 1, 1e12, 2.5, True, "many"])
def test_senseless_numbers_of_paths_are_refused(paths: Any) -> None:
    with pytest.raises(InvalidParameter, match="num_simulations"):
        bind(MONTE_CARLO_EUROPEAN, {**REFERENCE, "num_simulations": paths}, {}, need_content=True)


@pytest.mark.parametrize("option_type", ["call", "put"])
@pytest.mark.parametrize(("volatility", "maturity"), [(5.0, 100.0), (5.0, 1.0), (1e-3, 1e-3), (0.01, 100.0)])
def test_lattices_survive_extreme_terms(
    option_type: str, volatility: float, maturity: float, precise: Namespace, single: Namespace, run: Run
) -> None:
    terms = {"spot_price": 100.0, "strike_price": 100.0, "volatility": volatility, "maturity": maturity}
    exact = closed_form(option_type=option_type, **terms)
    for namespace, accuracy in ((precise, 1e-5), (single, 1e-4)):
        out = run(
            MONTE_CARLO_EUROPEAN,
            namespace=namespace,
            num_simulations=65_536,
            method="quasi_random",
            option_type=option_type,
            **terms,
        )
        assert out["price"] == pytest.approx(exact, rel=accuracy, abs=1e-4)


@pytest.mark.parametrize(("method", "target"), [("pseudo_random", 0.1), ("quasi_random", 0.01), ("quasi_random", 1e-6)])
def test_a_target_is_reached_with_about_the_work_that_was_announced(method: str, target: float, run: Run) -> None:
    terms = {"target_standard_error": target, "method": method, **REFERENCE}
    announced = bind(MONTE_CARLO_EUROPEAN, terms, {}, need_content=True).work
    for seed in range(10):
        out = run(MONTE_CARLO_EUROPEAN, seed=seed, **terms)
        assert out["standard_error"] <= target
        assert out["num_simulations"].dtype == np.int64
        spent = out["num_simulations"] * (1.0 if method == "pseudo_random" else 0.25)
        assert announced / 2 <= spent <= announced * (1.2 if method == "pseudo_random" else 4.0)


@pytest.mark.parametrize(("method", "target"), [("pseudo_random", 0.2), ("quasi_random", 1e-3)])
def test_prices_by_target_are_as_good_as_they_say(method: str, target: float, run: Run) -> None:
    outs = [
        run(MONTE_CARLO_EUROPEAN, target_standard_error=target, method=method, seed=seed, **REFERENCE)
        for seed in range(60)
    ]
    errors = np.array([out["price"] - REFERENCE_PRICE for out in outs])
    assert np.sqrt(np.mean(errors**2)) < 1.3 * target
    assert np.mean(np.abs(errors) < 3 * np.array([out["standard_error"] for out in outs])) >= 0.85


def test_a_target_beyond_the_limit_is_reported_as_missed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (estimate, european):
        monkeypatch.setattr(module, "MOST_SIMULATIONS", 20_000)
    for method in ("pseudo_random", "quasi_random"):
        out = run(MONTE_CARLO_EUROPEAN, target_standard_error=1e-9, method=method, **REFERENCE)
        assert out["standard_error"] > 1e-9
        assert 10_000 <= out["num_simulations"] <= 20_000


def test_a_target_below_the_rounding_of_float32_ends_the_search(single: Namespace, run: Run) -> None:
    terms = {"target_standard_error": 1e-12, "method": "quasi_random", **REFERENCE}
    out = run(MONTE_CARLO_EUROPEAN, namespace=single, **terms)
    assert 1e-12 < out["standard_error"] < 1e-4
    assert abs(out["price"] - REFERENCE_PRICE) < 4 * out["standard_error"]


def test_a_simulation_is_told_how_long_it_is_in_one_way() -> None:
    for both in ({}, {"num_simulations": 100, "target_standard_error": 0.1}):
        with pytest.raises(InvalidParameter, match="either num_simulations or target_standard_error"):
            bind(MONTE_CARLO_EUROPEAN, {**REFERENCE, **both}, {}, need_content=True)
    for other in ({"num_simulations": 100, "method": "quasi_random"}, {"target_standard_error": 0.1}):
        with pytest.raises(InvalidParameter, match="first_simulation needs method=pseudo_random"):
            bind(MONTE_CARLO_EUROPEAN, {**REFERENCE, "first_simulation": 4, **other}, {}, need_content=True)


@given(
    paths=st.one_of(st.integers(2, 40), st.integers(2, 60_000)),
    first=st.integers(0, 9),
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=7),
)
@settings(max_examples=40, deadline=None)
def test_parts_merge_to_the_whole(run: Run, paths: int, first: int, shares: list[float]) -> None:
    terms = {"num_simulations": paths, "first_simulation": first, "seed": 5, **REFERENCE}
    whole = Example(dict(bind(MONTE_CARLO_EUROPEAN, terms, {}, need_content=True).params), {})
    parts = estimate.split_paths(whole, shares)
    assert len(parts) <= len(shares)
    ranges = [(part.params["first_simulation"], part.params["num_simulations"]) for part in parts]
    assert [start for start, _ in ranges] == [first + sum(count for _, count in ranges[:i]) for i in range(len(parts))]
    merged = estimate.merge_paths(whole, [run(MONTE_CARLO_EUROPEAN, **part.params) for part in parts])
    wanted = run(MONTE_CARLO_EUROPEAN, **terms)
    assert merged["num_simulations"] == wanted["num_simulations"] == paths
    assert merged["price"] == pytest.approx(wanted["price"], rel=1e-12, abs=1e-12)
    assert merged["standard_error"] == pytest.approx(wanted["standard_error"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "terms", [{"num_simulations": 5_000, "method": "quasi_random"}, {"target_standard_error": 0.5}]
)
def test_what_is_no_range_of_paths_stays_whole(terms: dict[str, Any], run: Run) -> None:
    whole = Example(dict(bind(MONTE_CARLO_EUROPEAN, {**REFERENCE, **terms}, {}, need_content=True).params), {})
    assert estimate.split_paths(whole, (0.5, 0.5)) == [whole]
    out = run(MONTE_CARLO_EUROPEAN, **whole.params)
    assert estimate.merge_paths(whole, [out]) == out


@pytest.mark.parametrize("method", ["pseudo_random", "quasi_random"])
@pytest.mark.parametrize("option_type", ["call", "put"])
@pytest.mark.parametrize("strike", [80.0, 110.0])
def test_without_volatility_the_price_is_exact(method: str, option_type: str, strike: float, run: Run) -> None:
    terms = {"spot_price": 100.0, "strike_price": strike, "option_type": option_type, "method": method}
    gain = 100.0 - strike * math.exp(-0.05)
    for much in ({"num_simulations": 7}, {"target_standard_error": 0.1}):
        out = run(MONTE_CARLO_EUROPEAN, volatility=0.0, **much, **terms)
        assert out["price"] == pytest.approx(max(gain if option_type == "call" else -gain, 0.0), abs=1e-12)
        assert out["standard_error"] == 0.0


@pytest.mark.parametrize("method", ["pseudo_random", "quasi_random"])
@pytest.mark.parametrize("strike", [80.0, 99.0, 120.0])
def test_at_expiry_the_price_is_what_is_paid(method: str, strike: float, run: Run) -> None:
    terms = {"spot_price": 100.0, "strike_price": strike, "volatility": 0.3, "maturity": 1e-12}
    out = run(MONTE_CARLO_EUROPEAN, num_simulations=1_000, method=method, **terms)
    assert out["price"] == pytest.approx(max(100.0 - strike, 0.0), abs=1e-5)


@pytest.mark.parametrize(("strike", "option_type"), [(250.0, "call"), (40.0, "put"), (20.0, "call"), (500.0, "put")])
def test_lattices_price_what_hardly_ever_or_always_pays(strike: float, option_type: str, run: Run) -> None:
    terms = {"spot_price": 100.0, "strike_price": strike, "volatility": 0.2, "option_type": option_type}
    out = run(MONTE_CARLO_EUROPEAN, num_simulations=100_000, method="quasi_random", **terms)
    assert out["price"] == pytest.approx(closed_form(**terms), rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("volatility", [0.0, 1e-300, 0.2, 5.0])
def test_a_price_is_finite_wherever_terms_are_allowed(volatility: float, single: Namespace, run: Run) -> None:
    ends = {one.name: (one.minimum, one.maximum) for one in MONTE_CARLO_EUROPEAN.parameters}
    methods = ("pseudo_random", "quasi_random")
    for option_type, method, price, rate in product(("call", "put"), methods, ends["spot_price"], ends["rate"]):
        for namespace in (NumpyNamespace(), single):
            out = run(
                MONTE_CARLO_EUROPEAN,
                namespace=namespace,
                option_type=option_type,
                method=method,
                spot_price=price,
                strike_price=price,
                volatility=volatility,
                rate=rate,
                maturity=ends["maturity"][1],
                num_simulations=4_096,
            )
            assert np.isfinite(out["price"]) and np.isfinite(out["standard_error"])
