"""MLX on one device (``cpu`` or ``gpu``): the same kernels on Apple's GPU, and on Linux for proof."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from routerd.namespaces.execution import NO_CORE_ML

_NO_FLOAT64 = (
    "MLX computes in float32 (it has no float64 on a GPU, and on a CPU some of its functions round to float32)"
)
_MAX_LANES = 1024


class MlxNamespace:
    """MLX in float32.

    MLX evaluates lazily and never writes in place: an update such as ``x += 1`` gives a new array, so a kernel that relies
    on one name seeing what was done through another would differ here. It is proved like every other.

    With ``adopt``, input that needs no rounding and starts on a memory page is used where it lies, if the device can: only
    Apple's GPU does.
    """

    name = "mlx"

    def __init__(self, device: str = "gpu", *, adopt: bool = False) -> None:
        import mlx.core as mx

        self._mx = mx
        self._adopt = adopt
        self._device = mx.Device(mx.gpu if device == "gpu" else mx.cpu)
        mx.set_default_device(self._device)  # lazy arrays remember the stream that they were made on
        self.xp: Any = _ArrayApi(mx)
        self.real: Any = mx.float32
        self.integer: Any = mx.int64
        self.block = 2**16 if device == "cpu" else 2**22
        self.lacks: Mapping[str, str] = {
            "float64": _NO_FLOAT64,
            "torch_module": "MLX cannot run it; a backend of torch can",
            "core_ml": NO_CORE_ML,
        }

    def asarray(self, values: Any) -> Any:
        if isinstance(values, self._mx.array):
            return values.astype(self.real)
        return self.from_host(np.asarray(values, dtype=np.float64))

    def arange(self, start: int, stop: int) -> Any:
        return self._mx.arange(start, stop, dtype=self.integer)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self._mx.zeros(shape, dtype=self.real)

    def matmul(self, left: Any, right: Any, *, into: str | None = None) -> Any:
        del into  # results are copied to the host anyway
        return self._mx.matmul(left, right)

    def sum_by(self, values: Any, groups: Any, count: int) -> Any:
        # MLX adds one element after another, in float32: lanes keep the sums of long groups short, and threads apart.
        lanes = max(1, min(_MAX_LANES, values.shape[0] // (4 * count)))
        cells = groups.astype(self.integer) * lanes + self.arange(0, values.shape[0]) % lanes
        sums = self._mx.zeros((count * lanes,), dtype=self.real).at[cells].add(values)
        return self._mx.sum(self._mx.reshape(sums, (count, lanes)), axis=1)

    def max_by(self, values: Any, groups: Any, count: int) -> Any:
        # Metal scatters nothing that is 8 bytes wide; memory is shared, so the processor does it.
        with self._mx.stream(self._mx.cpu):
            return self._mx.full((count,), -1, dtype=self.integer).at[groups].maximum(values)

    def from_host(self, array: Any) -> Any:
        host = np.asarray(array)
        if host.dtype.kind == "f":
            # Rounded on the host: an array of float64 must not reach a GPU.
            host = host.astype(np.float32, copy=False)
        host = np.asarray(host, order="C")
        if self._adopt and host.nbytes and host.ctypes.data % mmap.PAGESIZE == 0:
            return self._mx.asarray(host, copy=None)  # None: MLX copies where the device cannot adopt
        return self._mx.array(host)

    def to_host(self, array: Any, *, out: Any = None) -> np.ndarray[Any, Any]:
        host = np.array(array, copy=False)
        wanted = np.dtype(np.float64) if host.dtype.kind == "f" else host.dtype
        if out is not None and out.dtype == wanted and out.shape == host.shape:
            np.copyto(out, host)
            return np.asarray(out)
        return host.astype(wanted)  # a copy always: MLX may use the buffer again

    def synchronize(self) -> None:
        self._mx.synchronize()


class _ArrayApi:
    """``mlx.core`` under the names and with the arguments of the array API standard, where the two differ."""

    def __init__(self, mx: Any) -> None:
        self._mx = mx
        self.bool = mx.bool_

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._mx, name)
        setattr(self, name, found)  # the next look-up finds it without coming here
        return found

    def argsort(self, x: Any, *, axis: int = -1, stable: bool = True) -> Any:
        """MLX sorts by merging, which keeps the order of equal elements, so ``stable`` is always granted."""
        del stable
        return self._mx.argsort(x, axis=axis).astype(self._mx.int64)

    def astype(self, x: Any, dtype: Any) -> Any:
        return x.astype(dtype)

    def cumulative_sum(self, x: Any, *, axis: int = -1) -> Any:
        return self._mx.cumsum(x, axis=axis)
