"""A stand-in for NVIDIA's management library, and torch's switches as they were."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml_stub.c")


@pytest.fixture(scope="session")
def build_nvml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build the stand-in as a shared library, with names defined for the preprocessor; a new file for every call.

    A library of its own has a state of its own: not yet initialised.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here to build the stand-in for NVIDIA's library with")

    def build(*defined: str) -> Path:
        library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
        defines = [f"-D{name}" for name in defined]
        subprocess.run([compiler, "-shared", "-fPIC", *defines, "-o", library, SOURCE], check=True)
        return library

    return build


@pytest.fixture
def library(build_nvml: Callable[..., Path]) -> ctypes.CDLL:
    """The stand-in, loaded as the driver's library is."""
    return ctypes.CDLL(str(build_nvml()))


@pytest.fixture
def switches() -> Iterator[None]:
    """Backends set torch's process-wide switches, which are a worker's to set; other tests get them back."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    matmul, cudnn, fill = torch.backends.cuda.matmul, torch.backends.cudnn, torch.utils.deterministic
    precision, mode = torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
    before = cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction, fill.fill_uninitialized_memory
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_deterministic_debug_mode(mode)
    cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction, fill.fill_uninitialized_memory = before
