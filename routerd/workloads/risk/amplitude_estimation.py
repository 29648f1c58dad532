"""Value at risk by bisection over thresholds, as on a quantum computer: with Sobol points, or with its algorithms simulated."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeAlias

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.low_discrepancy import sobol
from routerd.workloads.randomness import SEED, key_of, philox4x32, random_words
from routerd.workloads.risk.amplitude import Estimate, iterative, maximum_likelihood
from routerd.workloads.risk.tail import CONFIDENCE

if TYPE_CHECKING:
    import numpy as np

_MOST_QUBITS = 20
_MEASUREMENTS = 2  # a stream of random words beside those of paths and shifts
_WORDS_PER_COUNTER = 4
_LEAST_SHOTS = 10  # of a circuit of mlae: from fewer, too many angles remain likely to look at them all
_NARROWEST = 1e-8  # half an interval that counts as of no width: the draws' resolution is not much finer

#: An estimate of the probability of a loss of at most a threshold's, by the threshold's index.
Estimator: TypeAlias = Callable[[int], Estimate]


def _var_amplitude_estimation(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Three bisections share their estimates: for the VaR, and for both ends of what the estimates leave possible.

    An estimate's upper end below the confidence says that the VaR lies above the threshold, its lower end at the
    confidence that it does not. Only what the running sum of the probabilities gives is computed on the device, in
    float64: a decision that falls otherwise would change every draw after it.
    """
    import numpy as np

    distribution = namespace.xp.cumulative_sum(arrays["probabilities"])
    bins = distribution.shape[0]
    estimate = (_sobol if params["method"] == "sobol" else _simulated)(namespace, params, distribution)
    estimates: dict[int, Estimate] = {}

    def estimated(threshold: int) -> Estimate:
        if threshold not in estimates:
            estimates[threshold] = estimate(threshold)
        return estimates[threshold]

    confidence = params["confidence"]
    found = {
        "value_at_risk": _first(bins, lambda threshold: estimated(threshold).value >= confidence),
        "interval_low": _first(bins, lambda threshold: estimated(threshold).high >= confidence),
        "interval_high": _first(bins, lambda threshold: estimated(threshold).low >= confidence),
    }
    spacing = (params["highest_loss"] - params["lowest_loss"]) / (bins - 1)
    nearest = min(estimates.values(), key=lambda one: abs(one.value - confidence))
    queries = [one.queries for one in estimates.values()]
    integers = {
        # All thresholds look at the same Sobol points; a measurement answers for one threshold only.
        "oracle_queries": max(queries) if params["method"] == "sobol" else sum(queries),
        "equivalent_samples": _equivalent_samples(params, 0.5 * (nearest.high - nearest.low)),
    }
    return {
        **{name: namespace.asarray(params["lowest_loss"] + index * spacing) for name, index in found.items()},
        **{name: namespace.from_host(np.asarray(count)) for name, count in integers.items()},
        "simulated": namespace.from_host(np.asarray(params["method"] != "sobol")),
    }


def _first(bins: int, holds: Callable[[int], bool]) -> int:
    """The first bin for which a monotone condition holds, by bisection; for the last one it always does."""
    low, high = 0, bins - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _sobol(namespace: Namespace, params: Params, distribution: Any) -> Estimator:
    """The share of N randomly shifted Sobol points at or below the distribution function.

    A point below it is a loss below the threshold by inversion. Every interval [j/N, (j+1)/N) holds one point, so the
    share is never more than 1/N wrong: N samples do what takes N² independent ones.
    """
    xp = namespace.xp
    size = 2 ** math.ceil(math.log2(1.0 / params["epsilon"]))
    points = sobol(namespace, 1, 0, size, random_words(params["seed"], 1))

    def estimate(threshold: int) -> Estimate:
        share = int(xp.sum(xp.astype(points <= distribution[threshold], namespace.integer))) / size
        return Estimate(share, max(0.0, share - 1.0 / size), min(1.0, share + 1.0 / size), size)

    return estimate


def _simulated(namespace: Namespace, params: Params, distribution: Any) -> Estimator:
    """IQAE or MLAE on measurements drawn from their exact law, for an amplitude that the pmf was summed up for.

    The thresholds' failure probabilities add up to alpha. A draw depends on the seed, the threshold and how many
    measurements the threshold had before, so on nothing that other thresholds did.
    """
    import numpy as np

    amplitudes = np.asarray(namespace.to_host(distribution))
    algorithm = iterative if params["method"] == "iqae" else maximum_likelihood
    shots, alpha = params["shots"], params["alpha"] / _thresholds(amplitudes.size)

    def estimate(threshold: int) -> Estimate:
        angle = math.asin(math.sqrt(min(1.0, float(amplitudes[threshold]))))
        drawn = 0

        def measure(power: int, shots: int) -> int:
            nonlocal drawn
            chance = math.sin((2 * power + 1) * angle) ** 2
            drawn += 1
            return _binomial(params["seed"], threshold, drawn, shots, chance)

        return algorithm(measure, params["epsilon"], alpha, shots)

    return estimate


def _binomial(seed: int, threshold: int, draw: int, trials: int, chance: float) -> int:
    import numpy as np

    counter = np.arange(-(-trials // _WORDS_PER_COUNTER), dtype=np.int64)
    blank = np.zeros_like(counter)
    words = philox4x32((counter, blank + threshold, blank + _MEASUREMENTS, blank + draw), key_of(seed))
    return int(((np.concatenate(words)[:trials] + 0.5) * 2.0**-32 < chance).sum())


def _thresholds(bins: int) -> int:
    """How many thresholds three bisections look at, at most."""
    return 3 * (bins - 1).bit_length()


def _equivalent_samples(params: Params, half_width: float) -> int:
    """Independent losses whose share at or below the VaR has a normal confidence interval of this half-width."""
    confidence = float(params["confidence"])
    ratio = NormalDist().inv_cdf(1.0 - 0.5 * params["alpha"]) / max(half_width, _NARROWEST)
    return math.ceil(ratio * ratio * confidence * (1.0 - confidence))


def _check_task(params: Params, dims: Dims) -> None:
    bins = dims["M"]
    if bins < 2 or bins & (bins - 1) or bins > 2**_MOST_QUBITS:
        raise InvalidArray(
            f"risk.var_amplitude_estimation: probabilities has {bins} bins; the register of a loss has a power of two, "
            f"2 to 2^{_MOST_QUBITS}: pad with bins of probability 0",
            array="probabilities",
        )
    if not params["lowest_loss"] < params["highest_loss"]:
        raise InvalidParameter(
            f"risk.var_amplitude_estimation: lowest_loss {params['lowest_loss']:g} must be less than "
            f"highest_loss {params['highest_loss']:g}",
            parameter="lowest_loss",
        )
    if params["method"] == "mlae" and params["shots"] < _LEAST_SHOTS:
        raise InvalidParameter(
            f"risk.var_amplitude_estimation: the method mlae needs shots >= {_LEAST_SHOTS}, got {params['shots']}; its "
            f"likelihood would exclude too few amplitudes",
            parameter="shots",
        )


def _check(params: Params, arrays: HostArrays) -> None:
    import numpy as np

    total = float(np.sum(arrays["probabilities"]))
    if abs(total - 1.0) > 1e-9:
        raise InvalidArray(
            f"risk.var_amplitude_estimation: probabilities must sum to 1 within 1e-9, they sum to {total:.12g}; "
            f"divide by the sum",
            array="probabilities",
        )


def _bins_and_points(params: Params, dims: Dims) -> float:
    """Sobol points are compared with every threshold of a bisection; a simulated measurement costs like dozens of them."""
    bits = math.log2(dims["M"])
    if params["method"] == "sobol":
        return float(dims["M"] + bits / params["epsilon"])
    rounds = math.log2(4.0 / params["epsilon"])
    return float(dims["M"] + 2.0 * bits * rounds * (30.0 * params["shots"] + 5e4))


def _example(work: float, rng: np.random.Generator) -> Example:
    """Losses of a credit book: mostly small, with a long tail."""
    import numpy as np

    bits = max(3, min(_MOST_QUBITS, math.floor(math.log2(0.5 * work))))
    points = 2 ** max(2, min(19, round(math.log2(max(4.0, (work - 2**bits) / bits)))))
    losses = (np.arange(2**bits) + 0.5) / 2**bits
    weights = losses ** rng.uniform(1.0, 3.0) * np.exp(-losses * rng.uniform(10.0, 25.0))
    return Example(
        {"lowest_loss": 0.0, "highest_loss": 1e6, "epsilon": 1.0 / points, "seed": int(rng.integers(2**32))},
        {"probabilities": weights / weights.sum()},
    )


def _loss(name: str, doc: str) -> Array:
    return Array(name=name, shape=(), unit="currency", doc=doc)


def _end(name: str, doc: str) -> Parameter:
    return Parameter(name=name, type="float", unit="currency", minimum=-1e15, maximum=1e15, doc=doc)


VAR_AMPLITUDE_ESTIMATION = Workload(
    name="risk.var_amplitude_estimation",
    summary="Value at risk of a discrete loss distribution by bisection: Sobol points, or quantum algorithms simulated.",
    source="Woerner, Egger (2019), Quantum Risk Analysis, npj Quantum Information 5; IQAE: Grinko et al. (2021), ibid. 7; "
    "MLAE: Suzuki et al. (2020), Quantum Information Processing 19",
    engines=("Risk",),
    parameters=(
        _end("lowest_loss", "loss of the first bin; the bins' losses are equally spaced"),
        _end("highest_loss", "loss of the last bin"),
        CONFIDENCE,
        Parameter(
            name="method",
            type="str",
            default="sobol",
            choices=("sobol", "iqae", "mlae"),
            doc="Sobol points, whose error bound needs no luck; or iterative or maximum-likelihood amplitude estimation, "
            "simulated: no faster on a classical machine, which must know an amplitude before it can draw measurements of it",
        ),
        Parameter(
            name="epsilon",
            type="float",
            default=1e-3,
            minimum=1e-6,
            maximum=0.25,
            doc="half-width of the interval of each probability; 1/epsilon counts oracle queries, not time",
        ),
        Parameter(
            name="alpha",
            type="float",
            default=0.05,
            minimum=1e-9,
            maximum=0.5,
            doc="probability that the interval of a simulated method may miss the VaR (mlae: asymptotically)",
        ),
        Parameter(
            name="shots",
            type="int",
            default=100,
            minimum=1,
            maximum=1_000_000,
            doc=f"simulated measurements of each circuit; mlae needs {_LEAST_SHOTS}",
        ),
        SEED,
    ),
    inputs=(
        Array(
            name="probabilities",
            shape=("M",),
            unit="1",
            minimum=0.0,
            accepts=("float64",),
            doc="probability of each bin; M is a power of two up to 2^20, and they sum to 1",
        ),
    ),
    outputs=(
        _loss(
            "value_at_risk",
            "the least loss whose probability of not being exceeded is estimated at the confidence or more",
        ),
        _loss("interval_low", "the least loss that the estimates' intervals leave possible as the VaR"),
        _loss("interval_high", "the greatest such loss"),
        Array(
            name="oracle_queries",
            shape=(),
            dtype="int64",
            unit="1",
            doc="samples of the loss (sobol), or applications of the operator that loads the distribution: 2k+1 a shot "
            "after k Grover iterations",
        ),
        Array(
            name="equivalent_samples",
            shape=(),
            dtype="int64",
            unit="1",
            doc="independent samples that give the probability nearest to the confidence an interval as wide, at alpha",
        ),
        Array(
            name="simulated",
            shape=(),
            dtype="bool",
            unit="1",
            doc="whether the queries are those of a quantum computer that was only simulated",
        ),
    ),
    kernel=_var_amplitude_estimation,
    work=_bins_and_points,
    work_unit="bins and sampled points",
    example=_example,
    work_range=(1e2, 1e7),
    tolerance=1e-9,
    variants=({}, {"method": "iqae"}, {"method": "mlae"}),
    needs=frozenset({"float64"}),
    check_task=_check_task,
    check=_check,
)
