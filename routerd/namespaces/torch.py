"""torch on one device (``cpu``, ``mps`` or ``cuda``) in one precision: the same kernels on every torch device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from routerd.namespaces.execution import NO_CORE_ML


class TorchNamespace:
    """torch through array-api-compat.

    ``precision`` is the floating dtype of arrays (``float32``, ``float64``); ``product_precision`` may be lower
    (``bfloat16``): then matrix products round their operands and their result to it, and a matrix unit accumulates
    in float32 in between.
    """

    name = "torch"

    def __init__(self, device: str = "cpu", precision: str = "float32", product_precision: str | None = None) -> None:
        import array_api_compat.torch as xp
        import torch

        self._torch = torch
        self.device = torch.device(device)
        self._product = getattr(torch, product_precision) if product_precision else None
        self.xp: Any = xp
        self.real: Any = getattr(torch, precision)
        self.integer: Any = torch.int64
        self.block = 2**16 if self.device.type == "cpu" else 2**22
        lacks = {"core_ml": NO_CORE_ML}
        if precision != "float64":
            lacks["float64"] = f"torch computes in {precision} here"
        if product_precision is not None:
            lacks["torch_module"] = f"its products are its own and cannot be taken in {product_precision}"
        self.lacks: Mapping[str, str] = lacks
        _spend_read_only_warning(torch)

    def asarray(self, values: Any) -> Any:
        return self._torch.asarray(values, dtype=self.real).to(self.device)  # float64 must not reach mps

    def arange(self, start: int, stop: int) -> Any:
        return self._torch.arange(start, stop, dtype=self.integer, device=self.device)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self._torch.zeros(shape, dtype=self.real, device=self.device)

    def matmul(self, left: Any, right: Any, *, into: str | None = None) -> Any:
        del into  # the result leaves the device in another precision, so it is never written in place
        if self._product is None:
            return self._torch.matmul(left, right)
        return self._torch.matmul(left.to(self._product), right.to(self._product)).to(self.real)

    def sum_by(self, values: Any, groups: Any, count: int) -> Any:
        # Float32 sums over long groups are taken in float64 where the device has it.
        wide = self._torch.float64 if self.device.type != "mps" else self.real
        sums = self._torch.zeros(count, dtype=wide, device=self.device)
        return sums.index_add_(0, groups, values.to(wide)).to(self.real)

    def max_by(self, values: Any, groups: Any, count: int) -> Any:
        greatest = self._torch.full((count,), -1, dtype=self.integer, device=self.device)
        return greatest.scatter_reduce_(0, groups, values, "amax")

    def from_host(self, array: Any) -> Any:
        # Rounding on the host, before the transfer, halves what crosses the bus; mps has no float64 to round from.
        tensor = self._torch.from_numpy(np.asarray(array, order="C"))
        if tensor.dtype.is_floating_point:
            tensor = tensor.to(self.real)
        return tensor.to(self.device)

    def to_host(self, array: Any, *, out: Any = None) -> np.ndarray[Any, Any]:
        host = array.detach().to("cpu")
        wanted = np.dtype("float64") if host.dtype.is_floating_point else None
        if out is not None and out.dtype == wanted and out.shape == tuple(host.shape):
            self._torch.from_numpy(out).copy_(host)
            return np.asarray(out)
        if wanted is not None:
            host = host.to(self._torch.float64)
        return np.asarray(host.numpy())

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            self._torch.mps.synchronize()


def _spend_read_only_warning(torch: Any) -> None:
    """Let torch give its once-per-process warning about read-only memory where nobody sees it.

    Client memory is mapped read-only and tensors may alias it; kernels never write to their inputs, as the contract
    tests hold, so the warning has nothing to tell.
    """
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(array)
