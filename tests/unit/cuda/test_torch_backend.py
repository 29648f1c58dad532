"""The backend class: reasons where it cannot be, and on the processor everything but the card itself."""

from __future__ import annotations

import dataclasses
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray, OutOfMemory, Unavailable
from routerd.testing import check_backend
from routerd.types import Device
from routerd.workloads import builtin_workloads
from routerd.workloads.linalg import GEMM

torch = pytest.importorskip("torch", reason="torch is not installed")

from routerd_cuda import torch_backend  # noqa: E402
from routerd_cuda.torch_backend import Bfloat16Backend, TorchBackend  # noqa: E402

pytestmark = pytest.mark.usefixtures("switches")

CARD = SimpleNamespace(name="NVIDIA L4", major=8, minor=9, multi_processor_count=58, total_memory=24 << 30)
SQUARE = {"a": np.ones((4, 4)), "b": np.ones((4, 4))}
#: One of each kind of kernel: products, sorting, sums and maxima over groups, running sums, windows, random numbers.
CHECKED = (
    "linalg.gemm", "ml.mlp_inference", "risk.var_historical", "toraniko.factor_returns", "collateral.haircut",
    "collateral.margin_sba", "websocket.conflate_fanout", "strategy.backtest_sma_sweep", "indicators.macd",
    "options.monte_carlo_european", "execution.almgren_chriss",
)  # fmt: skip


class OnProcessor(TorchBackend):
    """The backend's code without a card to probe."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def probe(self) -> Device:
        return Device(kind="cpu", name="the processor in the card's place")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver is there, and the environment is this test's own."""
    monkeypatch.setattr(torch_backend, "driver_problem", lambda: None)
    monkeypatch.setattr(torch_backend, "os", SimpleNamespace(environ={}))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """torch's calls about a card, answered; what was asked of them."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: CARD)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _device: asked.update(share=share))
    monkeypatch.setattr(torch_backend, "driver_version", lambda: "580.65.06")
    return asked


@pytest.mark.parametrize("backend", [TorchBackend, Bfloat16Backend])
def test_without_a_driver_the_reason_is_given_before_torch_is_loaded(
    monkeypatch: pytest.MonkeyPatch, backend: type[TorchBackend]
) -> None:
    monkeypatch.setattr(torch_backend, "driver_problem", lambda: "no NVIDIA driver (linux/x86_64)")
    monkeypatch.setitem(torch_backend.sys.modules, "torch", None)  # importing it would raise
    with pytest.raises(Unavailable, match=r"^no NVIDIA driver \(linux/x86_64\)$"):
        backend()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built with CUDA")
def test_a_torch_without_cuda_is_named_with_the_one_to_install(driver: None) -> None:
    with pytest.raises(Unavailable, match=r"torch .* is built without CUDA; install .* pip install") as caught:
        TorchBackend()
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update"),
        AssertionError("Invalid device id\nand more"),
        torch.cuda.DeferredCudaCallError("CUDA call failed lazily\nand more"),
    ],
)
def test_a_start_of_cuda_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(Unavailable) as caught:
        TorchBackend("cpu").probe()
    assert caught.value.message == f"CUDA does not start: {str(error).splitlines()[0]}"


def test_the_card_is_described_and_its_memory_bounded(card: dict[str, Any]) -> None:
    device = TorchBackend("cpu", memory_bytes=6 << 30).probe()
    assert (device.kind, device.name, device.memory_bytes) == ("cuda_gpu", "NVIDIA L4", 24 << 30)
    assert device.detail["compute_capability"] == "8.9"
    assert device.detail["driver"] == "580.65.06"
    assert device.detail["torch"] == torch.__version__
    assert card == {"share": 0.25}


def test_bfloat16_is_for_products_on_cards_with_units_for_it(
    card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Bfloat16Backend("cpu")
    assert backend.probe().name == "NVIDIA L4"
    assert backend.supports(GEMM) is True
    with pytest.raises(Unavailable, match="is not bound by matrix products"):
        backend.supports(dataclasses.replace(GEMM, matmul_bound=False))
    old = SimpleNamespace(**{**vars(CARD), "name": "Tesla T4", "major": 7, "minor": 5})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: old)
    with pytest.raises(Unavailable, match=r"Tesla T4 has compute capability 7\.5"):
        backend.probe()


def test_the_backend_keeps_the_contract() -> None:
    workloads = [workload for workload in builtin_workloads() if workload.name in CHECKED]
    assert len(workloads) == len(CHECKED)
    report = check_backend(OnProcessor(), workloads)
    report.raise_for_problems()
    agreed = {finding.workload for finding in report.findings if finding.check == "execute"}
    assert agreed == set(CHECKED)


def test_what_needs_float64_is_refused() -> None:
    (vpin,) = (workload for workload in builtin_workloads() if workload.name == "microstructure.vpin")
    with pytest.raises(Unavailable, match="needs more than 32 bits of precision"):
        OnProcessor().supports(vpin)


def test_inputs_that_do_not_fit_each_other_never_reach_the_card() -> None:
    whole = dataclasses.replace(GEMM, kernel=lambda *_: pytest.fail("the kernel was called"))
    with pytest.raises(InvalidArray, match=r"linalg\.gemm: b has length 3 where k is 4"):
        OnProcessor().execute(whole, {}, {"a": np.ones((4, 4)), "b": np.ones((3, 4))}, {})
    with pytest.raises(InvalidArray, match=r"linalg\.gemm needs the array b"):
        OnProcessor().execute(whole, {}, {"a": np.ones((4, 4))}, {})


def failing(error: Exception, keep: list[weakref.ref[Any]] | None = None) -> Any:
    """A product whose kernel makes an array and then raises."""

    def kernel(namespace: Any, _params: Any, _arrays: Any) -> Any:
        array = namespace.zeros((1000,))
        if keep is not None:
            keep.append(weakref.ref(array))
        raise error

    return dataclasses.replace(GEMM, kernel=kernel)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nDetails"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_card_without_memory_is_said_so_and_gets_back_what_the_task_took(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    arrays: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(arrays[0]() is not None))
    with pytest.raises(OutOfMemory, match=r"linalg\.gemm .*memory.*let another backend take it") as caught:
        OnProcessor().execute(failing(error, arrays), {}, SQUARE, {})
    assert alive == [False], "the failed task's arrays are still held while the cache is emptied"
    assert caught.value.code == "out_of_memory"
    assert str(error).splitlines()[0] in caught.value.message


def test_an_error_of_a_kernel_is_passed_on_and_the_next_task_goes_well() -> None:
    backend = OnProcessor()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        backend.execute(failing(RuntimeError("shapes do not fit")), {}, SQUARE, {})
    assert backend.execute(GEMM, {}, SQUARE, {}).outputs["c"].tolist() == [[4.0] * 4] * 4


def test_a_lost_context_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnProcessor()

    def refuse() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(backend._namespace, "synchronize", refuse)
    with pytest.raises(SystemExit, match=r"the CUDA context is lost .*illegal memory access"):
        backend.execute(failing(RuntimeError("CUDA error: an illegal memory access\nmore")), {}, SQUARE, {})

    def fail() -> None:
        raise RuntimeError("CUDA is asked after the context is lost")

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    backend.close()


def test_what_a_task_held_on_the_card_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnProcessor()
    assert backend.execute(GEMM, {}, SQUARE, {}).device_bytes == 0  # the processor counts nothing
    calls: list[str] = []
    monkeypatch.setattr(backend, "_on_card", True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 1000)  # what a model keeps there, say
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 6000)
    assert backend.execute(GEMM, {}, SQUARE, {}).device_bytes == 5000
    assert calls == ["reset"]
