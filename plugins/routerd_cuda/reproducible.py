"""What makes the same task give the same bits on a card, and in the precision that its backend announces.

The environment is read by NVIDIA's libraries when they are loaded, so it must be set before torch is imported.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def prepare_environment(environ: MutableMapping[str, str]) -> None:
    """Cards in the order in which NVML counts them, no TF32 behind torch's back, cuBLAS with a workspace of its own.

    Source: torch's notes on reproducibility and on CUDA environment variables; NVIDIA's on ``NVIDIA_TF32_OVERRIDE``.
    """
    environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    environ["NVIDIA_TF32_OVERRIDE"] = "0"
    environ.pop("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", None)


def prepare_torch(torch: Any) -> None:
    """Deterministic algorithms wherever there are some, and float32 products in float32.

    TF32 keeps 10 bits of a float32's 23: its error of about 1e-3 is beyond the tolerance of most workloads. Of an operation that
    has no deterministic algorithm torch warns: only users' models contain any (see ``CudaNamespace``).
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would write every new array twice
