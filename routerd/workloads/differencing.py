"""Fractional differencing of a series with a window of fixed width.

Source: López de Prado (2018), Advances in Financial Machine Learning, section 5.5; Hosking (1981), Fractional
Differencing, Biometrika 68(1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Namespace
from routerd.workloads.scan import joined

if TYPE_CHECKING:
    import numpy as np

# Rows of the result that one matrix product gives, and columns from which it is worth one: fewer are cut up and laid
# side by side. Measured against a sum over shifted series, Toeplitz blocks of other sizes and an FFT: for up to a
# thousand weights nothing else came within a factor of two.
_ROWS = 64
_COLUMNS = 16


@lru_cache(maxsize=64)
def difference_weights(order: float, threshold: float) -> tuple[float, ...]:
    """What the difference of this order multiplies a value and those before it by, as far as weights reach ``threshold``."""
    weights, weight = [1.0], 1.0
    while True:
        weight *= (len(weights) - 1.0 - order) / len(weights)
        if abs(weight) < threshold:
            return tuple(weights)
        weights.append(weight)


def fractional_difference(namespace: Namespace, series: Any, order: float, threshold: float) -> Any:
    """Σ weightₖ·xₜ₋ₖ for every row that has all the rows it needs: shape (T − weights + 1, S)."""
    xp = namespace.xp
    before = len(difference_weights(order, threshold)) - 1
    rows, columns = series.shape[0] - before, series.shape[1]
    wanted = max(1, _COLUMNS // columns)
    length = -(-rows // (wanted * _ROWS)) * _ROWS
    if length >= rows:
        return _difference(namespace, series, order, threshold)
    # The last piece ends with the series, so it repeats rows of the one before it.
    starts = [*range(0, rows - length, length), rows - length]
    pieces = [series[start : start + length + before, :] for start in starts]
    beside = _difference(namespace, xp.concat(pieces, axis=1), order, threshold)
    parts = [beside[:, index * columns : (index + 1) * columns] for index in range(len(starts))]
    return xp.concat([*parts[:-1], parts[-1][starts[-2] + length - starts[-1] :, :]])


def _difference(namespace: Namespace, series: Any, order: float, threshold: float) -> Any:
    matrix = namespace.from_host(_toeplitz(order, threshold))
    before = matrix.shape[1] - _ROWS
    rows = series.shape[0] - before
    blocks = []
    for start in range(0, rows, _ROWS):
        count = min(_ROWS, rows - start)
        # Plain matmul: most of a difference cancels, so a reduced-precision matrix unit would leave nothing of it.
        blocks.append(namespace.xp.matmul(matrix[:count, : count + before], series[start : start + count + before, :]))
    return joined(namespace, blocks)


@lru_cache(maxsize=8)
def _toeplitz(order: float, threshold: float) -> np.ndarray[Any, Any]:
    """Row i weighs the rows i…i + weights − 1 of a stretch, oldest first."""
    import numpy as np

    weights = np.array(difference_weights(order, threshold))[::-1]
    matrix = np.zeros((_ROWS, _ROWS + len(weights) - 1))
    for row in range(_ROWS):
        matrix[row, row : row + len(weights)] = weights
    return matrix
