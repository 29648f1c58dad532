"""torch's backend: its code on torch's ``cpu``, and the GPU's with the few calls replaced that need a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from routerd.errors import Unavailable  # noqa: E402
from routerd.testing import check_backend  # noqa: E402
from routerd.types import Device  # noqa: E402
from routerd.workloads import builtin_workloads  # noqa: E402
from routerd_metal import apple_gpu, torch_backend  # noqa: E402
from routerd_metal.apple_gpu import AppleGpu  # noqa: E402
from routerd_metal.torch_namespace import MetalTorchNamespace  # noqa: E402

WORKING_SET = 96 * 2**30


class OnProcessor(torch_backend.TorchBackend):
    """The code of ``metal.torch`` where every machine can run it."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def probe(self) -> Device:
        return Device(kind="cpu", name="processor")


@pytest.fixture(scope="module")
def namespace() -> MetalTorchNamespace:
    return MetalTorchNamespace("cpu")


def test_every_workload_that_it_can_express_keeps_the_contract() -> None:
    backend = OnProcessor()
    for workload in builtin_workloads():
        check_backend(backend, [workload], [workload.work_range[0] * 8]).raise_for_problems()


def test_a_long_group_keeps_its_digits(namespace: MetalTorchNamespace) -> None:
    values = np.random.default_rng(1).lognormal(size=200_000)
    groups = np.zeros(200_000, dtype=np.int64)
    groups[:3] = 1
    sums = namespace.to_host(namespace.sum_by(namespace.from_host(values), namespace.from_host(groups), 3))
    np.testing.assert_allclose(sums, [values[3:].sum(), values[:3].sum(), 0.0], rtol=1e-6)


def test_the_greatest_of_64_bits_is_found_in_two_halves(namespace: MetalTorchNamespace) -> None:
    rng = np.random.default_rng(2)
    upper, lower = rng.integers(0, 3, 5000) << 31, rng.integers(0, 2**31, 5000)
    values, groups = upper + lower, rng.integers(0, 40, 5000)
    values[:2], groups[:2] = 2**62 - 1, 41
    found = namespace.to_host(namespace.max_by(namespace.from_host(values), namespace.from_host(groups), 43))
    expected = np.full(43, -1)
    np.maximum.at(expected, groups, values)
    assert found.tolist() == expected.tolist()
    assert (found[40], found[41], found[42]) == (-1, 2**62 - 1, -1)


def test_its_integers_stay_within_what_metal_adds_and_compares_atomically(namespace: MetalTorchNamespace) -> None:
    """Metal has atomic addition and maxima of 32 bits: whatever is scattered must have no more."""
    scattered = []

    class Recording(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            if any(word in str(function) for word in ("scatter", "index_add")):
                scattered.append(arguments[0].dtype)
            return function(*arguments, **(keywords or {}))

    values, groups = torch.arange(8), torch.arange(8) % 2
    with Recording():
        namespace.max_by(values, groups, 2)
        namespace.sum_by(values.to(torch.float32), groups, 2)
    assert scattered
    assert all(dtype.itemsize == 4 for dtype in scattered)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Apple GPU up to the point where torch is asked for one."""
    monkeypatch.setattr(apple_gpu, "this_machine", lambda: ("darwin", "arm64"))
    monkeypatch.setattr(apple_gpu, "read_gpu", lambda: AppleGpu("Apple M4 Max", 40, "15.3.1"))
    for name in ("PYTORCH_ENABLE_MPS_FALLBACK", "MLX_METAL_FAST_SYNCH"):
        monkeypatch.setenv(name, "0")


def torch_with(*, built: bool, available: bool) -> SimpleNamespace:
    mps = SimpleNamespace(is_built=lambda: built, is_available=lambda: available)
    return SimpleNamespace(backends=SimpleNamespace(mps=mps))


def test_why_torch_has_no_gpu() -> None:
    torch_backend.require_mps(torch_with(built=True, available=True))
    with pytest.raises(Unavailable, match="no Metal support"):
        torch_backend.require_mps(torch_with(built=False, available=False))
    with pytest.raises(Unavailable, match="torch finds no Metal device"):
        torch_backend.require_mps(torch_with(built=True, available=False))


@pytest.mark.skipif(torch.backends.mps.is_built(), reason="this torch has Metal support")
def test_a_torch_of_another_system_says_so(mac: None) -> None:
    with pytest.raises(Unavailable, match="this build of torch has no Metal support"):
        torch_backend.MetalBackend()


def test_a_gpu_is_described_and_held_to_its_working_set(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch_backend, "require_mps", lambda _torch: None)
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: WORKING_SET)
    emptied: list[bool] = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))
    backend = torch_backend.MetalBackend(metal_gpu_shaders=True)
    device = backend.probe()
    assert (device.kind, device.name, device.memory_bytes) == ("metal_gpu", "Apple M4 Max", WORKING_SET)
    assert device.detail["torch"] == str(torch.__version__)
    assert shares == [1.0]
    backend.close()
    assert emptied
