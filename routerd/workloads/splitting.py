"""How a task becomes several along a dimension, and their outputs one again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from routerd.interfaces import Example, HostArrays, Merge, Split


def boundaries(length: int, shares: Sequence[float], multiple: int = 1) -> list[tuple[int, int]]:
    """Consecutive ranges of 0…length in about these shares; empty ones are left out.

    Every boundary but the last is a multiple of ``multiple``.
    """
    total, reached = sum(shares), 0.0
    stops = []
    for share in shares:
        reached += share
        stops.append(min(length, multiple * round(length * reached / total / multiple)))
    stops[-1] = length
    starts = [0, *stops[:-1]]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def split_along(axes: Mapping[str, int]) -> Split:
    """Parts that hold a range of the inputs named in ``axes``, each along its axis; the others are passed whole."""

    def split(whole: Example, shares: Sequence[float]) -> list[Example]:
        name, axis = next(iter(axes.items()))
        return [
            Example(
                whole.params,
                {
                    **whole.arrays,
                    **{one: _range(whole.arrays[one], start, stop, along) for one, along in axes.items()},
                },
            )
            for start, stop in boundaries(whole.arrays[name].shape[axis], shares)
        ]

    return split


def merge_along(axes: Mapping[str, int]) -> Merge:
    """Every output joined along its axis, in the order of the parts."""

    def merge(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
        import numpy as np

        del whole
        return {name: np.concatenate([part[name] for part in parts], axis=axis) for name, axis in axes.items()}

    return merge


def _range(array: Any, start: int, stop: int, axis: int) -> Any:
    return array[(slice(None),) * axis + (slice(start, stop),)]
