"""Running computations down the rows of a series without a loop over the rows.

Series have shape (T, S), time down the rows. Temporaries are bounded: the work goes over blocks of rows that a cache
holds, and what the next block needs is carried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Namespace

if TYPE_CHECKING:
    import numpy as np

# Rows that one triangular product covers: long enough for a matrix unit, short enough that a half-empty triangle
# wastes little. The ends of the tiles are few, so there a longer tile costs less than one more level.
_TILE = 16
_UPPER_TILE = 64


def row_spans(
    namespace: Namespace, start: int, stop: int, columns: int, least: int = 4 * _TILE
) -> list[tuple[int, int]]:
    """Consecutive row ranges from ``start`` to ``stop`` of about two blocks each, but of ``least`` rows at least.

    All but the last are whole tiles.
    """
    step = -(-max(least, 2 * namespace.block // columns) // _TILE) * _TILE
    return [(row, min(row + step, stop)) for row in range(start, stop, step)]


def filled(namespace: Namespace, shape: tuple[int, int], blank: int, blocks: Iterable[Any]) -> Any:
    """An array of ``shape`` from blocks of rows, one below the other, under ``blank`` rows of NaN."""
    out = namespace.zeros(shape)
    out[:blank, :] = math.nan
    row = blank
    for block in blocks:
        out[row : row + block.shape[0], :] = block
        row += block.shape[0]
    return out


def joined(namespace: Namespace, blocks: list[Any]) -> Any:
    """The blocks, one below the other."""
    return blocks[0] if len(blocks) == 1 else namespace.xp.concat(blocks)


def smooth(namespace: Namespace, blocks: Iterable[Any], initial: Any, decay: float, weight: float) -> Iterator[Any]:
    """The recurrence yₜ = decay·yₜ₋₁ + weight·xₜ for 0 ≤ decay ≤ 1 and weight > 0: for each block of rows x its rows y.

    ``initial`` (S,) is y before the first row. The blocks are overwritten. A tile of rows is one product with a triangle of
    powers of ``decay``; what a tile starts from is put into its first row. The ends of the tiles obey the same recurrence
    with decay^tile and are scanned in the same way.
    Source: Blelloch (1990), Prefix Sums and Their Applications.
    """
    carry = initial
    for block in blocks:
        if block.shape[1] == 1:
            series = namespace.xp.reshape(block, (-1,))
            values = _smooth_one(namespace, series, carry, decay, weight)[:, None]
        else:
            values = _smooth_many(namespace, block, carry, decay, weight)
        carry = values[-1, :] + 0.0  # a copy: the caller may go on computing in the block
        yield values


def _smooth_one(namespace: Namespace, series: Any, before: Any, decay: float, weight: float) -> Any:
    """One series (rows,): a tile is a row of a matrix.

    The matrix goes in pieces, because a product so small stays in one thread of a CPU's library: waking another takes longer.
    """
    xp = namespace.xp
    rows = series.shape[0]
    piece = _TILE * _UPPER_TILE
    if rows % piece:
        series = xp.concat((series, namespace.zeros((piece - rows % piece,))))
    tiles = xp.reshape(series, (-1, _UPPER_TILE, _TILE))
    triangle = namespace.from_host(_triangle(decay, weight, _TILE))
    # Plain matmul here and below: a reduced-precision matrix unit has no business in a running sum.
    ends = _smooth_ends(namespace, xp.reshape(xp.matmul(tiles, triangle[:, -1]), (-1,)), before, decay**_TILE)
    starts = xp.reshape(xp.concat((before, ends[:-1])), (-1, _UPPER_TILE))
    tiles[:, :, 0] += (decay / weight) * starts
    return xp.reshape(xp.matmul(tiles, triangle), (-1,))[:rows]


def _smooth_ends(namespace: Namespace, series: Any, before: Any, decay: float) -> Any:
    """The ends of the tiles of one series: so few that longer tiles cost less than more levels."""
    xp = namespace.xp
    rows = series.shape[0]
    triangle = namespace.from_host(_triangle(decay, 1.0, _UPPER_TILE))
    if rows <= _UPPER_TILE:
        series[:1] += decay * before
        return xp.matmul(series, triangle[:rows, :rows])
    if rows % _UPPER_TILE:
        series = xp.concat((series, namespace.zeros((_UPPER_TILE - rows % _UPPER_TILE,))))
    tiles = xp.reshape(series, (-1, _UPPER_TILE))
    ends = _smooth_ends(namespace, xp.matmul(tiles, triangle[:, -1]), before, decay**_UPPER_TILE)
    tiles[:, 0] += decay * xp.concat((before, ends[:-1]))
    return xp.reshape(xp.matmul(tiles, triangle), (-1,))[:rows]


def _smooth_many(namespace: Namespace, series: Any, before: Any, decay: float, weight: float) -> Any:
    """Many series (rows, S): a tile is a matrix of its own."""
    xp = namespace.xp
    rows, columns = series.shape
    triangle = xp.permute_dims(namespace.from_host(_triangle(decay, weight, _TILE)), (1, 0))
    count = -(-rows // _TILE)
    if count == 1:
        series[0, :] += (decay / weight) * before
        return xp.matmul(triangle[:rows, :rows], series)
    if rows % _TILE:
        series = xp.concat((series, namespace.zeros((count * _TILE - rows, columns))))
    tiles = xp.reshape(series, (count, _TILE, columns))
    ends = xp.matmul(triangle[-1:, :], tiles[:-1, :, :])[:, 0, :]
    ends = _smooth_many(namespace, ends, before, decay**_TILE, 1.0)
    tiles[:, 0, :] += (decay / weight) * xp.concat((before[None, :], ends))
    return xp.reshape(xp.matmul(triangle, tiles), (count * _TILE, columns))[:rows, :]


@lru_cache(maxsize=256)
def _triangle(decay: float, weight: float, tile: int) -> np.ndarray[Any, Any]:
    """What row i of a tile adds to row j ≥ i of the result: weight·decay^(j − i)."""
    import numpy as np

    rows = np.arange(tile)
    return np.triu(weight * decay ** np.maximum(rows[None, :] - rows[:, None], 0).astype(np.float64))
