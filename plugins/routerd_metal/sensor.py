"""How busy the GPU is and what memory it may still take, read in the background so that nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import psutil

from routerd.types import Scalar
from routerd_metal import apple_gpu

_REFRESH_SECONDS = 2.0


class GpuSensor:
    """``hardware.metal_gpu.utilisation`` and ``hardware.metal_gpu.free_bytes``.

    ``read`` gives what was last heard, and has a thread ask again when that is two seconds old. The GPU uses the machine's
    memory: what is free for it is what is available at all, or what is left of the administrator's limit if that is less.
    """

    name = "metal_gpu"

    def __init__(
        self,
        *,
        ask: Callable[[tuple[str, ...]], bytes] = apple_gpu.ask,
        available_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._available_bytes = available_bytes
        self._clock = clock
        self._limit: int | None = None
        self._facts: Mapping[str, Scalar] = {}
        self._asked_at = -_REFRESH_SECONDS
        self._refreshing: threading.Thread | None = None

    def read(self) -> Mapping[str, Scalar]:
        """The last facts: none before the first answer, and none of what macOS does not tell."""
        under_way = self._refreshing is not None and self._refreshing.is_alive()
        if not under_way and self._clock() - self._asked_at >= _REFRESH_SECONDS:
            self._asked_at = self._clock()
            self._refreshing = threading.Thread(target=self._refresh, name="metal-gpu-sensor", daemon=True)
            self._refreshing.start()
        return self._facts

    def settle(self, seconds: float) -> None:
        """Wait until an answer that is under way has come."""
        if self._refreshing is not None:
            self._refreshing.join(seconds)

    def _refresh(self) -> None:
        if self._limit is None:
            self._limit = apple_gpu.wired_limit_bytes(self._ask(apple_gpu.SYSCTL).decode())
        load = apple_gpu.parse_load(self._ask(apple_gpu.IOREG))
        facts: dict[str, Scalar] = {}
        if load.utilisation is not None:
            facts["hardware.metal_gpu.utilisation"] = load.utilisation
        if load.used_bytes is not None:
            free = self._available_bytes()
            if self._limit:
                free = min(free, max(self._limit - load.used_bytes, 0))
            facts["hardware.metal_gpu.free_bytes"] = free
        self._facts = facts
