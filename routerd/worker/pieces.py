"""A task that is too large for its device at once, run piece by piece and put together again."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from routerd.errors import ExecutionError
from routerd.interfaces import Example, Execution, HostArrays, Params, Workload

#: Runs one piece.
ExecutePiece = Callable[[Params, HostArrays], Execution]


def execute_in_pieces(
    workload: Workload, params: Params, inputs: HostArrays, pieces: int, execute: ExecutePiece
) -> Execution:
    """Run about ``pieces`` equal parts of the task one after the other, as many as its workload can make of it.

    The time of cutting and merging counts as transfer. Raises ``ExecutionError`` for a workload that does not split.
    """
    if workload.split is None or workload.merge is None:
        raise ExecutionError(f"{workload.name} does not split, so it cannot run in {pieces} pieces")
    started = perf_counter()
    whole = Example(dict(params), dict(inputs))
    executions = [execute(part.params, part.arrays) for part in workload.split(whole, [1.0] * pieces)]
    if len(executions) == 1:
        return executions[0]
    merged = workload.merge(whole, [one.outputs for one in executions])
    kernel = sum(one.kernel_seconds for one in executions)
    return Execution(
        {name: np.asarray(array) for name, array in merged.items()},
        max(perf_counter() - started - kernel, 0.0),
        kernel,
        max(one.device_bytes for one in executions),
    )
