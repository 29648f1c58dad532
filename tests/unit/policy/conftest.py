"""What the tests of policies share: a vocabulary, the environment flags, and a way to load policy text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from routerd.interfaces import DEVICE_KINDS
from routerd.policy import Policy, Vocabulary, load_policy

WORKLOADS = (
    "analytics.performance",
    "indicators.ema",
    "indicators.rsi",
    "indicators.sma",
    "linalg.gemm",
    "ml.mlp_inference",
    "options.monte_carlo_european",
    "risk.greeks_batch",
    "risk.var_historical",
)
BOOLEAN_FLAGS = re.findall(r"\w+", """
    BREAKTHROUGH_OPTIMIZATIONS KERNEL_BYPASS GPU_ACCELERATION QUANTUM_ALGORITHMS DPDK_NETWORK M4_MAX_OPTIMIZED
    NEURAL_ENGINE_DIRECT ANE_DEVICE_ACCESS REDIS_KERNEL_BYPASS CPU_PINNING_MANAGER METAL_GPU_SHADERS ZERO_COPY_MEMORY
    GPU_MESSAGEBUS QUANTUM_PORTFOLIO QUANTUM_RISK QUANTUM_PRECISION_HIGH NEURAL_ENGINE_QUANTUM ZERO_COPY_NETWORKING
    DPDK_MESSAGEBUS HARDWARE_PACKET_PROCESSING NETWORK_OPTIMIZATIONS METAL_ACCELERATION NEURAL_ENGINE_ENABLED
    CPU_OPTIMIZATION UNIFIED_MEMORY_OPTIMIZATION AUTO_HARDWARE_ROUTING HYBRID_ACCELERATION GPU_FALLBACK_ENABLED
    NEURAL_ENGINE_FALLBACK BREAKTHROUGH_DEBUG KERNEL_DEBUG GPU_DEBUG QUANTUM_DEBUG NETWORK_DEBUG M4_MAX_DEBUG METAL_DEBUG
    CPU_OPTIMIZATION_DEBUG PERFORMANCE_MONITORING HARDWARE_MONITORING
""")  # fmt: skip

HEAD = "apiVersion: routerd/v1\nkind: Policy\n"

Load = Callable[..., Policy]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(
        workloads=frozenset(WORKLOADS),
        families=frozenset(name.split(".")[0] for name in WORKLOADS),
        engines=frozenset({"Risk", "Analytics", "ML", "Portfolio"}),
        backends=frozenset({"cpu.numpy", "cpu.torch", "metal.mlx"}),
        device_kinds=frozenset(DEVICE_KINDS),
    )


@pytest.fixture(scope="session")
def flags() -> dict[str, Any]:
    """Every flag, most of them not set."""
    return dict.fromkeys(BOOLEAN_FLAGS) | {
        "NEURAL_ENGINE_PRIORITY": "MEDIUM",
        "METAL_GPU_PRIORITY": "MEDIUM",
        "LARGE_DATA_THRESHOLD": 1_000_000,
        "PARALLEL_THRESHOLD": None,
        "GPU_ACCELERATION": True,
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Path]]]:
    """Writes texts as ``0.yaml``, ``1.yaml`` … in an empty working directory; a policy's head is put before the first key
    unless ``head=False``, on the same line numbers for every file: the text starts on line 3."""
    monkeypatch.chdir(tmp_path)

    def write_texts(*texts: str, head: bool = True) -> list[Path]:
        paths = [Path(f"{number}.yaml") for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text((HEAD if head else "") + text, encoding="utf-8")
        return paths

    yield write_texts


@pytest.fixture
def load(write: Callable[..., list[Path]], vocabulary: Vocabulary, flags: Mapping[str, Any]) -> Load:
    """Loads policies from texts."""

    def load_texts(*texts: str, head: bool = True, **changed: Any) -> Policy:
        return load_policy(write(*texts, head=head), vocabulary, {**flags, **changed})

    return load_texts
