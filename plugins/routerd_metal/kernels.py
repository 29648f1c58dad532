"""What all backends of this plugin do alike: shader or kernel for a task, and what becomes of one that needs too much."""

from __future__ import annotations

import hashlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from types import MappingProxyType

from routerd.errors import OutOfMemory
from routerd.interfaces import Execution, HostArrays, Kernel, Namespace, Params, Workload
from routerd.namespaces.execution import execute_kernel, is_out_of_memory, out_of_memory, require_support
from routerd.types import Scalar
from routerd_metal.fused import FUSED, Fused
from routerd_metal.launching import SHADERS, Launcher

_NO_SHADERS: Mapping[str, Fused] = MappingProxyType({})


class KernelBackend(ABC):
    """Runs workloads on one namespace: by a shader of ``fused`` where it covers the task, else by the workload's kernel.

    ``launcher`` runs the shaders; without one there are none.
    """

    def __init__(
        self, namespace: Namespace, launcher: Launcher | None = None, fused: Mapping[str, Fused] = _NO_SHADERS
    ) -> None:
        self._namespace = namespace
        self._launcher = launcher
        self._fused = fused

    def supports(self, workload: Workload) -> bool:
        require_support(workload, self._namespace)
        return True

    @abstractmethod
    def prepare(self, workload: Workload) -> None:
        """Do what the first task of this workload should not have to wait for."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        try:
            execution = self._by_shader(workload, params, inputs)
            if execution is not None:
                return execution
            return execute_kernel(self._namespace, workload, params, inputs, into, self._kernel(workload))
        except OutOfMemory as error:
            _let_go(error)
            self._free_cache()
            raise

    def close(self) -> None:
        """Give cached memory back; the device itself is held until the process ends."""
        self._free_cache()

    def _by_shader(self, workload: Workload, params: Params, inputs: HostArrays) -> Execution | None:
        fused = self._fused.get(workload.name)
        if fused is None or self._launcher is None:
            return None
        started = perf_counter()
        try:
            outputs = fused.run(self._launcher, params, inputs)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(workload, self._namespace, error) from error
            raise
        return None if outputs is None else Execution(outputs, 0.0, perf_counter() - started)

    def _kernel(self, workload: Workload) -> Kernel:
        return workload.kernel

    @abstractmethod
    def _free_cache(self) -> None:
        """Give back the memory that the framework keeps for the next task."""


def chosen_shaders(*, metal_gpu_shaders: bool, gpu_messagebus: bool) -> Mapping[str, Fused]:
    """The shaders that the flags of these names switch on, by workload."""
    on = {"METAL_GPU_SHADERS": metal_gpu_shaders, "GPU_MESSAGEBUS": gpu_messagebus}
    return {name: fused for name, fused in FUSED.items() if on[fused.flag]}


def shader_detail(fused: Mapping[str, Fused]) -> dict[str, Scalar]:
    """What a device says of the shaders in use. Proofs are kept per device, so another text is proved anew."""
    if not fused:
        return {}
    package = SHADERS.parent
    return {"shaders": _digest(sorted((*SHADERS.glob("*.metal"), *(package / "fused").glob("*.py"))))}


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _let_go(error: OutOfMemory) -> None:
    """Drop the arrays that the failed kernel's frames still hold, so that their memory is cached and can be given back."""
    if error.__cause__ is not None:
        traceback.clear_frames(error.__cause__.__traceback__)
