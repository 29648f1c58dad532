"""The ``cpu`` plugin: what the processor is, what each backend takes, and on how many threads."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from routerd.errors import Unavailable
from routerd.settings import Settings
from routerd.types import Device
from routerd.workloads.linalg import GEMM
from routerd_cpu import processor, routerd_backends
from routerd_cpu.numpy_backend import NumpyBackend

CPUINFO_X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu sse avx2 avx512f amx_bf16 amx_tile

processor\t: 1
model name\t: another
flags\t\t: fpu
"""

CPUINFO_ARM = """\
processor\t: 0
Features\t: fp asimd sve bf16 i8mm
CPU implementer\t: 0x41
"""

SYSCTL = """\
machdep.cpu.brand_string: Apple M4 Max
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
"""


def test_linux_on_x86_is_read() -> None:
    found = processor.parse_cpuinfo(CPUINFO_X86)
    assert found.name == "Intel(R) Xeon(R) Platinum 8488C"
    assert found.features == ("avx2", "avx512f", "amx_bf16")
    assert found.has_bfloat16


def test_linux_on_arm_names_no_model() -> None:
    found = processor.parse_cpuinfo(CPUINFO_ARM)
    assert found.name
    assert found.features == ("asimd", "sve", "bf16", "i8mm")
    assert found.has_bfloat16


def test_macos_is_read() -> None:
    found = processor.parse_sysctl(SYSCTL)
    assert found == processor.Processor("Apple M4 Max", ("FEAT_BF16", "FEAT_I8MM"))
    assert found.has_bfloat16


@pytest.mark.parametrize("parse", [processor.parse_cpuinfo, processor.parse_sysctl])
def test_a_silent_system_still_gives_a_processor(parse: Any) -> None:
    found = parse("")
    assert found.name
    assert not found.has_bfloat16


def test_macos_asks_sysctl_and_a_sandbox_that_forbids_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sys, "platform", "darwin")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("sandbox")

    monkeypatch.setattr(processor.subprocess, "run", forbidden)
    assert processor.read_processor().features == ()


def test_the_device_is_described() -> None:
    device = NumpyBackend().probe()
    assert isinstance(device, Device)
    assert device.kind == "cpu"
    assert device.memory_bytes is not None
    assert device.memory_bytes > 2**28
    assert device.detail["numpy"] == np.__version__
    assert device.detail["threads"] == processor.available_threads()
    assert NumpyBackend(threads=1).probe().detail["threads"] == 1


def test_numpy_writes_products_in_place() -> None:
    a = np.arange(4.0).reshape(2, 2)
    c = np.empty((2, 2))
    execution = NumpyBackend().execute(GEMM, {}, {"a": a, "b": a}, {"c": c})
    assert execution.outputs["c"] is c
    np.testing.assert_array_equal(c, a @ a)


def test_settings_and_the_flag_reach_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLEL_THRESHOLD", "77")
    specs = {spec.name: spec for spec in routerd_backends(Settings(cpu_threads=3))}
    for name in ("cpu.torch", "cpu.torch_bf16"):
        assert specs[name].options == {"threads": 3, "parallel_threshold": 77}
        assert specs[name].group == "torch"
    assert specs["cpu.numpy"].options == {"threads": 3}


def test_small_work_runs_on_one_thread_and_large_work_on_all() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from routerd_cpu.torch_backend import TorchBackend

    before = torch.get_num_threads()
    backend = TorchBackend(threads=2, parallel_threshold=2.0 * 4**3)
    try:
        for side, threads in ((3, 1), (4, 2), (3, 1)):
            a = np.ones((side, side))
            execution = backend.execute(GEMM, {}, {"a": a, "b": a}, {})
            assert execution.outputs["c"][0, 0] == side
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_torch_takes_no_kernel_that_only_numpy_can_run() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from routerd_cpu.torch_backend import TorchBackend

    assert TorchBackend().supports(GEMM) is True
    with pytest.raises(Unavailable, match=r"linalg\.gemm is written for NumPy alone"):
        TorchBackend().supports(dataclasses.replace(GEMM, cpu_only=True))


def test_bfloat16_is_for_products_on_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from routerd_cpu import torch_backend

    backend = torch_backend.Bfloat16Backend(threads=1)
    assert backend.supports(GEMM) is True
    with pytest.raises(Unavailable, match="is not bound by matrix products"):
        backend.supports(dataclasses.replace(GEMM, matmul_bound=False))
    monkeypatch.setattr(torch_backend, "read_processor", lambda: processor.Processor("old", ("avx2",)))
    with pytest.raises(Unavailable, match="the processor has no bfloat16 matrix unit"):
        backend.probe()
    monkeypatch.setattr(torch_backend, "read_processor", lambda: processor.Processor("new", ("amx_bf16",)))
    assert backend.probe().name == "new"
