"""How a workload's kernel runs on a namespace: inputs in, kernel, outputs back, each stage timed."""

from __future__ import annotations

from time import perf_counter

from routerd.interfaces import Execution, HostArrays, Namespace, Params, Workload


def execute_kernel(namespace: Namespace, workload: Workload, params: Params, inputs: HostArrays) -> Execution:
    """Run the workload's own kernel on ``namespace``; outputs come back as host arrays."""
    started = perf_counter()
    arrays = {name: namespace.from_host(array) for name, array in inputs.items()}
    loaded = perf_counter()
    results = workload.kernel(namespace, params, arrays)
    namespace.synchronize()
    computed = perf_counter()
    outputs = {name: namespace.to_host(array) for name, array in results.items()}
    unloaded = perf_counter()
    return Execution(outputs, (loaded - started) + (unloaded - computed), computed - loaded)
