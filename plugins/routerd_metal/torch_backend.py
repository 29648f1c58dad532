"""``metal.torch``: the same kernels through torch on Apple's GPU (``mps``) in float32."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from routerd.errors import Unavailable
from routerd.interfaces import Workload
from routerd.types import Device
from routerd_metal import apple_gpu
from routerd_metal.fused import Fused
from routerd_metal.kernels import KernelBackend, chosen_shaders, shader_detail
from routerd_metal.launching import Launcher, TorchLauncher
from routerd_metal.presence import require_apple_gpu

_NO_SHADERS: Mapping[str, Fused] = MappingProxyType({})


class TorchBackend(KernelBackend):
    """torch on one device in float32."""

    def __init__(self, device: str, launcher: Launcher | None = None, fused: Mapping[str, Fused] = _NO_SHADERS) -> None:
        import torch

        from routerd_metal.torch_namespace import MetalTorchNamespace

        self._torch = torch
        self._on_gpu = device == "mps"
        super().__init__(MetalTorchNamespace(device), launcher, fused)

    def prepare(self, workload: Workload) -> None:
        """torch compiles its Metal kernels when they are first launched, and none ahead."""

    def _free_cache(self) -> None:
        if self._on_gpu:
            self._torch.mps.empty_cache()


class MetalBackend(TorchBackend):
    """``metal.torch``. Raises ``Unavailable`` where there is no Apple GPU, before torch is imported.

    ``metal_gpu_shaders`` and ``gpu_messagebus`` switch on the shaders under those flags.
    """

    def __init__(self, *, metal_gpu_shaders: bool = False, gpu_messagebus: bool = False) -> None:
        require_apple_gpu(*apple_gpu.this_machine())
        self._gpu = apple_gpu.read_gpu()
        apple_gpu.prepare_environment(os.environ, self._gpu.macos)
        import torch

        require_mps(torch)
        shaders = chosen_shaders(metal_gpu_shaders=metal_gpu_shaders, gpu_messagebus=gpu_messagebus)
        super().__init__("mps", TorchLauncher(torch), shaders)
        self._memory_bytes = limit_memory(torch)

    def probe(self) -> Device:
        detail = apple_gpu.detail(self._gpu, torch=str(self._torch.__version__), **shader_detail(self._fused))
        return Device(kind="metal_gpu", name=self._gpu.chip, memory_bytes=self._memory_bytes, detail=detail)


def require_mps(torch: Any) -> None:
    """Raise ``Unavailable`` with the reason why torch has no ``mps`` here."""
    if not torch.backends.mps.is_built():
        raise Unavailable("this build of torch has no Metal support; install torch from PyPI")
    if not torch.backends.mps.is_available():
        raise Unavailable("torch finds no Metal device; a virtual machine or a session without graphics has none")


def limit_memory(torch: Any) -> int:
    """Hold torch to the GPU's recommended working set, where by default it may take 1.7 times that; the set in bytes."""
    torch.mps.set_per_process_memory_fraction(1.0)
    return int(torch.mps.recommended_max_memory())
