"""Simulated option prices against plain NumPy, as its users write it, and against QuantLib's Monte Carlo engines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.interfaces import Workload
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.binding import bind
from routerd.workloads.options import MONTE_CARLO_ASIAN, MONTE_CARLO_EUROPEAN

_EUROPEAN, _ASIAN = MONTE_CARLO_EUROPEAN.name, MONTE_CARLO_ASIAN.name
_CALL = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "rate": 0.05, "maturity": 1.0}
_CALL_PRICE = 6.040088129724
_CALL_ERROR = 11.62  # standard deviation of what one path pays today
_AVERAGE = {"spot_price": 100.0, "strike_price": 100.0, "volatility": 0.2, "rate": 0.05, "maturity": 1.0}
_SEEDS = 400
#: Lattice points that are as accurate as a million paths, and Sobol points as accurate as QuantLib's million.
_LATTICE_POINTS, _SOBOL_POINTS = 400, 128


def cases(quick: bool) -> list[Case | Missing]:
    paths = 10_000 if quick else 1_000_000
    found = _european_against_numpy(paths)
    if find_spec("QuantLib") is None:
        found.append(Missing(_EUROPEAN, "QuantLib is not installed"))
    else:
        found.append(_european_against_quantlib(paths))
    found.append(_asian_against_numpy(500 if quick else 50_000, 252))
    if find_spec("QuantLib") is None:
        found.append(Missing(_ASIAN, "QuantLib is not installed"))
    else:
        found += _asian_against_quantlib(500 if quick else 10_000, paths, 252)
    return found


def _european_against_numpy(paths: int) -> list[Case | Missing]:
    rng = np.random.default_rng(0)

    def simulate() -> float:
        growth = np.exp(0.03 + 0.2 * rng.standard_normal(paths))
        return float(math.exp(-0.05) * np.maximum(100.0 * growth - 110.0, 0.0).mean())

    # Two estimates differ by some of their standard errors.
    agreement = 6.0 * math.sqrt(2.0 / paths) * _CALL_ERROR / _CALL_PRICE
    accuracy = _CALL_ERROR / math.sqrt(paths)
    lattice = {"num_simulations": _LATTICE_POINTS, "method": "quasi_random"}
    target = {"target_standard_error": accuracy, "method": "quasi_random"}
    numpy = f"NumPy, {paths:,} paths"
    common: dict[str, Any] = {"peer": simulate, "difference": _relative, "agreement": agreement}
    return [
        Case(
            workload=_EUROPEAN,
            scale=f"{paths:,} paths",
            library=numpy,
            params={**_CALL, "num_simulations": paths},
            **common,
        ),
        Case(
            workload=_EUROPEAN,
            scale=f"standard error of {accuracy:.4f} or less",
            library=numpy,
            params={**_CALL, **target},
            **common,
        ),
        Case(
            workload=_EUROPEAN,
            scale=f"{_LATTICE_POINTS} lattice points",
            library=numpy,
            params={**_CALL, **lattice},
            target=1000.0,
            note=f"root mean square error over {_SEEDS} seeds: {_LATTICE_POINTS} lattice points "
            f"{_accuracy(MONTE_CARLO_EUROPEAN, {**_CALL, **lattice}, _CALL_PRICE)}; {paths:,} paths {accuracy:.4f}; for the "
            f"standard error of {accuracy:.4f} {_accuracy(MONTE_CARLO_EUROPEAN, {**_CALL, **target}, _CALL_PRICE)}",
            **common,
        ),
    ]


def _european_against_quantlib(paths: int) -> Case:
    import QuantLib as ql  # noqa: N813

    process, today = _process()
    option = ql.VanillaOption(
        ql.PlainVanillaPayoff(ql.Option.Call, 110.0), ql.EuropeanExercise(today + ql.Period(365, ql.Days))
    )

    def simulate() -> float:
        option.setPricingEngine(
            ql.MCEuropeanEngine(process, "PseudoRandom", timeSteps=1, requiredSamples=paths, seed=42)
        )
        return float(option.NPV())

    return Case(
        workload=_EUROPEAN,
        scale=f"{_LATTICE_POINTS} lattice points",
        library=f"QuantLib MCEuropeanEngine, {paths:,} paths",
        params={**_CALL, "num_simulations": _LATTICE_POINTS, "method": "quasi_random"},
        peer=simulate,
        difference=_relative,
        agreement=6.0 * math.sqrt(2.0 / paths) * _CALL_ERROR / _CALL_PRICE,
        target=5000.0,
    )


def _asian_against_numpy(paths: int, steps: int) -> Case:
    rng = np.random.default_rng(0)

    def simulate() -> float:
        """In blocks that fit into memory, which is as fast as all at once."""
        total, done = 0.0, 0
        while done < paths:
            count = min(5_000, paths - done)
            growth = rng.standard_normal((steps, count))
            growth *= 0.2 / math.sqrt(steps)
            growth += 0.03 / steps
            np.cumsum(growth, axis=0, out=growth)
            np.exp(growth, out=growth)
            total += float(np.maximum(100.0 * growth.mean(axis=0) - 100.0, 0.0).sum())
            done += count
        return math.exp(-0.05) * total / paths

    return Case(
        workload=_ASIAN,
        scale=f"{paths:,} paths × {steps} steps",
        library="NumPy",
        params={**_AVERAGE, "num_steps": steps, "num_simulations": paths, "control_variate": False},
        peer=simulate,
        difference=_relative,
        agreement=6.0 * math.sqrt(2.0 / paths) * 8.0 / 5.78,
    )


def _asian_against_quantlib(share: int, paths: int, steps: int) -> list[Case | Missing]:
    """A fixing every day. QuantLib simulates ``share`` paths a call: a million would take minutes."""
    import QuantLib as ql  # noqa: N813

    process, today = _process()
    fixings = [today + ql.Period(day, ql.Days) for day in range(1, steps + 1)]
    payoff, exercise = ql.PlainVanillaPayoff(ql.Option.Call, 100.0), ql.EuropeanExercise(fixings[-1])
    option = ql.DiscreteAveragingAsianOption(ql.Average.Arithmetic, 0.0, 0, fixings, payoff, exercise)

    def simulate() -> float:
        option.setPricingEngine(
            ql.MCPRDiscreteArithmeticAPEngine(process, controlVariate=True, requiredSamples=share, seed=42)
        )
        return float(option.NPV())

    simulate()
    error = float(option.errorEstimate()) * math.sqrt(share)  # of one path
    average = {**_AVERAGE, "maturity": steps / 365, "num_steps": steps}
    sobol = {"method": "quasi_random", "num_simulations": _SOBOL_POINTS}
    exact = _price(MONTE_CARLO_ASIAN, {**average, "method": "quasi_random", "num_simulations": 2**16}, 1)
    engine = "QuantLib MCDiscreteArithmeticAPEngine with control variate"
    common: dict[str, Any] = {
        "workload": _ASIAN,
        "peer": simulate,
        "difference": _relative,
        "agreement": 6.0 * error / math.sqrt(share) / exact,
    }
    return [
        Case(
            scale=f"{share:,} paths × {steps} steps",
            library=engine,
            params={**average, "num_simulations": share},
            **common,
        ),
        Case(
            scale=f"{_SOBOL_POINTS} Sobol points × {steps} steps",
            library=f"{engine}, {paths:,} paths",
            params={**average, **sobol},
            peer_calls=paths / share,
            note=f"root mean square error over {_SEEDS // 4} seeds: {_SOBOL_POINTS} Sobol points "
            f"{_accuracy(MONTE_CARLO_ASIAN, {**average, **sobol}, exact, _SEEDS // 4)}; "
            f"QuantLib's {paths:,} paths report {error / math.sqrt(paths):.3g}",
            **common,
        ),
    ]


def _process() -> tuple[Any, Any]:
    import QuantLib as ql  # noqa: N813

    today = ql.Date(2, 1, 2024)
    ql.Settings.instance().evaluationDate = today
    count = ql.Actual365Fixed()
    process = ql.BlackScholesProcess(
        ql.QuoteHandle(ql.SimpleQuote(100.0)),
        ql.YieldTermStructureHandle(ql.FlatForward(today, 0.05, count)),
        ql.BlackVolTermStructureHandle(ql.BlackConstantVol(today, ql.NullCalendar(), 0.2, count)),
    )
    return process, today


def _relative(outputs: Mapping[str, Any], price: float) -> float:
    return abs(float(outputs["price"]) - price) / price


def _price(workload: Workload, params: Mapping[str, Any], seed: int) -> float:
    task = bind(workload, {**params, "seed": seed}, {}, need_content=True)
    return float(execute_kernel(NumpyNamespace(), workload, task.params, {}).outputs["price"])


def _accuracy(workload: Workload, params: Mapping[str, Any], exact: float, seeds: int = _SEEDS) -> str:
    errors = [_price(workload, params, seed) - exact for seed in range(seeds)]
    return f"{math.sqrt(sum(error * error for error in errors) / seeds):.3g}"
