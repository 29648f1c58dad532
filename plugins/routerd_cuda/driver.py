"""Whether there is an NVIDIA driver here, found out without loading a framework, and which of its cards is used."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

from routerd.errors import Unavailable

_CUDA = "libcuda.so.1"
_NVML = "libnvidia-ml.so.1"
#: How a process reaches the driver's kernel part: on Linux, and on Linux inside Windows.
_CONTROL_NODES = ("/dev/nvidiactl", "/dev/dxg")


def driver_problem(
    load: Callable[[str], Any] = ctypes.CDLL, exists: Callable[[str], bool] = os.path.exists
) -> str | None:
    """Why CUDA cannot work here, in one line, or ``None``. Takes a millisecond where there is no driver."""
    node = control_node(exists)
    try:
        load(_CUDA)
    except OSError:
        if node is None:
            return f"no NVIDIA driver ({place()})"
        return (
            f"{node} is there, but the driver's library {_CUDA} is not ({place()}); "
            f"in a container, start it with access to the GPU (--gpus, or the NVIDIA runtime)"
        )
    if node is None:
        return (
            f"the driver's library {_CUDA} is there, but no card is: {_CONTROL_NODES[0]} is missing ({place()}); "
            f"load the kernel module, or give the container the device"
        )
    return None


def control_node(exists: Callable[[str], bool] = os.path.exists) -> str | None:
    """The device file through which processes reach the driver, if there is one."""
    return next((path for path in _CONTROL_NODES if exists(path)), None)


def load_nvml(load: Callable[[str], Any] = ctypes.CDLL) -> Any:
    """NVIDIA's management library, which comes with the driver. Raises ``Unavailable``."""
    try:
        return load(_NVML)
    except OSError as error:
        raise Unavailable(f"no NVIDIA driver ({place()}): {_NVML} cannot be loaded") from error


def visible_card(environ: Mapping[str, str]) -> int | str:
    """The first card that CUDA may use: its number in the order of the PCI bus, or its UUID.

    Raises ``Unavailable`` where ``CUDA_VISIBLE_DEVICES`` hides every card.
    """
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return 0
    first = given.partition(",")[0].strip()
    if first.isdecimal():
        return int(first)
    if first.startswith(("GPU-", "MIG-")):
        return first
    raise Unavailable(f"CUDA_VISIBLE_DEVICES={given!r} hides every card")


def place() -> str:
    """This kind of machine, as reasons name it."""
    return f"{sys.platform}/{platform.machine()}"
