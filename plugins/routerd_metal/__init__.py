"""Apple's GPU through MLX and through torch, both in float32; on Linux MLX on the processor, too.

Both GPU backends share a worker, because a GPU has one: one process, one queue, and never two kernels that fight for it.

``cpu.mlx`` is announced on Linux alone. There it takes part like any other backend, with the code of ``metal.mlx``. On a
Mac the processor already has two backends, and another framework's thread pool beside the GPU's would only be in the way.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from routerd.flags import load_flags
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec, Sensor
from routerd_metal.presence import why_absent

if TYPE_CHECKING:
    from routerd.settings import Settings


@hookimpl
def routerd_backends(settings: Settings) -> Sequence[BackendSpec]:
    """``metal.mlx`` and ``metal.torch`` everywhere, so that users read why they are absent; ``cpu.mlx`` on Linux."""
    del settings
    flags = load_flags()
    absent = why_absent(sys.platform, platform.machine())
    shaders = {
        "metal_gpu_shaders": flags["METAL_GPU_SHADERS"],
        "gpu_messagebus": flags["GPU_MESSAGEBUS"],
    }
    specs = [
        BackendSpec(
            name="metal.mlx",
            device_kind="metal_gpu",
            precision="float32",
            factory="routerd_metal.mlx_backend:MetalBackend",
            options={**shaders, "unified_memory": flags["UNIFIED_MEMORY_OPTIMIZATION"]},
            absent=absent,
        ),
        BackendSpec(
            name="metal.torch",
            device_kind="metal_gpu",
            precision="float32",
            factory="routerd_metal.torch_backend:MetalBackend",
            options=shaders,
            absent=absent,
        ),
    ]
    if sys.platform == "linux":
        specs.append(
            BackendSpec(
                name="cpu.mlx",
                device_kind="cpu",
                precision="float32",
                factory="routerd_metal.mlx_backend:ProcessorBackend",
                group="mlx",
            )
        )
    return specs


@hookimpl
def routerd_sensors(settings: Settings) -> Sequence[Sensor]:
    """How busy the GPU is, and how much memory it may still take: on macOS."""
    del settings
    if sys.platform != "darwin":
        return ()
    from routerd_metal.sensor import GpuSensor

    return (GpuSensor(),)
