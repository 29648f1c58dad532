"""Comparing large arrays: ``pytest.approx`` takes some ten microseconds for each element."""

from __future__ import annotations

from typing import Any

import numpy as np


class near:  # noqa: N801 - read as a function, as pytest.approx is
    """``assert array == near(expected, …)`` with the meaning and the defaults of ``pytest.approx``.

    Shapes must be equal; each element may differ by the larger of ``rel`` of what is expected and ``abs``. Infinities must be
    the same, and NaN is equal to NaN only with ``nan_ok``.
    """

    __array_ufunc__ = None  # so that NumPy leaves the comparison to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float = 1e-6, abs: float = 1e-12, nan_ok: bool = False) -> None:
        self._expected = np.asarray(expected, dtype=np.float64)
        self._rel, self._abs, self._nan_ok = rel, abs, nan_ok
        self._wrong = ""

    def __eq__(self, actual: object) -> bool:
        found, expected = np.asarray(actual, dtype=np.float64), self._expected
        if found.shape != expected.shape:
            self._wrong = f"the shape is {found.shape}, expected {expected.shape}"
            return False
        with np.errstate(invalid="ignore"):
            right = np.abs(found - expected) <= np.maximum(self._rel * np.abs(expected), self._abs)
        right = (right & np.isfinite(expected)) | (found == expected)
        if self._nan_ok:
            right |= np.isnan(found) & np.isnan(expected)
        if right.all():
            return True
        first = tuple(int(number) for number in np.argwhere(~right)[0])
        self._wrong = (
            f"{np.count_nonzero(~right)} of {right.size} elements are not; the first: {found[first]!r} at {first}, "
            f"expected {expected[first]!r}"
        )
        return False

    def __repr__(self) -> str:
        return f"near(rel={self._rel:g}, abs={self._abs:g}) <{self._wrong or 'not compared'}>"
