"""Paths of geometric Brownian motion in tiles of steps, walked forwards or bridged between points that are given.

A tile is a product of a small matrix with the sources of many paths: a matrix unit sums faster than a running sum does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.interfaces import Namespace
from routerd.workloads.low_discrepancy import DIMENSIONS
from routerd.workloads.options.average import Average
from routerd.workloads.randomness import LANES, step_normals

if TYPE_CHECKING:
    import numpy as np

    Host = np.ndarray[Any, Any]

#: About how many steps a tile has.
TILE = 16


class Tile(NamedTuple):
    """How consecutive steps of the log asset come from their sources.

    Its sources, (k, P) for P paths, are normal numbers of the steps, the motion at some points, and ones. Of them ``asset``
    (rows, k) makes the log asset, ``level`` (1, k) what the steps add to the level, and ``tilted`` (rows, k + 2) the log
    asset where two more sources are a change of the level and the logarithm of the path's weight.
    """

    steps: range
    asset: Any
    level: Any
    tilted: Any


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """How few quasi-random numbers make the large moves of a Brownian motion, and pseudo-random ones the small moves.

    Attributes:
        stride: steps between two skeleton points, beginning at step 0; the last one is the last step.
        factor: (m, m), makes the motion at the skeleton points, in step deviations, from m standard normal numbers. The
            first number moves the average most that one number can; the rest are principal components of what it leaves.
    """

    stride: int
    factor: Host


@lru_cache(maxsize=16)
def skeleton(steps: int) -> Skeleton:
    """The skeleton of a motion of so many steps.

    For the average a Brownian bridge, principal components and this do equally well; but the motion's mean being a number
    of its own is what lets the control variate sample it apart.

    Source: Imai, Tan (2006), A General Dimension Reduction Technique for Derivative Pricing, Journal of Computational
    Finance 10(2), for the first column; Acworth, Broadie, Glasserman (1998) for the principal components.
    """
    import numpy as np

    # One dimension is for the level or for what the first number cannot move.
    stride = -(-steps // (DIMENSIONS - 1))
    points = np.minimum(stride * np.arange(1, -(-steps // stride) + 1), steps)
    covariance = np.minimum.outer(points, points).astype(float)
    # Between two points the motion is, in the mean, a straight line.
    lengths = np.diff(points, prepend=0)
    weights = 0.5 * (lengths + 1.0)
    weights[:-1] += 0.5 * (lengths[1:] - 1.0)
    first = covariance @ weights
    first /= math.sqrt(float(weights @ first))
    values, vectors = np.linalg.eigh(covariance - np.outer(first, first))
    rest = vectors[:, :0:-1] * np.sqrt(np.maximum(values[:0:-1], 0.0))
    return Skeleton(stride, np.column_stack((first, rest)))


def walk_tiles(namespace: Namespace, average: Average) -> list[Tile]:
    """All steps in tiles whose sources are their normal numbers and the motion before them."""
    import numpy as np

    def motion(rows: int) -> tuple[Host, Host]:
        return np.tril(np.ones((rows, rows))), np.ones((rows, 1))

    return _tiles(namespace, average, TILE, motion)


def bridge_tiles(namespace: Namespace, average: Average) -> list[Tile]:
    """All steps in tiles whose sources are their normal numbers and the motion at the skeleton points around them.

    With a skeleton point at every step, no normal numbers are among them.
    """
    import numpy as np

    stride = skeleton(average.steps).stride

    def motion(rows: int) -> tuple[Host, Host]:
        moves = np.zeros((rows, rows if stride > 1 else 0))
        ends = np.zeros((rows, -(-rows // stride) + 1))
        for number, start in enumerate(range(0, rows, stride)):
            inside = slice(start, min(start + stride, rows))
            size = inside.stop - start
            reached = np.arange(1, size + 1) / size
            ends[inside, number], ends[inside, number + 1] = 1.0 - reached, reached
            if stride > 1:
                # A bridge is a walk less the straight line to its end.
                moves[inside, inside] = np.tril(np.ones((size, size))) - reached[:, None]
        return moves, ends

    return _tiles(namespace, average, stride * max(1, TILE // stride), motion)


def walk(namespace: Namespace, tiles: list[Tile], deviation: float, seed: int, start: int, stop: int) -> Iterator[Any]:
    """The sources of each walk tile for the paths of the counters ``start…stop−1``; ``deviation`` is a step's."""
    xp = namespace.xp
    before = namespace.zeros((1, LANES * (stop - start)))
    ones = before + 1.0
    for normal in _tile_normals(namespace, tiles, seed, start, stop):
        yield xp.concat((normal, before, ones))
        before = before + deviation * xp.sum(normal, axis=0)[None, :]


def bridge(
    namespace: Namespace, tiles: list[Tile], seed: int, counters: tuple[int, int], motion: Any, stride: int
) -> Iterator[Any]:
    """The sources of each bridge tile, of motion (m, P) at the skeleton points and the counters of the P paths."""
    xp = namespace.xp
    start = namespace.zeros((1, motion.shape[1]))
    ones = start + 1.0
    motion = xp.concat((start, motion))
    ends = [
        xp.concat((motion[tile.steps.start // stride : -(-tile.steps.stop // stride) + 1, :], ones)) for tile in tiles
    ]
    if stride == 1:
        yield from ends
    else:
        for normal, around in zip(_tile_normals(namespace, tiles, seed, *counters), ends, strict=True):
            yield xp.concat((normal, around))


def _tile_normals(namespace: Namespace, tiles: list[Tile], seed: int, start: int, stop: int) -> Iterator[Any]:
    """The normal numbers of each tile's steps for the counters ``start…stop−1``, made for as many tiles as fill a block."""
    together = max(1, namespace.block // (LANES * (stop - start) * len(tiles[0].steps)))
    for number in range(0, len(tiles), together):
        group = tiles[number : number + together]
        first = group[0].steps.start
        normal = step_normals(namespace, seed, start, stop, range(first, group[-1].steps.stop))
        for tile in group:
            yield normal[tile.steps.start - first : tile.steps.stop - first, :]


def _tiles(
    namespace: Namespace, average: Average, length: int, motion: Callable[[int], tuple[Host, Host]]
) -> list[Tile]:
    """All steps in tiles of ``length``, the last one shorter.

    ``motion`` gives for a number of rows how they come from normal numbers, in step deviations, and from given points.
    """
    import numpy as np

    tiles = []
    made: dict[int, tuple[Host, Any]] = {}
    for first in range(0, average.steps, length):
        steps = range(first, min(first + length, average.steps))
        if len(steps) not in made:
            moves, ends = motion(len(steps))
            matrix = np.hstack((average.deviation * moves, ends))
            level = np.append(matrix.sum(axis=0) / (average.steps * average.spread), 0.0)
            made[len(steps)] = matrix, namespace.asarray(level[None, :])
        matrix, level = made[len(steps)]
        inside = slice(steps.start, steps.stop)
        ones = np.ones(len(steps))
        tilted = namespace.asarray(np.column_stack((matrix, average.drift[inside], average.loading[inside], ones)))
        tiles.append(Tile(steps, tilted[:, :-2], level, tilted))
    return tiles
