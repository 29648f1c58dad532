"""The Asian option against QuantLib, quadrature, closed forms and a plain simulation, in itself, and across namespaces."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidParameter
from routerd.interfaces import Example, Namespace, Workload
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.binding import bind
from routerd.workloads.options import MONTE_CARLO_ASIAN, MONTE_CARLO_EUROPEAN, estimate
from routerd.workloads.options.average import average_of
from routerd.workloads.options.paths import skeleton
from routerd.workloads.randomness import step_normals

Run = Callable[..., dict[str, Any]]
METHODS = ("pseudo_random", "quasi_random")
REFERENCE = {"spot_price": 100.0, "strike_price": 100.0, "volatility": 0.25, "maturity": 360 / 365, "num_steps": 12}


@pytest.fixture(scope="module")
def quantlib() -> Any:
    """``quantlib(engine, average)``: the price of the reference contract by a QuantLib engine, fixed every 30 days."""
    ql = pytest.importorskip("QuantLib", reason="QuantLib is not installed")
    today = ql.Date(2, 1, 2024)
    ql.Settings.instance().evaluationDate = today
    count = ql.Actual365Fixed()
    process = ql.BlackScholesProcess(
        ql.QuoteHandle(ql.SimpleQuote(100.0)),
        ql.YieldTermStructureHandle(ql.FlatForward(today, 0.05, count)),
        ql.BlackVolTermStructureHandle(ql.BlackConstantVol(today, ql.NullCalendar(), 0.25, count)),
    )
    fixings = [today + 30 * number for number in range(1, 13)]

    def price(engine: str, average: str, strike: float, put: bool = False, **options: Any) -> tuple[float, float]:
        payoff = ql.PlainVanillaPayoff(ql.Option.Put if put else ql.Option.Call, strike)
        start = 1.0 if average == "Geometric" else 0.0
        option = ql.DiscreteAveragingAsianOption(
            getattr(ql.Average, average), start, 0, fixings, payoff, ql.EuropeanExercise(fixings[-1])
        )
        option.setPricingEngine(getattr(ql, engine)(process, **options))
        return option.NPV(), option.errorEstimate() if options else 0.0

    return price


def geometric_price(**terms: Any) -> float:
    """A call on the geometric average, from the law of it that the workload's average states."""
    params = bind(MONTE_CARLO_ASIAN, {"num_simulations": 2, **terms}, {}, need_content=True).params
    average = average_of(params)
    forward = math.exp(average.drift.mean() + 0.5 * average.spread**2)

    def cumulative(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    value = forward * cumulative(average.spread - average.threshold) - average.strike * cumulative(-average.threshold)
    return value * average.unit * math.exp(-params["rate"] * params["maturity"])


@pytest.mark.parametrize("strike", [80.0, 100.0, 130.0])
def test_the_geometric_average_has_the_law_that_quantlib_knows(strike: float, quantlib: Any) -> None:
    exact, _ = quantlib("AnalyticDiscreteGeometricAveragePriceAsianEngine", "Geometric", strike)
    assert geometric_price(**{**REFERENCE, "strike_price": strike}) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("put", [False, True])
@pytest.mark.parametrize("strike", [85.0, 100.0, 120.0])
def test_the_price_is_that_of_quantlibs_engines(strike: float, put: bool, quantlib: Any, run: Run) -> None:
    terms = {**REFERENCE, "strike_price": strike, "option_type": "put" if put else "call"}
    out = run(MONTE_CARLO_ASIAN, num_simulations=4_096, method="quasi_random", **terms)
    approximate, _ = quantlib("TurnbullWakemanAsianEngine", "Arithmetic", strike, put)
    assert out["price"] == pytest.approx(approximate, abs=0.05)
    simulated, error = quantlib(
        "MCPRDiscreteArithmeticAPEngine",
        "Arithmetic",
        strike,
        put,
        controlVariate=True,
        requiredSamples=20_000,
        seed=42,
    )
    assert abs(out["price"] - simulated) < 4 * math.hypot(error, out["standard_error"])


@pytest.mark.parametrize(("volatility", "strike"), [(0.2, 100.0), (0.6, 130.0), (1.0, 70.0)])
def test_two_steps_agree_with_quadrature(volatility: float, strike: float, run: Run) -> None:
    from scipy.special import ndtr

    nodes = np.linspace(-10.0, 10.0, 20_001)
    weights = np.exp(-0.5 * nodes * nodes) * 1e-3 / math.sqrt(2.0 * math.pi)
    drift, deviation = (0.05 - 0.5 * volatility**2) / 2.0, volatility * math.sqrt(0.5)
    first = 50.0 * np.exp(drift + deviation * nodes)
    # Given the first price, the rest is a European call on the second, struck at what the first leaves.
    left = strike - first
    forward = first * math.exp(0.025)
    upper = np.log(forward / np.maximum(left, 1e-9)) / deviation + 0.5 * deviation
    call = np.where(left > 0.0, forward * ndtr(upper) - left * ndtr(upper - deviation), forward - left)
    exact = math.exp(-0.05) * float(weights @ call)
    terms = {"spot_price": 100.0, "strike_price": strike, "volatility": volatility, "num_steps": 2}
    for method, control in product(METHODS, (True, False)):
        out = run(MONTE_CARLO_ASIAN, num_simulations=32_768, method=method, control_variate=control, **terms)
        assert abs(out["price"] - exact) < 4 * out["standard_error"]
        assert out["standard_error"] < exact * (1e-4 if control else 2e-2)


@pytest.mark.parametrize("option_type", ["call", "put"])
@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_the_european_option(option_type: str, method: str, run: Run) -> None:
    terms = {
        "spot_price": 100.0,
        "strike_price": 110.0,
        "volatility": 0.2,
        "option_type": option_type,
        "method": method,
    }
    european = run(MONTE_CARLO_EUROPEAN, num_simulations=400_000, **{**terms, "method": "quasi_random"})["price"]
    out = run(MONTE_CARLO_ASIAN, num_steps=1, num_simulations=100, **terms)
    assert out["price"] == pytest.approx(european, abs=1e-7)
    assert out["standard_error"] < 1e-12
    plain = run(MONTE_CARLO_ASIAN, num_steps=1, num_simulations=20_000, control_variate=False, **terms)
    assert abs(plain["price"] - european) < 4 * plain["standard_error"]


def test_one_step_without_control_walks_the_paths_of_the_european_option(run: Run) -> None:
    terms = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 10_001, "seed": 3}
    european = run(MONTE_CARLO_EUROPEAN, **terms)
    out = run(MONTE_CARLO_ASIAN, num_steps=1, control_variate=False, **terms)
    assert out["price"] == pytest.approx(european["price"], rel=1e-11)
    assert out["standard_error"] == pytest.approx(european["standard_error"], rel=1e-9)


def test_without_control_the_estimate_is_the_mean_of_its_paths(run: Run) -> None:
    normal = step_normals(NumpyNamespace(), 9, 0, 100, range(40))
    growth = np.cumsum((0.05 - 0.5 * 0.3**2) * 0.05 + 0.3 * math.sqrt(0.05) * normal, axis=0)
    payoffs = math.exp(-0.1) * np.maximum(100.0 * np.exp(growth).mean(axis=0) - 105.0, 0.0)
    terms = {"spot_price": 100.0, "strike_price": 105.0, "volatility": 0.3, "maturity": 2.0, "num_steps": 40, "seed": 9}
    out = run(MONTE_CARLO_ASIAN, num_simulations=400, control_variate=False, **terms)
    assert out["price"] == pytest.approx(payoffs.mean(), rel=1e-12)
    assert out["standard_error"] == pytest.approx(payoffs.std(ddof=1) / 20.0, rel=1e-11)


@settings(max_examples=15, deadline=None)
@given(
    steps=st.integers(1, 80),
    strike=st.floats(60.0, 160.0),
    volatility=st.floats(0.02, 1.0),
    maturity=st.floats(0.02, 5.0),
    rate=st.floats(-0.05, 0.15),
    seed=st.integers(0, 2**53 - 1),
)
def test_puts_and_calls_differ_by_the_forward(
    run: Run, steps: int, strike: float, volatility: float, maturity: float, rate: float, seed: int
) -> None:
    terms = {
        "spot_price": 100.0,
        "strike_price": strike,
        "volatility": volatility,
        "maturity": maturity,
        "rate": rate,
        "num_steps": steps,
        "num_simulations": 1_000,
        "seed": seed,
    }
    times = maturity * np.arange(1, steps + 1) / steps
    forward = math.exp(-rate * maturity) * (float(np.mean(100.0 * np.exp(rate * times))) - strike)
    outs = {
        (option, method): run(MONTE_CARLO_ASIAN, option_type=option, method=method, **terms)
        for option, method in product(("call", "put"), METHODS)
    }
    for method in METHODS:
        assert outs["call", method]["price"] - outs["put", method]["price"] == pytest.approx(forward, abs=1e-10)
    difference = outs["call", METHODS[0]]["price"] - outs["call", METHODS[1]]["price"]
    assert abs(difference) < 7 * math.hypot(*(outs["call", method]["standard_error"] for method in METHODS)) + 1e-10


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize(("method", "count"), [("pseudo_random", 1_000), ("quasi_random", 1_024)])
@pytest.mark.parametrize(("volatility", "strike"), [(0.2, 100.0), (0.4, 140.0)])
def test_standard_errors_are_honest(
    control: bool, method: str, count: int, volatility: float, strike: float, run: Run
) -> None:
    terms = {"spot_price": 100.0, "strike_price": strike, "volatility": volatility, "num_steps": 20}
    exact = run(MONTE_CARLO_ASIAN, num_simulations=2**15, method="quasi_random", seed=1_000, **terms)["price"]
    outs = [
        run(MONTE_CARLO_ASIAN, num_simulations=count, method=method, control_variate=control, seed=seed, **terms)
        for seed in range(60)
    ]
    errors = np.array([out["price"] - exact for out in outs])
    reported = np.array([out["standard_error"] for out in outs])
    assert 0.7 < math.sqrt(np.mean(errors**2) / np.mean(reported**2)) < 1.4
    assert np.mean(np.abs(errors) < 3 * reported) >= 0.9


def test_what_is_known_of_the_payoff_saves_most_of_the_paths(run: Run) -> None:
    terms = {"spot_price": 100.0, "strike_price": 100.0, "volatility": 0.2, "num_steps": 52, "num_simulations": 4_096}
    errors = {
        (method, control): run(MONTE_CARLO_ASIAN, method=method, control_variate=control, **terms)["standard_error"]
        for method, control in product(METHODS, (False, True))
    }
    assert errors["pseudo_random", True] < errors["pseudo_random", False] / 1_000
    assert errors["quasi_random", False] < errors["pseudo_random", False] / 4
    assert errors["quasi_random", True] < errors["pseudo_random", True] / 1.5


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize(("method", "count"), [("pseudo_random", 2), ("pseudo_random", 2_003), ("quasi_random", 2_000)])
@pytest.mark.parametrize("steps", [1, 15, 17, 100])
def test_the_size_of_a_block_changes_nothing(control: bool, method: str, count: int, steps: int, run: Run) -> None:
    small = NumpyNamespace()
    small.block = 500
    terms = {"num_simulations": count, "method": method, "control_variate": control, **REFERENCE, "num_steps": steps}
    whole, blocked = run(MONTE_CARLO_ASIAN, **terms), run(MONTE_CARLO_ASIAN, namespace=small, **terms)
    assert blocked["price"] == pytest.approx(whole["price"], rel=1e-11)
    assert blocked["standard_error"] == pytest.approx(whole["standard_error"], rel=1e-8, abs=1e-13)


VARIANTS = pytest.mark.parametrize(
    ("method", "control", "steps"),
    [
        ("pseudo_random", True, 20),
        ("pseudo_random", False, 20),
        ("quasi_random", True, 100),
        ("quasi_random", False, 20),
    ],
)


@VARIANTS
def test_same_seed_same_answer_in_float64(method: str, control: bool, steps: int, precise: Namespace, run: Run) -> None:
    terms = {"num_simulations": 1_000, "method": method, "control_variate": control, "seed": 2**40 + 1, **REFERENCE}
    terms["num_steps"] = steps
    wanted = run(MONTE_CARLO_ASIAN, **terms)
    assert run(MONTE_CARLO_ASIAN, **terms) == wanted
    same = run(MONTE_CARLO_ASIAN, namespace=precise, **terms)
    assert same["price"] == pytest.approx(wanted["price"], rel=1e-12)
    assert run(MONTE_CARLO_ASIAN, **{**terms, "seed": 1})["price"] != wanted["price"]


@VARIANTS
def test_same_seed_same_answer_in_float32(method: str, control: bool, steps: int, single: Namespace, run: Run) -> None:
    terms = {"num_simulations": 1_000, "method": method, "control_variate": control, **REFERENCE, "num_steps": steps}
    wanted, rounded = run(MONTE_CARLO_ASIAN, **terms), run(MONTE_CARLO_ASIAN, namespace=single, **terms)
    assert rounded["price"] == pytest.approx(wanted["price"], rel=1e-6)
    assert rounded["standard_error"] == pytest.approx(wanted["standard_error"], rel=1e-2)
    assert rounded["num_simulations"] == wanted["num_simulations"]


@given(
    paths=st.integers(2, 3_000), shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5), control=st.booleans()
)
@settings(max_examples=20, deadline=None)
def test_parts_merge_to_the_whole(run: Run, paths: int, shares: list[float], control: bool) -> None:
    terms = {"num_simulations": paths, "control_variate": control, **REFERENCE}
    whole = Example(dict(bind(MONTE_CARLO_ASIAN, terms, {}, need_content=True).params), {})
    parts = [run(MONTE_CARLO_ASIAN, **part.params) for part in estimate.split_paths(whole, shares)]
    merged, wanted = estimate.merge_paths(whole, parts), run(MONTE_CARLO_ASIAN, **terms)
    assert merged["num_simulations"] == paths
    assert merged["price"] == pytest.approx(wanted["price"], rel=1e-12, abs=1e-12)
    assert merged["standard_error"] == pytest.approx(wanted["standard_error"], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("control", "target"), [(True, 1e-4), (False, 0.2)])
def test_a_target_is_reached_with_about_the_work_that_was_announced(
    method: str, control: bool, target: float, run: Run
) -> None:
    terms = {"target_standard_error": target, "method": method, "control_variate": control, **REFERENCE}
    announced = bind(MONTE_CARLO_ASIAN, terms, {}, need_content=True).work
    out = run(MONTE_CARLO_ASIAN, **terms)
    assert 0.0 < out["standard_error"] <= target
    spent = bind(
        MONTE_CARLO_ASIAN,
        {**REFERENCE, "method": method, "num_simulations": int(out["num_simulations"])},
        {},
        need_content=True,
    ).work
    assert announced / 4 <= spent <= announced * 4


def test_more_points_for_a_target_are_the_points_of_a_longer_task(run: Run) -> None:
    terms = {"method": "quasi_random", **REFERENCE}
    found = run(MONTE_CARLO_ASIAN, target_standard_error=2e-5, **terms)
    assert found["num_simulations"] > 1_024
    same = run(MONTE_CARLO_ASIAN, num_simulations=int(found["num_simulations"]), **terms)
    assert found["price"] == pytest.approx(same["price"], rel=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("option_type", ["call", "put"])
@pytest.mark.parametrize("strike", [80.0, 120.0])
def test_without_volatility_or_time_the_price_is_what_is_paid(
    method: str, option_type: str, strike: float, run: Run
) -> None:
    terms = {"spot_price": 100.0, "strike_price": strike, "option_type": option_type, "method": method, "num_steps": 4}
    average = float(np.mean(100.0 * np.exp(0.05 * np.arange(1, 5) / 4)))
    for volatility, maturity, exact in ((0.0, 1.0, math.exp(-0.05) * (average - strike)), (0.3, 1e-12, 100.0 - strike)):
        paid = max(exact if option_type == "call" else -exact, 0.0)
        out = run(MONTE_CARLO_ASIAN, volatility=volatility, maturity=maturity, num_simulations=64, **terms)
        assert out["price"] == pytest.approx(paid, abs=1e-7)
        assert out["standard_error"] < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("strike", "volatility", "maturity"),
    [(1e6, 0.2, 1.0), (1e-6, 0.2, 1.0), (100.0, 5.0, 100.0), (100.0, 1e-30, 1.0)],
)
def test_extreme_terms_give_finite_prices(
    method: str, strike: float, volatility: float, maturity: float, precise: Namespace, single: Namespace, run: Run
) -> None:
    terms = {"spot_price": 100.0, "strike_price": strike, "volatility": volatility, "maturity": maturity}
    for namespace, control in product((precise, single), (True, False)):
        out = run(
            MONTE_CARLO_ASIAN,
            namespace=namespace,
            method=method,
            control_variate=control,
            num_steps=10,
            num_simulations=512,
            **terms,
        )
        assert np.isfinite(out["price"]) and np.isfinite(out["standard_error"])
        assert 0.0 <= out["price"] < 100.0 + 4 * out["standard_error"]


@pytest.mark.parametrize("volatility", [1e-6, 1e-4, 1e-2])
def test_hardly_any_volatility_beside_the_rate(volatility: float, run: Run) -> None:
    strike = float(np.mean(100.0 * np.exp(0.05 * np.arange(1, 5) / 4)))
    terms = {"spot_price": 100.0, "strike_price": strike, "volatility": volatility, "num_steps": 4, "seed": 8}
    plain, known = (
        run(MONTE_CARLO_ASIAN, num_simulations=16_384, method="quasi_random", control_variate=control, **terms)
        for control in (False, True)
    )
    assert known["price"] == pytest.approx(float(plain["price"]), abs=4 * plain["standard_error"])
    assert known["standard_error"] < plain["price"] / 100


@pytest.mark.parametrize("target", [1e-12, 1e12])
@pytest.mark.parametrize("workload", [MONTE_CARLO_ASIAN, MONTE_CARLO_EUROPEAN])
def test_the_work_for_any_target_and_terms_is_a_number(workload: Workload, target: float) -> None:
    edges = product((1e-12, 1e12), (1e-12, 1e12), (0.0, 1e-300, 5.0), (1e-300, 100.0), (-0.5, 1.0), METHODS)
    for spot, strike, volatility, maturity, rate, method in edges:
        terms = {
            "spot_price": spot,
            "strike_price": strike,
            "volatility": volatility,
            "maturity": maturity,
            "rate": rate,
            "method": method,
            "target_standard_error": target,
        }
        work = bind(workload, terms, {}, need_content=True).work
        assert 1.0 <= work <= 2e9 * 400


@pytest.mark.parametrize("steps", [1, 2, 62, 63, 64, 126, 127, 252])
def test_the_skeleton_has_the_covariance_of_the_motion(steps: int) -> None:
    bones = skeleton(steps)
    points = np.minimum(bones.stride * np.arange(1, len(bones.factor) + 1), steps)
    assert len(points) <= 63 and points[-1] == steps
    assert np.allclose(bones.factor @ bones.factor.T, np.minimum.outer(points, points), atol=1e-9 * steps)
    # The motion's mean, straight between the points, is moved by the first number alone.
    straight = np.stack(
        [np.interp(np.arange(1, steps + 1), np.append(0, points), np.append(0, row)) for row in np.eye(len(points))]
    )
    assert np.allclose((straight.mean(axis=1) @ bones.factor)[1:], 0.0, atol=1e-9 * steps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("steps", "count"), [(252, 10_000), (10_000, 64)])
def test_temporaries_are_bounded(method: str, steps: int, count: int, run: Run) -> None:
    tracemalloc.start()
    try:
        run(MONTE_CARLO_ASIAN, **{**REFERENCE, "num_steps": steps}, method=method, num_simulations=count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize("steps", [0, 10_001, 2.5])
def test_senseless_numbers_of_steps_are_refused(steps: Any) -> None:
    with pytest.raises(InvalidParameter, match="num_steps"):
        bind(MONTE_CARLO_ASIAN, {**REFERENCE, "num_steps": steps, "num_simulations": 10}, {}, need_content=True)


@pytest.mark.parametrize("volatility", [0.0, 1e-300, 0.2, 5.0])
def test_a_price_is_finite_wherever_terms_are_allowed(volatility: float, single: Namespace, run: Run) -> None:
    ends = {one.name: (one.minimum, one.maximum) for one in MONTE_CARLO_ASIAN.parameters}
    for option_type, method, price, rate in product(("call", "put"), METHODS, ends["spot_price"], ends["rate"]):
        for namespace in (NumpyNamespace(), single):
            out = run(
                MONTE_CARLO_ASIAN,
                namespace=namespace,
                option_type=option_type,
                method=method,
                spot_price=price,
                strike_price=price,
                volatility=volatility,
                rate=rate,
                maturity=ends["maturity"][1],
                num_simulations=16,
            )
            assert np.isfinite(out["price"]) and np.isfinite(out["standard_error"])
