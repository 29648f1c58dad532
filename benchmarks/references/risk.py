"""Greeks against QuantLib, historical VaR against skfolio, delta–gamma VaR and a discrete VaR against plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.risk import GREEKS_BATCH, VAR_HISTORICAL, VAR_MONTE_CARLO

_CONFIDENCE = 0.99
_DAYS = 365


def cases(quick: bool) -> list[Case | Missing]:
    return [
        *_greeks(500 if quick else 5_000, quick),
        _historical(500 if quick else 5_000, 1_250),
        *_monte_carlo(quick),
        _discrete(2**12 if quick else 2**20),
    ]


def _greeks(options: int, quick: bool) -> list[Case | Missing]:
    if find_spec("QuantLib") is None:
        return [Missing(GREEKS_BATCH.name, "QuantLib is not installed")]
    arrays = GREEKS_BATCH.example(options, np.random.default_rng(0)).arrays
    arrays["maturity"] = np.maximum(1.0, np.round(_DAYS * arrays["maturity"])) / _DAYS  # the engine counts in days
    sample = 100 if quick else 1_000
    return [
        Case(
            workload=GREEKS_BATCH.name,
            scale=f"{options} options",
            library=library,
            params={"option_type": "call"},
            arrays=arrays,
            peer=peer,
            difference=lambda outputs, greeks: float(
                np.linalg.norm(outputs["greeks"][: len(greeks)] - greeks) / np.linalg.norm(greeks)
            ),
            agreement=1e-12,
            peer_calls=options / sample,
            target=target,
        )
        for library, peer, target in (
            ("QuantLib VanillaOption with AnalyticEuropeanEngine", _engine(arrays, sample), 50.0),
            ("QuantLib BlackCalculator", _calculator(arrays, sample), None),
        )
    ]


def _engine(arrays: Mapping[str, np.ndarray], count: int) -> Callable[[], np.ndarray]:
    """One process whose quotes are moved from option to option: the quickest way that goes through QuantLib's engine."""
    import QuantLib

    today = QuantLib.Date(1, 1, 2024)
    QuantLib.Settings.instance().evaluationDate = today
    day_count = QuantLib.Actual365Fixed()
    spot, rate, volatility = (QuantLib.SimpleQuote(1.0) for _ in range(3))
    process = QuantLib.BlackScholesProcess(
        QuantLib.QuoteHandle(spot),
        QuantLib.YieldTermStructureHandle(QuantLib.FlatForward(today, QuantLib.QuoteHandle(rate), day_count)),
        QuantLib.BlackVolTermStructureHandle(
            QuantLib.BlackConstantVol(today, QuantLib.NullCalendar(), QuantLib.QuoteHandle(volatility), day_count)
        ),
    )
    engine = QuantLib.AnalyticEuropeanEngine(process)
    rows = _rows(arrays, count)

    def peer() -> np.ndarray:
        greeks = np.empty((count, 6))
        for index, (price, strike, deviation, maturity, growth) in enumerate(rows):
            spot.setValue(price)
            rate.setValue(growth)
            volatility.setValue(deviation)
            option = QuantLib.VanillaOption(
                QuantLib.PlainVanillaPayoff(QuantLib.Option.Call, strike),
                QuantLib.EuropeanExercise(today + round(maturity * _DAYS)),
            )
            option.setPricingEngine(engine)
            greeks[index] = (
                option.NPV(),
                option.delta(),
                option.gamma(),
                option.vega(),
                option.theta(),
                option.rho(),
            )
        return greeks

    return peer


def _calculator(arrays: Mapping[str, np.ndarray], count: int) -> Callable[[], np.ndarray]:
    import QuantLib

    rows = _rows(arrays, count)

    def peer() -> np.ndarray:
        greeks = np.empty((count, 6))
        for index, (price, strike, deviation, maturity, growth) in enumerate(rows):
            discount = math.exp(-growth * maturity)
            black = QuantLib.BlackCalculator(
                QuantLib.PlainVanillaPayoff(QuantLib.Option.Call, strike),
                price / discount,
                deviation * math.sqrt(maturity),
                discount,
            )
            greeks[index] = (
                black.value(),
                black.delta(price),
                black.gamma(price),
                black.vega(maturity),
                black.theta(price, maturity),
                black.rho(maturity),
            )
        return greeks

    return peer


def _rows(arrays: Mapping[str, np.ndarray], count: int) -> list[list[float]]:
    columns = [arrays[name][:count] for name in ("spot", "strike", "volatility", "maturity", "rate")]
    return np.stack(columns, axis=1).tolist()


def _historical(scenarios: int, assets: int) -> Case | Missing:
    if find_spec("skfolio") is None:
        return Missing(VAR_HISTORICAL.name, "skfolio is not installed")
    from skfolio.measures import cvar, value_at_risk

    rng = np.random.default_rng(0)
    returns, weights = 0.01 * rng.standard_t(5, (scenarios, assets)), rng.dirichlet(np.ones(assets))

    def peer() -> np.ndarray:
        portfolio = returns @ weights
        return np.array([value_at_risk(portfolio, beta=_CONFIDENCE), cvar(portfolio, beta=_CONFIDENCE)])

    return Case(
        workload=VAR_HISTORICAL.name,
        scale=f"{scenarios} scenarios × {assets} assets",
        library="skfolio value_at_risk and cvar, after NumPy's product",
        params={"confidence": _CONFIDENCE},
        arrays={"returns": returns, "weights": weights},
        peer=peer,
        difference=lambda outputs, found: _largest(
            [outputs["value_at_risk"], outputs["expected_shortfall"]], found.tolist()
        ),
        agreement=1e-12,
        note="both spend their time in the same product of scenarios and weights",
    )


def _monte_carlo(quick: bool) -> list[Case | Missing]:
    """The same number of simulations, and as many Sobol points as are as accurate (measured over 40 seeds: a quarter of the paths)."""
    factors, paths = (20, 2**13) if quick else (100, 2**17)
    rng = np.random.default_rng(0)
    loadings = 0.012 * np.column_stack([rng.uniform(0.4, 1.2, factors), 0.5 * rng.standard_normal((factors, 2))])
    mixed = rng.standard_normal((factors, factors))
    arrays = {
        "covariance": loadings @ loadings.T + np.diag(rng.uniform(0.005, 0.015, factors) ** 2),
        "delta": rng.normal(1e4, 1e4, factors),
        "gamma": -1e4 * mixed @ mixed.T,
    }

    def peer() -> np.ndarray:
        moves = np.random.default_rng(1).multivariate_normal(np.zeros(factors), arrays["covariance"], paths)
        losses = -(moves @ arrays["delta"] + 0.5 * ((moves @ arrays["gamma"]) * moves).sum(axis=1))
        var = np.quantile(losses, _CONFIDENCE, method="inverted_cdf")
        return np.array([var, var + np.maximum(losses - var, 0.0).mean() / (1.0 - _CONFIDENCE)])

    return [
        Case(
            workload=VAR_MONTE_CARLO.name,
            scale=f"{factors} factors, {simulations} {name}",
            library=f"NumPy's multivariate_normal, {paths} paths",
            params={"method": method, "num_simulations": simulations, "confidence": _CONFIDENCE},
            arrays=arrays,
            peer=peer,
            difference=lambda outputs, found: _largest(
                [outputs["value_at_risk"], outputs["expected_shortfall"]], found.tolist()
            ),
            agreement=0.1 if quick else 0.03,
            note="agreement is that of two simulations of so many paths",
        )
        for method, simulations, name in (
            ("pseudo_random", paths, "paths"),
            ("sobol", paths // 4, "Sobol points, as accurate"),
        )
    ]


def _discrete(bins: int) -> Case | Missing:
    losses = (np.arange(bins) + 0.5) / bins
    weights = losses**2 * np.exp(-15.0 * losses)
    probabilities = weights / weights.sum()

    return Case(
        workload="risk.var_amplitude_estimation",
        scale=f"{bins} bins, Sobol, epsilon 1e-5",
        library="NumPy's cumsum and searchsorted (exact)",
        params={"lowest_loss": 0.0, "highest_loss": 1.0, "epsilon": 1e-5, "confidence": _CONFIDENCE},
        arrays={"probabilities": probabilities},
        peer=lambda: np.searchsorted(np.cumsum(probabilities), _CONFIDENCE) / (bins - 1),
        difference=lambda outputs, found: abs(float(outputs["value_at_risk"]) / found - 1.0),
        agreement=1e-3,
        note="for a distribution that is known, a sum is exact and quicker; the workload counts what estimators need",
    )


def _largest(ours: list[Any], theirs: list[float]) -> float:
    return max(abs(float(one) / other - 1.0) for one, other in zip(ours, theirs, strict=True))
