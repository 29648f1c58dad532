"""Shader or kernel, and what becomes of a task that needs too much memory: alike for MLX and torch."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from routerd.errors import OutOfMemory, Unavailable
from routerd.interfaces import Workload
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.linalg import GEMM
from routerd_metal import kernels
from routerd_metal.fused import FUSED, Fused
from routerd_metal.kernels import KernelBackend

ONES = {"a": np.ones((2, 2)), "b": np.ones((2, 2))}


class NumpyBackend(KernelBackend):
    """On NumPy, which every machine has."""

    freed = 0

    def prepare(self, workload: Workload) -> None: ...

    def _free_cache(self) -> None:
        self.freed += 1


def fused(run: Any) -> dict[str, Fused]:
    return {GEMM.name: Fused(flag="METAL_GPU_SHADERS", run=run)}


def product(backend: KernelBackend) -> float:
    return float(backend.execute(GEMM, {}, ONES, {}).outputs["c"][0, 0])


def test_a_shader_comes_before_the_kernel() -> None:
    launcher: Any = object()

    def run(given: Any, params: Any, inputs: Any) -> dict[str, Any]:
        assert given is launcher
        return {"c": inputs["a"] + 41.0}

    assert product(NumpyBackend(NumpyNamespace(), launcher, fused(run))) == 42.0
    assert product(NumpyBackend(NumpyNamespace(), launcher, {})) == 2.0
    assert product(NumpyBackend(NumpyNamespace(), None, fused(run))) == 2.0


def test_what_a_shader_does_not_cover_goes_to_the_kernel() -> None:
    launcher: Any = object()
    assert product(NumpyBackend(NumpyNamespace(), launcher, fused(lambda *_: None))) == 2.0


def test_a_workload_that_the_namespace_lacks_is_refused_with_the_reason() -> None:
    class Poor(NumpyNamespace):
        name = "poor"

    assert NumpyBackend(Poor()).supports(GEMM) is True
    with pytest.raises(Unavailable, match=r"linalg\.gemm is written for NumPy alone"):
        NumpyBackend(Poor()).supports(dataclasses.replace(GEMM, cpu_only=True))


class Array(np.ndarray[Any, Any]):
    """An array that can be watched going."""


def greedy(seen: list[weakref.ref[Any]]) -> Any:
    def kernel(*_: object) -> dict[str, Any]:
        held = np.ones(3).view(Array)
        seen.append(weakref.ref(held))
        raise RuntimeError("[malloc] Unable to allocate 99 bytes.")

    return kernel


@pytest.mark.parametrize("by_shader", [False, True])
def test_a_task_that_needs_too_much_leaves_nothing_behind(by_shader: bool) -> None:
    seen: list[weakref.ref[Any]] = []
    kernel, launcher = greedy(seen), object()
    backend = NumpyBackend(NumpyNamespace(), launcher if by_shader else None, fused(kernel))  # type: ignore[arg-type]
    with pytest.raises(OutOfMemory, match=r"linalg\.gemm needs more memory than numpy can get: \[malloc\]") as caught:
        backend.execute(dataclasses.replace(GEMM, kernel=kernel), {}, ONES, {})
    gc.collect()
    assert seen[0]() is None, "the error, which is still held, keeps the task's arrays"
    assert caught.value.__cause__ is not None
    assert backend.freed == 1


def test_another_error_of_a_shader_passes_unchanged() -> None:
    def run(*_: object) -> None:
        raise RuntimeError("the shader does not compile")

    launcher: Any = object()
    backend = NumpyBackend(NumpyNamespace(), launcher, fused(run))
    with pytest.raises(RuntimeError, match="does not compile"):
        product(backend)
    assert backend.freed == 0


def test_each_flag_switches_on_its_own_shaders() -> None:
    assert kernels.chosen_shaders(metal_gpu_shaders=False, gpu_messagebus=False) == {}
    for flag, options in {
        "METAL_GPU_SHADERS": {"metal_gpu_shaders": True, "gpu_messagebus": False},
        "GPU_MESSAGEBUS": {"metal_gpu_shaders": False, "gpu_messagebus": True},
    }.items():
        chosen = kernels.chosen_shaders(**options)
        assert chosen
        assert {one.flag for one in chosen.values()} == {flag}
    assert kernels.chosen_shaders(metal_gpu_shaders=True, gpu_messagebus=True) == FUSED


def test_a_device_tells_shaders_apart_by_their_text(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.shader_detail({}) == {}
    before = kernels.shader_detail(FUSED)
    (tmp_path / "shaders").mkdir()
    (tmp_path / "shaders" / "other.metal").write_text("kernel void other() {\n}\n")
    monkeypatch.setattr(kernels, "SHADERS", tmp_path / "shaders")
    assert kernels.shader_detail(FUSED)["shaders"] != before["shaders"]
