"""NumPy in float64: the contract, and the namespace that is always there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from routerd.interfaces import HostArrays
from routerd.namespaces.execution import NO_CORE_ML


class NumpyNamespace:
    """NumPy on the host. ``into`` holds writable buffers for outputs that a kernel may fill in place."""

    name = "numpy"
    xp: Any = np
    real: Any = np.float64
    integer: Any = np.int64
    block = 2**14
    lacks: Mapping[str, str] = MappingProxyType(
        {"torch_module": "NumPy cannot run it; a backend of torch can", "core_ml": NO_CORE_ML}
    )

    def __init__(self, into: HostArrays | None = None) -> None:
        self._into = into or {}

    def asarray(self, values: Any) -> np.ndarray[Any, Any]:
        return np.asarray(values, dtype=self.real)

    def arange(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return np.arange(start, stop, dtype=self.integer)

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.zeros(shape, dtype=self.real)

    def matmul(self, left: Any, right: Any, *, into: str | None = None) -> np.ndarray[Any, Any]:
        return np.matmul(left, right, out=self._into.get(into) if into else None)

    def sum_by(self, values: Any, groups: Any, count: int) -> np.ndarray[Any, Any]:
        return np.bincount(groups, weights=values, minlength=count).astype(self.real, copy=False)

    def max_by(self, values: Any, groups: Any, count: int) -> np.ndarray[Any, Any]:
        greatest = np.full(count, -1, dtype=self.integer)
        np.maximum.at(greatest, groups, values)
        return greatest

    def from_host(self, array: Any) -> np.ndarray[Any, Any]:
        if array.dtype.kind == "f":
            return np.asarray(array, dtype=self.real)
        return np.asarray(array)

    def to_host(self, array: Any, *, out: Any = None) -> np.ndarray[Any, Any]:
        del out  # the result is on the host already: copying it here would save nobody a copy
        return np.asarray(array)

    def synchronize(self) -> None:
        """NumPy is done when it returns."""
