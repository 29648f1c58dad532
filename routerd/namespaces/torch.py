"""torch on one device (``cpu``, ``mps`` or ``cuda``) in one precision: the same kernels on every torch device."""

from __future__ import annotations

from typing import Any

import numpy as np


class TorchNamespace:
    """torch through array-api-compat.

    ``precision`` is the floating dtype of arrays (``float32``, ``float64``); ``product_precision`` may be lower
    (``bfloat16``): then matrix products round their operands to it and accumulate in float32 on the matrix unit.
    """

    name = "torch"

    def __init__(self, device: str = "cpu", precision: str = "float32", product_precision: str | None = None) -> None:
        import array_api_compat.torch as xp
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._product = getattr(torch, product_precision) if product_precision else None
        self.xp: Any = xp
        self.real: Any = getattr(torch, precision)
        self.integer: Any = torch.int64

    def asarray(self, values: Any) -> Any:
        return self._torch.asarray(values, dtype=self.real, device=self._device)

    def arange(self, start: int, stop: int) -> Any:
        return self._torch.arange(start, stop, dtype=self.integer, device=self._device)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self._torch.zeros(shape, dtype=self.real, device=self._device)

    def matmul(self, left: Any, right: Any, *, into: str | None = None) -> Any:
        del into  # the result leaves the device in another precision, so it is never written in place
        if self._product is None:
            return self._torch.matmul(left, right)
        return self._torch.matmul(left.to(self._product), right.to(self._product)).to(self.real)

    def from_host(self, array: Any) -> Any:
        # Client memory is mapped read-only; torch warns about such memory although nothing here writes to it.
        if array.dtype.kind == "f":
            source = np.asarray(array, dtype=np.float32) if self.real == self._torch.float32 else array
        else:
            source = array
        if not source.flags.writeable:
            source = source.copy()
        return self._torch.from_numpy(np.ascontiguousarray(source)).to(self._device)

    def to_host(self, array: Any) -> np.ndarray[Any, Any]:
        host = array.detach().to("cpu")
        if host.dtype.is_floating_point:
            host = host.to(self._torch.float64)
        return np.asarray(host.numpy())

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            self._torch.mps.synchronize()
