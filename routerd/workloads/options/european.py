"""The European option by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.interfaces import Arrays, Dims, Example, Namespace, Params, Workload
from routerd.workloads.options import estimate, parameters
from routerd.workloads.options.estimate import Estimate
from routerd.workloads.options.lognormal import density, distribution, payoff_variance
from routerd.workloads.options.parameters import MOST_SIMULATIONS
from routerd.workloads.randomness import SEED, normals, shifts

if TYPE_CHECKING:
    import numpy as np

_REPLICATES = 8
# Beyond eight standard deviations of what is integrated lies 1e-15 of it.
_REACH = 8.0
# With fewer points a lattice is too coarse for the normal density itself.
_FEWEST_POINTS = 32
# A grid of so many points takes longer to make than to use.
_KEPT_POINTS = 4096


def _monte_carlo_european(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    discount = parameters.discount(params)
    target = params.get("target_standard_error")
    if target is not None:
        target /= discount
    drift, deviation = _log_growth(params)
    if deviation == 0.0:
        gain = params["spot_price"] * math.exp(drift) - params["strike_price"]
        payoff = max(gain if params["option_type"] == "call" else -gain, 0.0)
        found = Estimate(payoff, 0.0, params.get("num_simulations", 1))
    elif params["method"] == "pseudo_random":
        found = _pseudo_random(namespace, params, target)
    else:
        found = _quasi_random(namespace, params, target)
    return estimate.outputs(namespace, found, discount)


class PathTerms(NamedTuple):
    """A path's payoff, of its normal number z: max(sign·exp(drift + deviation·z) − strike, 0), in units of so much currency.

    No forward and no strike exceeds a unit, so whatever the terms are, no path is beyond float32. The strike has the sign, too.
    """

    unit: float
    drift: float
    deviation: float
    sign: float
    strike: float


def path_terms(params: Params) -> PathTerms:
    """How the paths of an option are paid."""
    forward = _forward(params)
    unit = max(forward, params["strike_price"])
    _, deviation = _log_growth(params)
    sign = 1.0 if params["option_type"] == "call" else -1.0
    drift = math.log(forward / unit) - 0.5 * deviation * deviation
    return PathTerms(unit, drift, deviation, sign, sign * params["strike_price"] / unit)


def _pseudo_random(namespace: Namespace, params: Params, target: float | None) -> Estimate:
    """Mean payoff and its standard error over independent paths."""
    xp = namespace.xp
    terms = path_terms(params)
    zero = namespace.zeros(())

    def payoffs(start: int, stop: int) -> Any:
        growth = normals(namespace, params["seed"], start, stop)
        growth *= terms.deviation
        growth += terms.drift
        gain = xp.exp(growth)
        gain *= terms.sign
        gain -= terms.strike
        return xp.maximum(gain, zero)

    planned = 0.0 if target is None else paths_for(params, target)
    step = max(1, namespace.block // 4)
    goal = None if target is None else target / terms.unit
    found = estimate.mean_of_paths(namespace, params, payoffs, step, target=goal, planned=planned)
    return Estimate(terms.unit * found.mean, terms.unit * found.standard_error, found.simulations)


def _quasi_random(namespace: Namespace, params: Params, target: float | None) -> Estimate:
    """Mean payoff and its standard error from randomly shifted one-dimensional lattices.

    Independent shifts give unbiased replicates, and their scatter gives the standard error, which is never reported below
    the rounding of the namespace. A target is first judged with as many points as the kink's known error asks for, and
    as long as it is missed the points are doubled.

    Source: Sloan, Joe (1994), Lattice Methods for Multiple Integration; Cranley, Patterson (1976), SIAM J. Numer. Anal. 13.
    """
    form = _bounded_form(params)
    # Wherever the option is exercised, the integrand carries the rounding of 1.
    rounding = 2.0 * float(namespace.xp.finfo(namespace.real).eps) * form.scale * distribution(form.kink)
    if target is None:
        replicates = max(2, min(_REPLICATES, params["num_simulations"] // 4))
        points = -(-params["num_simulations"] // replicates)
    else:
        replicates, points = _REPLICATES, _points_for(form, max(target, rounding))
    while True:
        mean, error = estimate.mean_of_replicates(_lattice_means(namespace, form, params["seed"], replicates, points))
        mean, error = form.scale * mean, form.scale * error
        if target is None or max(error, rounding) <= target or error <= rounding:
            break
        if 2 * replicates * points > MOST_SIMULATIONS:
            break
        points *= 2
    return Estimate(mean, max(error, rounding), replicates * points)


def _lattice_means(namespace: Namespace, form: _BoundedForm, seed: int, replicates: int, points: int) -> list[float]:
    """The mean payoff by each of the shifted lattices, in units of ``form.scale``.

    The lattice lies evenly over the interval of normal deviates that matters, and the payoff carries the normal density
    as its weight. So weighted, the integrand is bounded by the density, and it and its derivatives vanish at both ends: it
    is periodic, which is what a lattice needs to converge fast. The kink's error, O(n⁻²), is all that is left. (The inverse
    normal would put the payoff's unbounded derivatives at the ends, for an error of O(n⁻¹).)
    """
    xp = namespace.xp
    zero = namespace.zeros(())
    step = max(1, namespace.block // replicates)
    grid = _kept_grid if replicates * points <= _KEPT_POINTS else _grid
    sums: list[float] = []
    for start in range(0, points, step):
        deviate, weight = grid(namespace, seed, replicates, points, start, min(start + step, points))
        growth = deviate * form.deviation
        growth += form.level
        loss = xp.expm1(xp.minimum(growth, zero))
        loss *= weight
        block = estimate.row_sums(namespace, loss)
        sums = [total + part for total, part in zip(sums, block, strict=True)] if sums else block
    return sums


def _grid(namespace: Namespace, seed: int, replicates: int, points: int, start: int, stop: int) -> tuple[Any, Any]:
    """Points ``start…stop−1`` of each shifted lattice over ±8, and their negated weights: (replicates, stop−start) both."""
    xp = namespace.xp
    spacing = 2.0 * _REACH / points
    origins = namespace.asarray([[spacing * (shift + start) - _REACH] for shift in shifts(seed, replicates)])
    deviate = namespace.asarray(namespace.arange(0, stop - start)) * spacing + origins
    weight = xp.exp(deviate * deviate * -0.5)
    weight *= -spacing / math.sqrt(2.0 * math.pi)
    return deviate, weight


# The grid depends on no term of the contract, so options priced with the same number of points share it.
_kept_grid: Callable[..., tuple[Any, Any]] = lru_cache(maxsize=16)(_grid)


def _log_growth(params: Params) -> tuple[float, float]:
    """Mean and standard deviation of log(S_T/S_0) under geometric Brownian motion."""
    volatility, maturity = params["volatility"], params["maturity"]
    return (params["rate"] - 0.5 * volatility * volatility) * maturity, volatility * math.sqrt(maturity)


class _BoundedForm(NamedTuple):
    """The expected payoff as scale·E[max(1 − exp(level + deviation·Z), 0)] of a standard normal Z; 1 is paid at most."""

    scale: float
    level: float
    deviation: float

    @property
    def kink(self) -> float:
        """The deviate below which the option is exercised."""
        return -self.level / self.deviation


def _bounded_form(params: Params) -> _BoundedForm:
    """A put has this form as it stands, with the strike as scale; a call has it in units of the asset, by symmetry.

    Source: Carr, Bowie (1994), Static Simplicity, Risk 7(8).
    """
    forward, strike = _forward(params), params["strike_price"]
    if params["option_type"] == "put":
        forward, strike = strike, forward
    _, deviation = _log_growth(params)
    return _BoundedForm(forward, math.log(strike / forward) - 0.5 * deviation * deviation, deviation)


def _forward(params: Params) -> float:
    return float(params["spot_price"] * math.exp(params["rate"] * params["maturity"]))


def paths_for(params: Params, target: float) -> float:
    """Paths whose mean has about the standard error ``target``, from the closed form of the payoff's variance."""
    _, deviation = _log_growth(params)
    variance = payoff_variance(_forward(params), params["strike_price"], deviation, params["option_type"])
    return min(max(float(estimate.STEP), variance / target / target), MOST_SIMULATIONS)


def _points_for(form: _BoundedForm, target: float) -> int:
    """Points of each of the lattices, a power of two, whose standard error is about ``target``.

    A lattice of spacing h errs by the jump of the integrand's slope at the kink times h²·B₂(θ)/2, where θ is uniform: by
    the jump times h²/√720 in the mean square.
    """
    jump = form.scale * form.deviation * density(form.kink)
    points = 2.0 * _REACH * math.sqrt(jump / (target * math.sqrt(720.0 * _REPLICATES)))
    return 1 << math.ceil(math.log2(min(max(points, _FEWEST_POINTS), MOST_SIMULATIONS / (2.0 * _REPLICATES))))


def _paths(params: Params, dims: Dims) -> float:
    """A lattice point needs no random numbers, which are three quarters of the cost of a path."""
    target = params.get("target_standard_error")
    if target is not None:
        target /= parameters.discount(params)
        if _log_growth(params)[1] == 0.0:
            return 1.0
        if params["method"] == "pseudo_random":
            return paths_for(params, target)
        return 0.25 * _REPLICATES * _points_for(_bounded_form(params), target)
    return float(params["num_simulations"]) * (1.0 if params["method"] == "pseudo_random" else 0.25)


def _example(work: float, rng: np.random.Generator) -> Example:
    return Example({**parameters.usual_contract(rng), "num_simulations": max(2, round(work))}, {})


MONTE_CARLO_EUROPEAN = Workload(
    name="options.monte_carlo_european",
    summary="European option by Monte Carlo: e^(−rT)·E[max(±(S_T − K), 0)] under geometric Brownian motion.",
    source="Glasserman (2003), Monte Carlo Methods in Financial Engineering; Philox4x32-10 by Salmon et al. (2011), SC'11",
    engines=("Risk",),
    parameters=(
        *parameters.CONTRACT,
        parameters.num_simulations("lattice points (rounded up to whole replicates)"),
        parameters.TARGET,
        parameters.method("randomly shifted lattices"),
        SEED,
        parameters.FIRST_SIMULATION,
    ),
    inputs=(),
    outputs=parameters.OUTPUTS,
    kernel=_monte_carlo_european,
    work=_paths,
    work_unit="paths (a lattice point counts a quarter)",
    example=_example,
    work_range=(1e3, 1e7),
    tolerance=1e-5,
    variants=({}, {"method": "quasi_random"}),
    check_task=parameters.check_simulation,
    split=estimate.split_paths,
    merge=estimate.merge_paths,
)
