"""The processor: NumPy in float64 (the contract), torch in float32, and torch with bfloat16 matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from routerd.flags import load_flags
from routerd.hookspecs import hookimpl
from routerd.interfaces import CONTRACT_BACKEND, BackendSpec

if TYPE_CHECKING:
    from routerd.settings import Settings


@hookimpl
def routerd_backends(settings: Settings) -> Sequence[BackendSpec]:
    """The three backends. Both torch ones share a worker, and so one import of torch and one thread pool."""
    torch_options = {"threads": settings.cpu_threads, "parallel_threshold": load_flags()["PARALLEL_THRESHOLD"]}
    return (
        BackendSpec(
            name=CONTRACT_BACKEND,
            device_kind="cpu",
            precision="float64",
            factory="routerd_cpu.numpy_backend:NumpyBackend",
            group="numpy",
            options={"threads": settings.cpu_threads},
        ),
        BackendSpec(
            name="cpu.torch",
            device_kind="cpu",
            precision="float32",
            factory="routerd_cpu.torch_backend:TorchBackend",
            group="torch",
            options=torch_options,
        ),
        BackendSpec(
            name="cpu.torch_bf16",
            device_kind="cpu",
            precision="bfloat16",
            factory="routerd_cpu.torch_backend:Bfloat16Backend",
            group="torch",
            options=torch_options,
        ),
    )
