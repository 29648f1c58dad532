"""The card as a device: what torch and the driver tell about it."""

from __future__ import annotations

from typing import Any

from routerd.errors import Unavailable
from routerd.types import Device, Scalar
from routerd_cuda.driver import load_nvml
from routerd_cuda.nvml import Nvml, NvmlError

#: Of the card's memory, for the worker at most: the rest is for the CUDA context, the libraries and a display.
MOST_OF_MEMORY = 0.9


def describe(properties: Any, *, torch: str, cuda: str, driver: str | None) -> Device:
    """The card of these properties (``torch.cuda.get_device_properties``), with the versions that a result depends on."""
    detail: dict[str, Scalar] = {
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": cuda,
        "torch": torch,
    }
    if driver is not None:
        detail["driver"] = driver
    return Device(kind="cuda_gpu", name=properties.name, memory_bytes=properties.total_memory, detail=detail)


def driver_version() -> str | None:
    """The driver's version; ``None`` where its management library is missing or does not answer, as in some containers."""
    try:
        return Nvml(load_nvml()).driver_version()
    except (Unavailable, NvmlError):
        return None


def memory_share(total_bytes: int, limit_bytes: int) -> float:
    """What share of the card's memory torch may take: at most ``limit_bytes`` (0: no limit but that of the card)."""
    return min(MOST_OF_MEMORY, limit_bytes / total_bytes) if limit_bytes else MOST_OF_MEMORY
