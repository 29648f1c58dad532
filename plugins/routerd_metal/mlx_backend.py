"""``metal.mlx`` on Apple's GPU and ``cpu.mlx`` on Linux: the same kernels through MLX in float32."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import psutil

from routerd.errors import Unavailable
from routerd.interfaces import Arrays, Execution, HostArrays, Kernel, Namespace, Params, Workload
from routerd.types import Device
from routerd_metal import apple_gpu
from routerd_metal.fused import Fused
from routerd_metal.kernels import KernelBackend, chosen_shaders, shader_detail
from routerd_metal.launching import Launcher, MlxLauncher
from routerd_metal.presence import require_apple_gpu

#: Freed buffers that MLX keeps for the next task, as a part of the GPU's recommended working set. By default it may keep all.
_CACHED_SHARE = 0.25

_NO_SHADERS: Mapping[str, Fused] = MappingProxyType({})


class MlxBackend(KernelBackend):
    """MLX on one device. It computes only when it must, so a kernel here ends with the order to."""

    def __init__(
        self,
        device: str,
        launcher: Launcher | None = None,
        fused: Mapping[str, Fused] = _NO_SHADERS,
        *,
        unified_memory: bool = False,
    ) -> None:
        import mlx.core as mx

        from routerd.namespaces.mlx import MlxNamespace

        self._mx = mx
        super().__init__(MlxNamespace(device, adopt=unified_memory), launcher, fused)

    def prepare(self, workload: Workload) -> None:
        """MLX compiles its Metal kernels when they are first launched, and none ahead."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        held = self._mx.get_active_memory()
        self._mx.reset_peak_memory()
        execution = super().execute(workload, params, inputs, into)
        return execution._replace(device_bytes=max(self._mx.get_peak_memory() - held, 0))

    def _kernel(self, workload: Workload) -> Kernel:
        def evaluated(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
            results = workload.kernel(namespace, params, arrays)
            self._mx.eval(list(results.values()))
            return results

        return evaluated

    def _free_cache(self) -> None:
        self._mx.clear_cache()


class ProcessorBackend(MlxBackend):
    """``cpu.mlx``."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def probe(self) -> Device:
        name = str(self._mx.device_info(self._mx.cpu).get("device_name") or platform.machine())
        memory = psutil.virtual_memory().total
        return Device(kind="cpu", name=name, memory_bytes=memory, detail={"mlx": str(self._mx.__version__)})


class MetalBackend(MlxBackend):
    """``metal.mlx``. Raises ``Unavailable`` where there is no Apple GPU, before MLX is imported.

    ``metal_gpu_shaders`` and ``gpu_messagebus`` switch on the shaders under those flags. ``unified_memory``: inputs that
    need no rounding and start on a page are used where they lie.
    """

    def __init__(
        self, *, metal_gpu_shaders: bool = False, gpu_messagebus: bool = False, unified_memory: bool = False
    ) -> None:
        require_apple_gpu(*apple_gpu.this_machine())
        self._gpu = apple_gpu.read_gpu()
        apple_gpu.prepare_environment(os.environ, self._gpu.macos)
        import mlx.core as mx

        require_metal(mx)
        shaders = chosen_shaders(metal_gpu_shaders=metal_gpu_shaders, gpu_messagebus=gpu_messagebus)
        super().__init__("gpu", MlxLauncher(mx), shaders, unified_memory=unified_memory)
        self._memory_bytes = limit_memory(mx)

    def probe(self) -> Device:
        detail = apple_gpu.detail(self._gpu, mlx=str(self._mx.__version__), **shader_detail(self._fused))
        return Device(kind="metal_gpu", name=self._gpu.chip, memory_bytes=self._memory_bytes, detail=detail)


def require_metal(mx: Any) -> None:
    """Raise ``Unavailable`` where MLX has no GPU to run on."""
    if not mx.metal.is_available():
        raise Unavailable("MLX finds no Metal device; a virtual machine or a session without graphics has none")


def limit_memory(mx: Any) -> int:
    """Hold MLX to the GPU's recommended working set, and what it caches to a part of it; the working set in bytes.

    Beyond the working set macOS pages the GPU's memory out and in, which is slower than any other backend.
    """
    working_set = int(mx.device_info()["max_recommended_working_set_size"])
    mx.set_memory_limit(working_set)
    mx.set_cache_limit(int(working_set * _CACHED_SHARE))
    return working_set
