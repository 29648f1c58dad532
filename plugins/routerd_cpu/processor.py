"""What the processor is and can do, as the operating system tells it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from routerd.types import Device, Scalar

#: Instruction sets worth showing. Linux names those of x86 and of ARM differently from macOS.
_X86_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
_ARM_FEATURES = ("asimd", "sve", "sve2", "sme", "bf16", "i8mm")
_MACOS_FEATURES = ("FEAT_BF16", "FEAT_I8MM", "FEAT_SME", "FEAT_SME2")

#: Any of these means that products of bfloat16 matrices run on a unit made for them.
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16", "FEAT_BF16")

_SYSCTL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor's model name, and those of its instruction sets that matter to matrix products."""

    name: str
    features: tuple[str, ...]

    @property
    def has_bfloat16(self) -> bool:
        return any(feature in BFLOAT16_FEATURES for feature in self.features)


def read_processor() -> Processor:
    """The processor of this machine; what the operating system does not tell is left out."""
    if sys.platform == "darwin":
        return parse_sysctl(
            _sysctl("machdep.cpu.brand_string", *(f"hw.optional.arm.{name}" for name in _MACOS_FEATURES))
        )
    cpuinfo = Path("/proc/cpuinfo")
    return parse_cpuinfo(cpuinfo.read_text() if cpuinfo.exists() else "")


def parse_cpuinfo(text: str) -> Processor:
    """Linux's ``/proc/cpuinfo``, of which the first processor is read."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    flags = set((entries.get("flags") or entries.get("Features") or "").split())
    return Processor(
        entries.get("model name") or _generic_name(),
        tuple(name for name in _X86_FEATURES + _ARM_FEATURES if name in flags),
    )


def parse_sysctl(text: str) -> Processor:
    """macOS's ``sysctl``, in lines such as ``hw.optional.arm.FEAT_BF16: 1``."""
    entries = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    features = tuple(name for name in _MACOS_FEATURES if entries.get(f"hw.optional.arm.{name}") == "1")
    return Processor(entries.get("machdep.cpu.brand_string") or _generic_name(), features)


def available_threads() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(processor: Processor, *, threads: int, **versions: str) -> Device:
    """The processor as a device: cores are physical, ``threads`` is how many a backend uses."""
    import psutil

    detail: dict[str, Scalar] = {
        "cores": psutil.cpu_count(logical=False) or available_threads(),
        "threads": threads,
        "features": " ".join(processor.features),
        **versions,
    }
    return Device(kind="cpu", name=processor.name, memory_bytes=psutil.virtual_memory().total, detail=detail)


def _sysctl(*names: str) -> str:
    """``sysctl``'s output; it prints the names it knows and complains about the others, which are then absent."""
    try:
        ran = subprocess.run(
            ["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=_SYSCTL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # a sandbox may forbid it; the processor is then described by its architecture alone
    return ran.stdout


def _generic_name() -> str:
    return platform.processor() or platform.machine() or "processor"
