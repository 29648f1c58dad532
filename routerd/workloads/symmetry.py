"""What every symmetric matrix that a client sends is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray

if TYPE_CHECKING:
    import numpy as np

# What rounding to float32 can do to two entries that were equal, with room for how they were computed.
_ASYMMETRY = 1e-6


def check_symmetric(workload: str, name: str, matrix: np.ndarray[Any, Any]) -> None:
    """Raises ``InvalidArray`` naming the pair of entries of ``matrix`` (N, N) that differ most, if rounding cannot be why."""
    import numpy as np

    gap = np.abs(matrix - matrix.T)
    if float(gap.max()) > _ASYMMETRY * float(np.abs(matrix).max()):
        row, column = (int(index) for index in np.unravel_index(int(np.argmax(gap)), gap.shape))
        raise InvalidArray(
            f"{workload}: {name} must be symmetric; {name}[{row}, {column}] is {matrix[row, column]:g} and "
            f"{name}[{column}, {row}] is {matrix[column, row]:g}; send ({name} + {name}.T)/2 if that is meant",
            array=name,
        )
