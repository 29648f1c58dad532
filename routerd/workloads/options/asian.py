"""The Asian option on an arithmetic average, by simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Arrays, Dims, Example, Namespace, Parameter, Params, Workload
from routerd.workloads.low_discrepancy import sobol_words
from routerd.workloads.normal_quantile import normals_of_words
from routerd.workloads.options import estimate, parameters, paths
from routerd.workloads.options.average import Average, average_of, predicted_deviation
from routerd.workloads.options.estimate import Estimate
from routerd.workloads.options.lognormal import density
from routerd.workloads.options.parameters import MOST_SIMULATIONS
from routerd.workloads.options.paths import TILE, Tile, skeleton
from routerd.workloads.randomness import LANES, SEED, random_words, step_normals

if TYPE_CHECKING:
    import numpy as np

_REPLICATES = 16
#: A target is first judged after so many paths, or points of each replicate.
PILOT_PATHS, _PILOT_POINTS = 4096, 64


def _monte_carlo_asian(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    average = average_of(params)
    discount = parameters.discount(params) * average.unit
    target = params.get("target_standard_error")
    if target is not None:
        target /= discount
    known = average.known_part(params["option_type"]) if params["control_variate"] and average.spread > 0.0 else 0.0
    if average.spread == 0.0:
        payoff = average.certain_payoff(params["option_type"])
        found = Estimate(payoff, 0.0, params.get("num_simulations", 1))
    elif params["method"] == "pseudo_random":
        found = _pseudo_random(namespace, params, average, target)
    else:
        found = _quasi_random(namespace, params, average, target, _rounding(namespace, params, average, known))
    return estimate.outputs(namespace, found._replace(mean=known + found.mean), discount)


def _pseudo_random(namespace: Namespace, params: Params, average: Average, target: float | None) -> Estimate:
    """Mean payoff and its standard error over independent paths, which depend on neither block nor device."""
    tiles = paths.walk_tiles(namespace, average)
    seed = params["seed"]

    def payoffs(start: int, stop: int) -> Any:
        sources = paths.walk(namespace, tiles, average.deviation, seed, start, stop)
        if not params["control_variate"]:
            return _payoffs(namespace, params, average, tiles, sources)
        # Half the square of a normal vector's length in the plane is exponentially distributed.
        pair = step_normals(namespace, seed, start, stop, range(average.steps, average.steps + 2))
        depth = 0.5 * namespace.xp.sum(pair * pair, axis=0)
        return _unknown_payoffs(namespace, average, tiles, list(sources), depth)

    return estimate.mean_of_paths(
        namespace, params, payoffs, _width(namespace, average) // LANES, target=target, planned=PILOT_PATHS
    )


def _quasi_random(
    namespace: Namespace, params: Params, average: Average, target: float | None, rounding: float
) -> Estimate:
    """Mean payoff and its standard error over digitally shifted Sobol points.

    Independent shifts give unbiased replicates, whose scatter gives the standard error; it is never reported below
    ``rounding``. Points are nested, so a target that is missed only adds as many points as there are.

    Source: Sobol points by Joe, Kuo (2008); digital shifts: L'Ecuyer, Lemieux (2002), Recent Advances in Randomized
    Quasi-Monte Carlo Methods.
    """
    tiles = paths.bridge_tiles(namespace, average)
    step = _width(namespace, average) // _REPLICATES
    points = -(-params["num_simulations"] // _REPLICATES) if target is None else _PILOT_POINTS
    sums, done = [0.0] * _REPLICATES, 0
    while True:
        for start in range(done, points, step):
            values = _points(namespace, params, average, tiles, start, min(start + step, points))
            block = estimate.row_sums(namespace, values)
            sums = [total + part for total, part in zip(sums, block, strict=True)]
        done = points
        mean, error = estimate.mean_of_replicates([total / points for total in sums])
        if target is None or max(error, rounding) <= target or error <= rounding:
            break
        if 2 * _REPLICATES * points > MOST_SIMULATIONS:
            break
        points *= 2
    return Estimate(mean, max(error, rounding), _REPLICATES * points)


def _points(namespace: Namespace, params: Params, average: Average, tiles: list[Tile], start: int, stop: int) -> Any:
    """Values of points ``start…stop−1`` of each replicate: (replicates, stop−start).

    A path is point i of replicate r and has the number 16·i + r, whose counter and lane its pseudo-random numbers have.
    """
    xp = namespace.xp
    bones = skeleton(average.steps)
    size, count = bones.factor.shape[0], stop - start
    control = params["control_variate"]
    words = _shifted_words(namespace, params["seed"], size + 1 if control else size, start, stop)
    # With the level sampled apart, the number that would move it most has little left to do, and goes last.
    order = [size, *range(1, size)] if control else list(range(size))
    tall = max(1, namespace.block // (_REPLICATES * count))
    deviates = xp.concat(
        [
            normals_of_words(namespace, xp.stack([words[row] for row in order[top : top + tall]]))
            for top in range(0, size, tall)
        ]
    )
    motion = xp.matmul(namespace.asarray(bones.factor * average.deviation), deviates)
    counters = (start * _REPLICATES // LANES, stop * _REPLICATES // LANES)
    sources = paths.bridge(namespace, tiles, params["seed"], counters, motion, bones.stride)
    if control:
        uniform = namespace.asarray(words[0])
        uniform += 0.5
        uniform *= 2.0**-32
        values = _unknown_payoffs(namespace, average, tiles, list(sources), -xp.log(uniform))
    else:
        values = _payoffs(namespace, params, average, tiles, sources)
    lanes = xp.permute_dims(xp.reshape(values, (LANES, count, _REPLICATES // LANES)), (0, 2, 1))
    return xp.reshape(lanes, (_REPLICATES, count))


def _shifted_words(namespace: Namespace, seed: int, dimensions: int, start: int, stop: int) -> Any:
    """Sobol points of each replicate in the order of counters and lanes: (dimensions, paths)."""
    import numpy as np

    xp = namespace.xp
    words = sobol_words(namespace, dimensions, start, stop)
    # One list serves any number of dimensions, as its beginning.
    shifts = np.array(random_words(seed, dimensions * _REPLICATES), dtype=np.int64)
    shifts = shifts.reshape(dimensions, 1, _REPLICATES // LANES, LANES).transpose(0, 3, 1, 2)
    shifted = words[:, None, :, None] ^ namespace.from_host(np.ascontiguousarray(shifts))
    return xp.reshape(shifted, (dimensions, (stop - start) * _REPLICATES))


def _payoffs(namespace: Namespace, params: Params, average: Average, tiles: list[Tile], sources: Iterator[Any]) -> Any:
    """The payoff of each path (P,), in units."""
    xp = namespace.xp
    totals = [
        xp.sum(xp.exp(xp.matmul(tile.asset, source)), axis=0) for tile, source in zip(tiles, sources, strict=True)
    ]
    gain = _sum(totals) / average.steps
    gain -= average.strike
    if params["option_type"] == "put":
        gain *= -1.0
    return xp.maximum(gain, namespace.zeros(()))


def _unknown_payoffs(namespace: Namespace, average: Average, tiles: list[Tile], sources: list[Any], depth: Any) -> Any:
    """For each path (P,), in units: what is paid although the geometric average is below the strike, over its chance.

    The level of the path is replaced by one that lies ``depth`` bands below the threshold, and the value weighted with how
    much likelier the normal distribution has it than the exponential one that ``depth`` comes from. For the other
    directions of a path are independent of its level. What is sampled so is the narrow band where the payoff is.
    """
    xp = namespace.xp
    level = average.threshold - average.band * depth
    change = level - _sum([xp.matmul(tile.level, source)[0, :] for tile, source in zip(tiles, sources, strict=True)])
    # Asset and weight share one exponent, so neither a huge asset nor a vanishing weight stands alone.
    weight = depth - 0.5 * level * level
    tilt = xp.stack((change, weight))
    totals = [
        xp.sum(xp.exp(xp.matmul(tile.tilted, xp.concat((source, tilt)))), axis=0)
        for tile, source in zip(tiles, sources, strict=True)
    ]
    gain = _sum(totals) / average.steps
    gain -= average.strike * xp.exp(weight)
    gain *= average.band / math.sqrt(2.0 * math.pi)
    return xp.maximum(gain, namespace.zeros(()))


def _sum(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _width(namespace: Namespace, average: Average) -> int:
    """Paths that are simulated at once: a tile of them fills a block, all their steps some of them."""
    fitting = min(namespace.block // TILE, TILE * namespace.block // average.steps)
    return max(4, fitting // _REPLICATES) * _REPLICATES


def _rounding(namespace: Namespace, params: Params, average: Average, known: float) -> float:
    """What rounding may do to the mean, in units."""
    eps = float(namespace.xp.finfo(namespace.real).eps)
    if not params["control_variate"]:
        return 4.0 * eps * max(average.certain_payoff(params["option_type"]), average.spread * average.strike)
    # The unknown payoff is a difference of numbers near the strike, and in the band alone; the known one has float64.
    return 2.0 * eps * average.strike * density(average.threshold) * average.band + 2.0**-50 * known


def _path_steps(params: Params, dims: Dims) -> float:
    """A path costs as much as four more steps; a quasi-random step costs an inverse normal in place of a quarter of Philox."""
    target = params.get("target_standard_error")
    quasi = params["method"] == "quasi_random"
    if target is None:
        count = params["num_simulations"]
    else:
        excess = predicted_deviation(params) / target
        count = _points_for(excess, params["control_variate"]) if quasi else max(PILOT_PATHS, excess * excess)
    return float(min(count, MOST_SIMULATIONS) * (params["num_steps"] + 4) * (1.5 if quasi else 1.0))


def _points_for(excess: float, control: bool) -> float:
    """Points that it takes where one path's standard deviation is ``excess`` times the standard error that is wanted.

    A power of two, from how the standard error was seen to fall with the number of points.
    """
    gained = 0.25 if control else 0.5
    least = float(_PILOT_POINTS * _REPLICATES)
    count = (excess * _PILOT_POINTS**gained) ** (1.0 / (0.5 + gained))
    return math.ldexp(1.0, math.ceil(math.log2(max(least, count))))


def _example(work: float, rng: np.random.Generator) -> Example:
    steps = int(rng.choice((12, 52, 252)))
    while work < 64 * steps:
        steps //= 2
    count = max(2, round(work / (steps + 4)))
    return Example({**parameters.usual_contract(rng), "num_steps": steps, "num_simulations": count}, {})


MONTE_CARLO_ASIAN = Workload(
    name="options.monte_carlo_asian",
    summary="Asian option on the arithmetic average by Monte Carlo: e^(−rT)·E[max(±(mean of S − K), 0)] under geometric "
    "Brownian motion.",
    source="Kemna, Vorst (1990), A Pricing Method for Options Based on Average Asset Values, Journal of Banking & Finance 14; "
    "Curran (1994), Management Science 40(12); Glasserman (2003), Monte Carlo Methods in Financial Engineering",
    engines=("Risk",),
    parameters=(
        *parameters.CONTRACT,
        Parameter(
            name="num_steps",
            type="int",
            default=252,
            minimum=1,
            maximum=10_000,
            doc="number of equally spaced times that are averaged over, the last at maturity, none today",
        ),
        parameters.num_simulations("Sobol points (rounded up to a multiple of 16; powers of two are best)"),
        parameters.TARGET,
        parameters.method("digitally shifted Sobol points"),
        Parameter(
            name="control_variate",
            type="bool",
            default=True,
            doc="compute in closed form what the geometric average tells of the payoff, and simulate the rest alone",
        ),
        SEED,
        parameters.FIRST_SIMULATION,
    ),
    inputs=(),
    outputs=parameters.OUTPUTS,
    kernel=_monte_carlo_asian,
    work=_path_steps,
    work_unit="path-steps (four more for each path; a quasi-random one counts one and a half)",
    example=_example,
    work_range=(1e3, 1e7),
    tolerance=1e-5,
    variants=({}, {"method": "quasi_random"}, {"control_variate": False}),
    check_task=parameters.check_simulation,
    split=estimate.split_paths,
    merge=estimate.merge_paths,
)
