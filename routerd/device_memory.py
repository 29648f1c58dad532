"""Whether a task fits into the memory that is free on a device, and into how many pieces it is cut where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from routerd.interfaces import Workload
from routerd.routing.ground import FITS_BYTES, Fit
from routerd.types import Task
from routerd.worker.fleet import BackendState, Fleet

#: Bytes free on a device kind as a sensor reads them, or ``None``.
FreeBytes = Callable[[str], float | None]

#: Device kinds with memory of their own, or a share of the machine's that they may take.
LIMITED_KINDS: Final = ("metal_gpu", "cuda_gpu", "neural_engine")

_MOST_PIECES = 64
_CERTAIN = 1 / 32  # of a device: however full it is, so much can as a rule be had, and if not, the task falls back
_USABLE = 0.9  # of what is free: the rest is lost between allocations
_EVERYTHING: Mapping[str, Fit] = {}


class DeviceMemory:
    """Compares what tasks need with what devices have.

    A task needs its bytes times what its kernel was seen to need on that backend for each byte of a task.
    """

    def __init__(self, fleet: Fleet, free_bytes: FreeBytes) -> None:
        self._fleet = fleet
        self._free_bytes = free_bytes

    def certain_bytes(self) -> float:
        """Up to this size tasks are taken to fit everywhere: only what is larger depends on the memory that is free."""
        return min((self._certain_bytes(one) for one in self._fleet.backends.values()), default=math.inf)

    def matters(self, task: Task) -> bool:
        """Whether where such a task may run depends on the memory that is free at the moment."""
        return task.nbytes > FITS_BYTES and task.nbytes > self.certain_bytes()

    def fits(self, task: Task) -> Mapping[str, Fit]:
        """By backend, what does not fit there as a whole. Backends that it fits into are left out."""
        if task.nbytes <= FITS_BYTES:
            return _EVERYTHING
        workload = self._fleet.workloads[task.workload]
        found = {}
        for name, backend in self._fleet.backends.items():
            pair = backend.pairs.get(task.workload)
            if pair is None or task.nbytes <= self._certain_bytes(backend):
                continue
            need, room = task.nbytes * pair.footprint, self._room(backend)
            if need > room:
                found[name] = _fit(workload, need, room)
        return found

    def _certain_bytes(self, backend: BackendState) -> float:
        if backend.spec.device_kind not in LIMITED_KINDS or backend.state != "ready":
            return math.inf
        if backend.device is not None and backend.device.memory_bytes is not None:
            return max(backend.device.memory_bytes * _CERTAIN, FITS_BYTES)
        return math.inf if self._free_bytes(backend.spec.device_kind) is None else FITS_BYTES

    def _room(self, backend: BackendState) -> float:
        free = self._free_bytes(backend.spec.device_kind)
        most = backend.device.memory_bytes if backend.device is not None else None
        room = math.inf if free is None else free + backend.held_bytes
        return _USABLE * min(room, math.inf if most is None else most)


def _fit(workload: Workload, need: float, room: float) -> Fit:
    words = f"needs about {_size(need)} of the device's memory, of which {_size(room)} can be had"
    if workload.split is None:
        return Fit(0, f"{words}, and {workload.name} does not split")
    pieces = math.ceil(need / room) if room > 0.0 else _MOST_PIECES + 1
    if pieces > _MOST_PIECES:
        return Fit(0, f"{words}: more than {_MOST_PIECES} pieces would be too many")
    return Fit(pieces, f"{words}: in {pieces} pieces")


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000.0:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:.3g} TB"
