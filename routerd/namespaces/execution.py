"""How a workload's kernel runs on a namespace: inputs in, kernel, outputs back, each stage timed."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from routerd.errors import OutOfMemory, Unavailable
from routerd.interfaces import NEEDS, Execution, HostArrays, Kernel, Namespace, Params, Workload

_NO_BUFFERS: Mapping[str, Any] = {}

#: Why a namespace without Core ML lacks it.
NO_CORE_ML = "only the neural engine's plugin on macOS can run it"


def execute_kernel(
    namespace: Namespace,
    workload: Workload,
    params: Params,
    inputs: HostArrays,
    into: HostArrays = _NO_BUFFERS,
    kernel: Kernel | None = None,
) -> Execution:
    """Run the workload's own kernel, or ``kernel`` in its place, on ``namespace``; outputs come back as host arrays.

    ``into`` holds host buffers that outputs may be written to; an output that was is the buffer itself.
    Raises ``OutOfMemory`` where the host or the device ran out of it, and whatever else the kernel raises.
    """
    try:
        started = perf_counter()
        arrays = {name: namespace.from_host(array) for name, array in inputs.items()}
        loaded = perf_counter()
        results = (kernel or workload.kernel)(namespace, params, arrays)
        namespace.synchronize()
        computed = perf_counter()
        outputs = {name: namespace.to_host(array, out=into.get(name)) for name, array in results.items()}
        unloaded = perf_counter()
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(workload, namespace, error) from error
        raise
    return Execution(outputs, (loaded - started) + (unloaded - computed), computed - loaded)


def refusal(workload: Workload, namespace: Namespace) -> str | None:
    """Why the workload's own kernel cannot run on this namespace, or ``None``: a backend's ``supports`` asks it."""
    if workload.cpu_only and namespace.name != "numpy":
        return f"{workload.name} is written for NumPy alone"
    for need in sorted(workload.needs):
        if need in namespace.lacks:
            return f"{workload.name} needs {NEEDS[need]}: {namespace.lacks[need]}"
    return None


def require_support(workload: Workload, namespace: Namespace) -> None:
    """Raise ``Unavailable`` with the reason where the workload's own kernel cannot run on this namespace."""
    reason = refusal(workload, namespace)
    if reason is not None:
        raise Unavailable(reason)


def contract_namespace(workload: Workload) -> Namespace:
    """Where the contract of this workload is computed: NumPy, but for a kernel that only torch can run.

    Such a kernel is a model made for torch, and what it computes is the model run by torch itself on the processor in
    float64 (or, where the model insists on it, in float32).
    """
    if "torch_module" in workload.needs:
        from routerd.namespaces.torch import TorchNamespace

        return TorchNamespace("cpu", workload.contract_precision)
    from routerd.namespaces.numpy import NumpyNamespace

    return NumpyNamespace()


def out_of_memory(workload: Workload, namespace: Namespace, error: BaseException) -> OutOfMemory:
    """What a framework's own complaint is called here."""
    return OutOfMemory(
        f"{workload.name} needs more memory than {namespace.name} can get: {_first_line(error)}; "
        f"send smaller inputs or let another backend take it"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a framework means that memory ran out. torch and MLX say so in a ``RuntimeError`` of their own words."""
    if isinstance(error, MemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in words
        for phrase in (
            "out of memory",
            "allocate memory",
            "attempting to allocate",
            "unable to allocate",
            "insufficient memory",
        )
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
