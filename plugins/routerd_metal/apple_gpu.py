"""What the Mac's GPU is and how busy it is, as macOS tells it; and what a worker must set before it touches the GPU."""

from __future__ import annotations

import platform
import plistlib
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from xml.parsers.expat import ExpatError

from routerd.types import Scalar

#: One entry per accelerator, with its statistics; -r -d 1 keeps the registry below it out, which is far larger.
IOREG = ("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator", "-a")
SYSCTL = ("/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.memsize", "iogpu.wired_limit_mb")

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class AppleGpu:
    """The GPU of a Mac: the chip it is part of, how many cores it has (0: not told), and the version of macOS."""

    chip: str
    cores: int
    macos: str


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the GPU is (0 to 1) and how many bytes of memory it holds for all processes; ``None``: not told."""

    utilisation: float | None
    used_bytes: int | None


def prepare_environment(environ: MutableMapping[str, str], macos: str) -> None:
    """Set what the frameworks read when they are imported; what the user has set stays.

    An operation that torch cannot do on the GPU is to be an error that proof sees, not a silent run on the processor. MLX
    waits for the GPU by spinning on shared memory, which needs macOS 15.
    """
    environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "0")
    if major_version(macos) >= 15:
        environ.setdefault("MLX_METAL_FAST_SYNCH", "1")


def major_version(macos: str) -> int:
    """15 of ``15.3.1``; 0 where there is none."""
    major = macos.partition(".")[0]
    return int(major) if major.isdigit() else 0


@cache
def read_gpu() -> AppleGpu:
    """The GPU of this Mac. Asked once per process, before a framework opens the GPU."""
    return describe_gpu(ask(SYSCTL).decode(), ask(IOREG), platform.mac_ver()[0])


def describe_gpu(sysctl: str, ioreg: bytes, macos: str) -> AppleGpu:
    """From the output of :data:`SYSCTL` and :data:`IOREG`. What they do not tell is taken from the machine's name, or 0."""
    entry = parse_ioreg(ioreg)
    chip = parse_sysctl(sysctl).get("machdep.cpu.brand_string") or entry.get("model") or "Apple GPU"
    cores = entry.get("gpu-core-count")
    return AppleGpu(str(chip), cores if isinstance(cores, int) else 0, macos)


def detail(gpu: AppleGpu, **more: Scalar) -> dict[str, Scalar]:
    """What a device says about itself beside its name."""
    cores: dict[str, Scalar] = {"gpu_cores": gpu.cores} if gpu.cores else {}
    return {**cores, "macos": gpu.macos, **more}


def parse_sysctl(text: str) -> dict[str, str]:
    """Lines such as ``hw.memsize: 137438953472``."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def wired_limit_bytes(sysctl: str) -> int:
    """What the administrator allows the GPU to hold; 0 where macOS decides."""
    limit = parse_sysctl(sysctl).get("iogpu.wired_limit_mb", "")
    return int(limit) * 2**20 if limit.isdigit() else 0


def parse_ioreg(plist: bytes) -> Mapping[str, Any]:
    """The first accelerator that tells its statistics; empty where there is none, or no property list at all."""
    try:
        entries = plistlib.loads(plist) if plist else []
    except (plistlib.InvalidFileException, ExpatError, ValueError):
        return {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and "PerformanceStatistics" in entry:
            return entry
    return {}


def parse_load(plist: bytes) -> Load:
    """The load in the output of :data:`IOREG`, whose ``Device Utilization %`` is a whole percentage."""
    statistics = parse_ioreg(plist).get("PerformanceStatistics", {})
    percent, used = statistics.get("Device Utilization %"), statistics.get("In use system memory")
    return Load(
        min(max(percent / 100.0, 0.0), 1.0) if isinstance(percent, int) else None,
        used if isinstance(used, int) and used >= 0 else None,
    )


def ask(command: Sequence[str]) -> bytes:
    """What a command prints; empty where a sandbox forbids it or it does not answer in time.

    Nothing is forked: a process that has opened the GPU must not, and with its descriptors left alone (they are closed on
    exec anyway) Python starts the command by ``posix_spawn``.
    """
    try:
        ran = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return ran.stdout


def this_machine() -> tuple[str, str]:
    """System and machine, as :func:`require_apple_gpu` takes them."""
    return sys.platform, platform.machine()
