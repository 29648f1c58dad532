"""What every indicator declares: its periods, its values, how much work it is and how it splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from routerd.errors import InvalidParameter
from routerd.interfaces import Array, Dims, Example, HostArrays, Join, Kernel, Parameter, Params, Workload
from routerd.types import Scalar
from routerd.workloads.prices import example_bars, price
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

_MAX_PERIOD = 100_000
# Every indicator is warm before the end of its shortest example.
_LEAST_EXAMPLE_BARS = 50

CLOSE = price("close", "closing prices")
HIGH = price("high", "highest prices of the bars")
LOW = price("low", "lowest prices of the bars")


def period(name: str, default: int, minimum: int, doc: str) -> Parameter:
    return Parameter(name=name, type="int", unit="bars", default=default, minimum=minimum, maximum=_MAX_PERIOD, doc=doc)


def values(name: str, unit: str, doc: str = "one value a bar", scale: str = "") -> Array:
    return Array(
        name=name, shape=("T", "S"), unit=unit, doc=f"{doc}, NaN until the indicator is warm", finite=False, scale=scale
    )


def indicator(
    name: str,
    summary: str,
    source: str,
    kernel: Kernel,
    *,
    parameters: tuple[Parameter, ...],
    inputs: tuple[Array, ...] = (CLOSE,),
    outputs: tuple[Array, ...],
    bars_needed: Callable[[Params], int],
    tolerance: float,
    check_periods: Callable[[Params], None] | None = None,
    check: Callable[[Params, HostArrays], None] | None = None,
    example_params: Mapping[str, Scalar],
) -> Workload:
    """An indicator whose first value takes ``bars_needed(params)`` bars; series do not touch each other."""
    periods = [parameter.name for parameter in parameters if parameter.unit == "bars"]

    def check_task(params: Params, dims: Dims) -> None:
        if check_periods is not None:
            check_periods(params)
        rows, needed = dims["T"], bars_needed(params)
        if rows < needed:
            given = " and ".join(f"a {one} of {params[one]}" for one in periods)
            raise InvalidParameter(
                f"{name}: {given} takes at least {needed} bars, {inputs[-1].name} has {rows}; "
                f"shorten the period or send more bars",
                parameter=periods[0],
            )

    def example(work: float, rng: np.random.Generator) -> Example:
        bars = example_bars(work, rng, _LEAST_EXAMPLE_BARS)
        return Example(dict(example_params), {one.name: bars[one.name] for one in inputs})

    return Workload(
        name=name,
        summary=summary,
        source=source,
        engines=("Analytics", "Strategy"),
        parameters=parameters,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        work=_bars,
        work_unit="bars",
        example=example,
        work_range=(1e2, 4e6),
        tolerance=tolerance,
        batch_dim="S",
        check_task=check_task,
        check=check,
        split=split_along({one.name: 1 for one in inputs}),
        merge=merge_along({one.name: 1 for one in outputs}),
        join=Join(inputs={one.name: 1 for one in inputs}, outputs={one.name: 1 for one in outputs}),
    )


def _bars(params: Params, dims: Dims) -> float:
    return float(dims["T"] * dims["S"])
