"""torch's namespace on a card: arrays travel through page-locked memory, and sums come out the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np

from routerd.namespaces.torch import TorchNamespace
from routerd_cuda.staging import Staging

_MAX_LANES = 1024


class CudaNamespace(TorchNamespace):
    """The operations of torch whose result on a card depends on the order in which threads come by are replaced.

    Those are sums over groups (atomic additions) and running sums of floating numbers (a scan that looks back at whatever its
    neighbours have finished). Sorting, maxima over groups, whole-number sums and products are the same every time as they are.
    """

    def __init__(
        self, device: str = "cuda:0", precision: str = "float32", product_precision: str | None = None
    ) -> None:
        super().__init__(device, precision, product_precision)
        self.xp = _ArrayApi(self.xp)
        self._staging = Staging(self._torch, self.device)

    def sum_by(self, values: Any, groups: Any, count: int) -> Any:
        # Adding by index sorts the indices first, and then adds up those of one cell one after another: lanes keep that short.
        rows = values.shape[0]
        lanes = max(1, min(_MAX_LANES, rows // (4 * count)))
        cells = groups.to(self.integer) * lanes + self.arange(0, rows) % lanes
        sums = self._torch.zeros(count * lanes, dtype=self._torch.float64, device=self.device)
        sums.index_put_((cells,), values.to(sums.dtype), accumulate=True)
        return sums.reshape(count, lanes).sum(1).to(self.real)

    def from_host(self, array: Any) -> Any:
        host = self._torch.from_numpy(np.asarray(array, order="C"))
        return self._staging.to_device(host, self.real if host.dtype.is_floating_point else host.dtype)

    def to_host(self, array: Any, *, out: Any = None) -> np.ndarray[Any, Any]:
        wanted = self._torch.float64 if array.dtype.is_floating_point else array.dtype
        host = self._buffer(out, tuple(array.shape), wanted)
        if host is not None:
            self._staging.to_host(array.detach(), host)
            return np.asarray(out)
        host = self._torch.empty(tuple(array.shape), dtype=wanted)
        self._staging.to_host(array.detach(), host)
        return np.asarray(host.numpy())

    def release(self) -> None:
        """Give the page-locked buffers back."""
        self._staging.release()

    def _buffer(self, out: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """``out`` as a tensor, where it fits."""
        if out is None or out.shape != shape or not out.flags.c_contiguous:
            return None
        host = self._torch.from_numpy(out)
        return host if host.dtype == dtype else None


class _ArrayApi:
    """An array API namespace with a running sum of its own."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._xp, name)
        setattr(self, name, found)  # the next look-up finds it without coming here
        return found

    def cumulative_sum(self, x: Any, *, axis: int = -1) -> Any:
        """Floating numbers are added in a fixed order: each element the one 1, then 2, 4, 8 … before it.

        Source: Hillis and Steele (1986), Data Parallel Algorithms.
        """
        if not x.dtype.is_floating_point:
            return self._xp.cumulative_sum(x, axis=axis)
        sums, length, reach = x, x.shape[axis], 1
        while reach < length:
            rest = length - reach
            added = sums.narrow(axis, reach, rest) + sums.narrow(axis, 0, rest)
            sums = self._xp.concat((sums.narrow(axis, 0, reach), added), axis=axis)
            reach *= 2
        return sums.clone() if sums is x else sums
