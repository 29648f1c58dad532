"""Option prices by one shader from random number to moments: ``options.monte_carlo_european`` and ``…_asian``.

What there is to gain, by counting: in the European kernel each operation of arrays reads its operands from memory and writes
its result. So a path moves 440 bytes for Philox (22 reads and writes of 8 bytes in each of 10 rounds, for the four paths of a
counter), 102 for Box and Muller and 72 for payoff and moments, in about 140 operations. A million paths are 614 MB, 1.6 ms at
the 396 GB/s that an M4 Max was measured to reach, and 140 dispatches of some 6 µs each, 0.8 ms. The shader writes three numbers
for each threadgroup, 6 kB in all, in one dispatch; its arithmetic takes 4–9 µs at 16 TFLOPS, so that what is left is the floor
of any first dispatch, 100–140 µs with MLX and 360–460 µs with torch. An Asian path moves the bytes of Philox and of Box and
Muller for each of its steps, and through the shader none. (Published figures or other people's measurements; this code was not
measured on a Mac.)

Paths, random numbers and units are those of the workloads; moments of a threadgroup are made in float32, those of all in
float64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from routerd.interfaces import HostArrays, Params
from routerd.workloads.options import estimate, parameters
from routerd.workloads.options.asian import PILOT_PATHS
from routerd.workloads.options.average import average_of
from routerd.workloads.options.estimate import Estimate, Moments
from routerd.workloads.options.european import path_terms, paths_for
from routerd.workloads.randomness import LANES, key_of
from routerd_metal.fused.interface import Fused
from routerd_metal.launching import SHADERS, Buffer, Launcher, Shader

if TYPE_CHECKING:
    import numpy as np

    Host = np.ndarray[Any, Any]

_FILE = SHADERS / "monte_carlo.metal"
_RANGE, _TERMS, _MOMENTS = Buffer("range", "uint32"), Buffer("terms", "float32"), Buffer("moments", "float32")
_STEPS = (Buffer("drift", "float32"), Buffer("loading", "float32"))

EUROPEAN_SHADER = Shader(_FILE, "monte_carlo_european", (_RANGE, _TERMS), (_MOMENTS,))
ASIAN_SHADER = Shader(_FILE, "monte_carlo_asian", (_RANGE, _TERMS, *_STEPS), (_MOMENTS,))
ASIAN_BELOW_SHADER = Shader(_FILE, "monte_carlo_asian_below", (_RANGE, _TERMS, *_STEPS), (_MOMENTS,))

# Threads of a threadgroup, as the shader has it.
_GROUP = 256
# More than a GPU runs at once; what is beyond is taken in turn by the same threads, which keeps the moments few.
_MOST_GROUPS = 512
# One launch is kept short enough that the display, which the GPU may serve too, does not wait for it.
_MOST_PATH_STEPS = 2**28


def _european(launcher: Launcher, params: Params, inputs: HostArrays) -> dict[str, Any] | None:
    del inputs  # the workload has none
    terms = path_terms(params)
    if params["method"] != "pseudo_random" or terms.deviation == 0.0:
        return None
    discount = parameters.discount(params)
    target = params.get("target_standard_error")
    goal = None if target is None else target / discount / terms.unit
    planned = 0.0 if target is None else paths_for(params, target / discount)
    given = {"terms": _floats(terms.drift, terms.deviation, terms.sign, terms.strike)}

    def simulate(first: int, count: int) -> Moments:
        return _simulate(launcher, EUROPEAN_SHADER, params["seed"], given, first, count, steps=1)

    found = estimate.mean_of_moments(params, simulate, target=goal, planned=planned)
    return _outputs(found, discount * terms.unit, 0.0)


def _asian(launcher: Launcher, params: Params, inputs: HostArrays) -> dict[str, Any] | None:
    del inputs  # the workload has none
    average = average_of(params)
    if params["method"] != "pseudo_random" or average.spread == 0.0:
        return None
    discount = parameters.discount(params) * average.unit
    target = params.get("target_standard_error")
    if params["control_variate"]:
        shader, known = ASIAN_BELOW_SHADER, average.known_part(params["option_type"])
        level = average.deviation / (average.steps * average.spread)
        scale = average.band / math.sqrt(2.0 * math.pi)
        terms = _floats(average.deviation, level, average.threshold, average.band, average.strike, scale)
    else:
        shader, known = ASIAN_SHADER, 0.0
        terms = _floats(average.deviation, 1.0 if params["option_type"] == "call" else -1.0, average.strike)
    given = {"terms": terms, "drift": _floats(*average.drift), "loading": _floats(*average.loading)}

    def simulate(first: int, count: int) -> Moments:
        return _simulate(launcher, shader, params["seed"], given, first, count, steps=average.steps)

    goal = None if target is None else target / discount
    return _outputs(estimate.mean_of_moments(params, simulate, target=goal, planned=PILOT_PATHS), discount, known)


def _simulate(
    launcher: Launcher, shader: Shader, seed: int, given: Mapping[str, Host], first: int, count: int, *, steps: int
) -> Moments:
    """Moments of the payoffs of paths ``first…first+count−1``."""
    import numpy as np

    moments = Moments()
    most = max(LANES, _MOST_PATH_STEPS // steps)
    for start in range(first, first + count, most):
        paths = min(most, first + count - start)
        counters = (start + paths - 1) // LANES - start // LANES + 1
        groups = min(_MOST_GROUPS, -(-counters // _GROUP))
        described = np.array([start, paths, *key_of(seed), steps], dtype=np.uint32)
        launched = launcher.launch(
            shader, {"range": described, **given}, {"moments": (groups, 3)}, threads=groups * _GROUP, group=_GROUP
        )
        moments += _together(launched["moments"].astype(np.float64), paths)
    return moments


def _together(parts: Host, count: int) -> Moments:
    """Moments of ``count`` values from number, mean and scatter of parts of them: (parts, 3)."""
    counts, means, scatters = parts.T
    mean = float(counts @ means) / count
    gaps = means - mean
    return Moments(count, mean, float(scatters.sum() + counts @ (gaps * gaps)))


def _outputs(found: Estimate, discount: float, known: float) -> dict[str, Any]:
    import numpy as np

    return {
        "price": np.asarray(discount * (known + found.mean)),
        "standard_error": np.asarray(discount * found.standard_error),
        "num_simulations": np.asarray(found.simulations, dtype=np.int64),
    }


def _floats(*values: float) -> Host:
    import numpy as np

    return np.array(values, dtype=np.float32)


EUROPEAN = Fused(flag="METAL_GPU_SHADERS", run=_european)
ASIAN = Fused(flag="METAL_GPU_SHADERS", run=_asian)
