"""``risk.var_historical`` in one dispatch: every scenario's loss, and how the losses are distributed.

The shader (``shaders/scenarios.metal``) reads the returns once, 4·T·N bytes, and gives 8 bytes for a scenario: its
loss, and the sum of its terms without their signs, which bounds what rounding did to the loss. Beside them it counts
the losses in a histogram over the leading bits of their order, the first step of a radix selection. So the host sorts
nothing but a few scenarios: the histogram names the bin of the VaR, and only the losses of that bin and beyond are
ordered.

The VaR is the loss of *one* scenario, and a rounded loss cannot say of which. Whatever scenario's loss could be the VaR
within its bound (one or two of them, where losses are not equal) gets its loss again on the host, in float64 from the
inputs as they were given, and among those the choice is the contract's: the earliest of equals. VaR and components are
exact that way; losses, and through them the expected shortfall, have the precision of float32.

What there is to gain, by counting: ten million float32 returns are 40 MB, 0.1 ms at the 396 GB/s that an M4 Max was
measured to reach, behind a dispatch of at least 0.1 ms with MLX and 0.36 ms with torch, and copied to the device
before, which at 50 GB/s would take 0.8 ms. Returns in float64 are rounded on the host first, 120 MB of traffic, where
the processor's own product reads 80. So there is a gain where returns come as float32, which the contract has to widen,
or where the processor is busy. A million float64 returns are 8 MB, 0.1 ms at 80 GB/s: below that the dispatch alone
takes longer than the task. (Published figures, other people's measurements and assumed bandwidths of the host; this
code was not measured on a Mac.) The router measures it and decides.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.errors import ExecutionError
from routerd.interfaces import HostArrays, Params
from routerd.workloads.risk.tail import quantile_rank
from routerd_metal.fused.interface import Fused
from routerd_metal.launching import SHADERS, Buffer, Launcher, Shader

if TYPE_CHECKING:
    import numpy as np

    Host = np.ndarray[Any, Any]

SHADER = Shader(
    SHADERS / "scenarios.metal",
    "scenario_losses",
    (Buffer("returns", "float32"), Buffer("weights", "float32"), Buffer("sizes", "uint32")),
    (Buffer("losses", "float32"), Buffer("magnitudes", "float32"), Buffer("histogram", "uint32")),
    zeroed=True,
)

# As the shader has them.
_LANES = 32
_HISTOGRAM_BITS = 12

_GROUP = 256
# A grid counts its threads, and a lane its assets, in 32 bits.
_MOST_SCENARIOS = 2**32 // _LANES - 1
_MOST_ASSETS = 2**31
# Two inputs and the sum are rounded by half of float32's last place each; the fourth is for the magnitudes' roundings.
_ROUNDINGS = 4.0 * 2.0**-24
# What is smaller may be taken for zero by a GPU.
_SMALLEST = 2.0**-126
# Elements of the host's temporaries.
_BLOCK = 2**18


class _Losses(NamedTuple):
    """Losses per notional (T,), and how far each may be from the exact one: both float64."""

    rounded: Host
    bounds: Host


class _Boundary(NamedTuple):
    """Scenarios by number, ascending. All that may be in the tail, and of those the ones that may be the VaR."""

    tail: Host
    unsure: Host


def _historical(launcher: Launcher, params: Params, inputs: HostArrays) -> dict[str, Any] | None:
    import numpy as np

    returns, weights = inputs["returns"], np.asarray(inputs["weights"], dtype=np.float64)
    scenarios, assets = returns.shape
    if scenarios > _MOST_SCENARIOS or assets >= _MOST_ASSETS:
        return None
    # Weights of at most 1: no product or sum of declared inputs leaves float32 then.
    scale = math.ldexp(1.0, math.frexp(float(np.abs(weights).max()))[1])
    launched = launcher.launch(
        SHADER,
        {
            "returns": np.asarray(returns, dtype=np.float32),
            "weights": (weights / scale).astype(np.float32),
            "sizes": np.array([scenarios, assets], dtype=np.uint32),
        },
        {"losses": (scenarios,), "magnitudes": (scenarios,), "histogram": (2**_HISTOGRAM_BITS,)},
        threads=scenarios * _LANES,
        group=_GROUP,
    )
    found = _Losses(
        launched["losses"].astype(np.float64),
        _ROUNDINGS * launched["magnitudes"].astype(np.float64) + assets * _SMALLEST,
    )
    count = scenarios - quantile_rank(scenarios, params["confidence"])
    boundary = _boundary(found, launched["histogram"], count)
    losses = scale * found.rounded
    exact = _exact_losses(returns, weights, boundary.unsure)
    losses[boundary.unsure] = exact
    var = float(_greatest(exact, count - (boundary.tail.size - boundary.unsure.size)))
    chosen = int(boundary.unsure[np.argmax(exact == var)])
    excess = float(np.maximum(losses[boundary.tail] - var, 0.0).sum())
    notional = params["notional"]
    return {
        "value_at_risk": np.asarray(notional * var),
        "expected_shortfall": np.asarray(notional * (var + excess / ((1.0 - params["confidence"]) * scenarios))),
        "component_var": -notional * (np.asarray(returns[chosen], dtype=np.float64) * weights),
        "losses": notional * losses,
    }


def _boundary(found: _Losses, histogram: Host, count: int) -> _Boundary:
    """Where the ``count`` greatest losses end. Raises ``ExecutionError`` if the histogram is not that of the losses."""
    import numpy as np

    rounded, bounds = found
    beyond = np.cumsum(histogram[::-1], dtype=np.int64)
    place = min(int(np.searchsorted(beyond, count)), histogram.size - 1)
    nearest = np.flatnonzero(rounded >= _least_of_bin(histogram.size - 1 - place))
    if not nearest.size == beyond[place] >= count:
        raise ExecutionError(
            f"{SHADER.entry}: its histogram counts {beyond[place]} losses where {nearest.size} were given, "
            f"of which the tail takes {count}; the shader or its device is at fault"
        )
    # At least `count` exact losses reach the floor, and fewer are beyond the ceiling: the VaR is between them.
    floor = _greatest(rounded[nearest] - bounds[nearest], count)
    tail = np.flatnonzero(rounded + bounds >= floor)
    ceiling = _greatest(rounded[tail] + bounds[tail], count)
    return _Boundary(tail, tail[rounded[tail] - bounds[tail] <= ceiling])


def _least_of_bin(number: int) -> float:
    """The least float whose order begins with these bits."""
    import numpy as np

    order = np.uint32(number << (32 - _HISTOGRAM_BITS))
    sign = np.uint32(0x80000000)
    bits = order ^ sign if order & sign else ~order
    return float(bits.view(np.float32))


def _greatest(values: Host, count: int) -> Any:
    """The ``count``-th greatest of the values."""
    import numpy as np

    return np.partition(values, values.size - count)[values.size - count]


def _exact_losses(returns: Host, weights: Host, chosen: Host) -> Host:
    """Losses per notional of these scenarios in float64; scenarios that are equal have equal losses."""
    import numpy as np

    losses = np.empty(chosen.size)
    step = max(1, _BLOCK // weights.size)
    for first in range(0, chosen.size, step):
        part = slice(first, first + step)
        losses[part] = -(returns[chosen[part]] * weights).sum(axis=1)
    return losses


HISTORICAL = Fused(flag="METAL_GPU_SHADERS", run=_historical)
