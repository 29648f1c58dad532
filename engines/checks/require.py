"""How a check fails."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class WrongResult(Exception):
    """A result contradicts an independent calculation."""


def require(holds: bool | np.bool_, what: str) -> None:
    """Raise ``WrongResult`` unless it holds; ``what`` says what should."""
    if not holds:
        raise WrongResult(what)


def require_close(found: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float, what: str) -> None:
    """Raise ``WrongResult`` unless ‖found − expected‖ ≤ tolerance·‖expected‖, which NaN never is."""
    difference = float(np.linalg.norm(np.asarray(found, float) - expected))
    scale = float(np.linalg.norm(expected))
    if not difference <= tolerance * scale:
        raise WrongResult(f"{what} is off by {difference:.3g} where {scale:.6g} was expected")
