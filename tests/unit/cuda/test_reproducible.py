"""The process-wide switches: the same bits every time, and float32 where float32 is announced."""

from __future__ import annotations

import pytest

from routerd_cuda.reproducible import prepare_environment, prepare_torch

torch = pytest.importorskip("torch", reason="torch is not installed")


def test_nothing_in_the_environment_can_turn_tf32_on() -> None:
    environ = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "NVIDIA_TF32_OVERRIDE": "1", "HOME": "/home/of/somebody"}
    prepare_environment(environ)
    assert environ == {
        "HOME": "/home/of/somebody",
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def test_torch_is_switched_to_deterministic_algorithms_in_full_precision(switches: None) -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    prepare_torch(torch)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.utils.deterministic.fill_uninitialized_memory
