"""NVIDIA cards: torch on CUDA in float32, and with bfloat16 matrix products; what the card reports about itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec, Sensor

if TYPE_CHECKING:
    from routerd.settings import Settings


@hookimpl
def routerd_backends(settings: Settings) -> Sequence[BackendSpec]:
    """Both on the first visible card. They share a worker, and so one import of torch and one CUDA context.

    ``worker_memory_bytes`` also bounds what the worker takes of the card, where somebody has set it: its default is a share
    of the machine's memory and says nothing about a card's.
    """
    from routerd_cuda.driver import control_node, driver_problem

    given = "worker_memory_bytes" in settings.model_fields_set
    # Where there may be a card the worker looks closer: the driver's library is large, and stays in the process.
    absent = "" if control_node() else driver_problem() or ""
    options = {"memory_bytes": int(settings.worker_memory_bytes) if given else 0}
    return (
        BackendSpec(
            name="cuda.torch",
            device_kind="cuda_gpu",
            precision="float32",
            factory="routerd_cuda.torch_backend:TorchBackend",
            group="torch",
            options=options,
            absent=absent,
        ),
        BackendSpec(
            name="cuda.torch_bf16",
            device_kind="cuda_gpu",
            precision="bfloat16",
            factory="routerd_cuda.torch_backend:Bfloat16Backend",
            group="torch",
            options=options,
            absent=absent,
        ),
    )


@hookimpl
def routerd_sensors(settings: Settings) -> Sequence[Sensor]:
    """Memory, load, power and heat of the card that the backends use, from NVIDIA's management library."""
    del settings
    from routerd_cuda.sensor import NvmlSensor

    return (NvmlSensor(),)
