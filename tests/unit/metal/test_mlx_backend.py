"""MLX's backends: on the processor as they are, and the GPU's with the few calls replaced that need a GPU."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from routerd.errors import Unavailable  # noqa: E402
from routerd.namespaces import mlx as namespaces  # noqa: E402
from routerd.workloads.linalg import GEMM  # noqa: E402
from routerd_metal import apple_gpu, mlx_backend  # noqa: E402
from routerd_metal.apple_gpu import AppleGpu  # noqa: E402
from routerd_metal.fused import FUSED  # noqa: E402
from routerd_metal.launching import MlxLauncher  # noqa: E402

WORKING_SET = 96 * 2**30


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Apple GPU up to the point where MLX is asked for one."""
    monkeypatch.setattr(apple_gpu, "this_machine", lambda: ("darwin", "arm64"))
    monkeypatch.setattr(apple_gpu, "read_gpu", lambda: AppleGpu("Apple M4 Max", 40, "15.3.1"))
    for name in ("PYTORCH_ENABLE_MPS_FALLBACK", "MLX_METAL_FAST_SYNCH"):
        monkeypatch.setenv(name, "0")


@pytest.fixture
def metal(mac: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """MLX that says it has a GPU, computes on the processor, and notes its limits."""
    limits: dict[str, int] = {}
    original = namespaces.MlxNamespace
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": WORKING_SET})
    monkeypatch.setattr(mx, "set_memory_limit", lambda size: limits.update(memory=size))
    monkeypatch.setattr(mx, "set_cache_limit", lambda size: limits.update(cache=size))
    monkeypatch.setattr(namespaces, "MlxNamespace", lambda device, **options: original("cpu", **options))
    return limits


def test_the_processor_is_described_and_computes() -> None:
    backend = mlx_backend.ProcessorBackend()
    device = backend.probe()
    assert (device.kind, bool(device.name), device.detail["mlx"]) == ("cpu", True, mx.__version__)
    a = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(backend.execute(GEMM, {}, {"a": a, "b": a.T}, {}).outputs["c"], a @ a.T)


def test_a_kernel_has_been_computed_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX computes when it must; were that when the result is read, the time of a kernel would count as transfer."""
    backend, events = mlx_backend.ProcessorBackend(), []
    evaluate, read = mx.eval, backend._namespace.to_host
    monkeypatch.setattr(mx, "eval", lambda *arrays: (events.append("eval"), evaluate(*arrays)))
    monkeypatch.setattr(
        backend._namespace, "to_host", lambda array, **out: (events.append("read"), read(array, **out))[1]
    )
    a = np.ones((3, 3))
    assert backend.execute(GEMM, {}, {"a": a, "b": a}, {}).outputs["c"][0, 0] == 3.0
    assert events == ["eval", "read"]


def test_what_a_task_held_at_most_is_told() -> None:
    backend = mlx_backend.ProcessorBackend()
    a = np.ones((256, 256))
    execution = backend.execute(GEMM, {}, {"a": a, "b": a}, {})
    assert 3 * 256 * 256 * 4 <= execution.device_bytes < 10 * 256 * 256 * 4


def test_a_gpu_is_described_and_held_to_its_working_set(metal: dict[str, int]) -> None:
    backend = mlx_backend.MetalBackend()
    device = backend.probe()
    assert (device.kind, device.name, device.memory_bytes) == ("metal_gpu", "Apple M4 Max", WORKING_SET)
    assert device.detail == {"gpu_cores": 40, "macos": "15.3.1", "mlx": mx.__version__}
    assert metal == {"memory": WORKING_SET, "cache": WORKING_SET // 4}
    ones = np.ones((2, 2))
    assert backend.execute(GEMM, {}, {"a": ones, "b": ones}, {}).outputs["c"][0, 0] == 2.0
    backend.close()
    backend.close()


def test_shaders_and_their_launcher_reach_the_gpu(metal: dict[str, int]) -> None:
    backend = mlx_backend.MetalBackend(metal_gpu_shaders=True, gpu_messagebus=True)
    assert backend._fused == FUSED
    assert isinstance(backend._launcher, MlxLauncher)
    assert len(str(backend.probe().detail["shaders"])) == 12


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine has an Apple GPU")
def test_a_mac_without_a_gpu_says_so(mac: None) -> None:
    with pytest.raises(Unavailable, match="MLX finds no Metal device"):
        mlx_backend.MetalBackend()


def paged(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values in memory that starts on a page, and two elements after its start."""
    memory = np.frombuffer(mmap.mmap(-1, values.nbytes + 2 * values.itemsize), dtype=values.dtype)
    memory[2:] = values
    return memory


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_only_what_starts_on_a_page_and_needs_no_rounding_is_adopted(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, adopted = namespaces.MlxNamespace("cpu", adopt=True), []
    asarray = mx.asarray

    def adopting(array: Any, *, copy: bool | None) -> Any:
        assert copy is None
        adopted.append(array)
        return asarray(array, copy=copy)

    monkeypatch.setattr(mx, "asarray", adopting)
    memory = paged(np.arange(1000, dtype=dtype))
    assert namespace.from_host(memory).tolist() == memory.tolist()
    assert [array is memory for array in adopted] == ([] if dtype == "float64" else [True])
    namespace.from_host(memory[2:])
    namespace.from_host(memory[:0])
    namespaces.MlxNamespace("cpu").from_host(memory)
    assert len(adopted) == (0 if dtype == "float64" else 1)
