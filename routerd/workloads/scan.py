"""Running computations down the rows of a series without a loop over the rows.

Series have shape (T, S), time down the rows. Temporaries are bounded: the work goes over blocks of rows that a cache
holds, and what the next block needs is carried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from routerd.interfaces import Namespace

# Rows that one triangular product covers: long enough for a matrix unit, short enough that a half-empty triangle
# wastes little.
_TILE = 16


def row_spans(namespace: Namespace, start: int, stop: int, columns: int, least: int = 1) -> list[tuple[int, int]]:
    """Consecutive row ranges from ``start`` to ``stop`` of a few cache blocks each, but of ``least`` rows at least."""
    step = max(least, 4 * namespace.block // columns)
    return [(row, min(row + step, stop)) for row in range(start, stop, step)]


def window_sums(namespace: Namespace, series: Any, length: int) -> Any:
    """Sums over every window of ``length`` rows: shape (T−length+1, S), for 1 ≤ length ≤ T.

    Windows of 1, 2, 4, … rows are built from two halves each, and ``length`` from its binary digits. So only the
    window's own rows are added, pairwise: nothing is subtracted, and a long series loses no precision.
    """
    rows, columns = series.shape
    spans = row_spans(namespace, 0, rows - length + 1, columns, 4 * length)
    return joined(namespace, [_window_sums(series[start : stop + length - 1, :], length) for start, stop in spans])


def smooth(namespace: Namespace, blocks: Iterable[Any], initial: Any, decay: float, weight: float) -> Iterator[Any]:
    """The recurrence yₜ = decay·yₜ₋₁ + weight·xₜ for 0 ≤ decay ≤ 1: for each block of rows x its rows y.

    ``initial`` (S,) is y before the first row. A tile of rows, with the value before it, is one product with a matrix of
    powers of ``decay``; the ends of the tiles obey the same recurrence with decay^tile and are scanned in the same way.
    Source: Blelloch (1990), Prefix Sums and Their Applications.
    """
    xp = namespace.xp
    levels: list[Any] = []
    carry = initial
    for block in blocks:
        while not levels or _TILE ** len(levels) < block.shape[0]:
            inner = decay ** (_TILE ** len(levels))
            levels.append(namespace.asarray(_tile_matrix(inner, 1.0 if levels else weight)))
        lanes = _smooth_lanes(namespace, xp.permute_dims(block, (1, 0)), carry, levels)
        carry = lanes[:, -1]
        yield xp.permute_dims(lanes, (1, 0))


def joined(namespace: Namespace, blocks: list[Any]) -> Any:
    """The blocks, one below the other."""
    return blocks[0] if len(blocks) == 1 else namespace.xp.concat(blocks)


def _window_sums(series: Any, length: int) -> Any:
    """Window sums of one block, which is never written to."""
    power, done, total = series, 0, None
    width = 1
    while True:
        if length & width:
            digit = power[done : done + series.shape[0] - length + 1, :]
            total = digit if total is None else total + digit
            done += width
        if done == length:
            return total
        power = power[:-width, :] + power[width:, :]
        width *= 2


def _smooth_lanes(namespace: Namespace, lanes: Any, initial: Any, levels: list[Any]) -> Any:
    """The recurrence along the last axis of ``(S, rows)``; ``levels`` holds a tile matrix for each power of the tile."""
    xp, matrix = namespace.xp, levels[0]
    columns, rows = lanes.shape
    tiles = -(-rows // _TILE)
    if rows % _TILE:
        lanes = xp.concat((lanes, namespace.zeros((columns, tiles * _TILE - rows))), axis=1)
    lanes = xp.reshape(lanes, (columns, tiles, _TILE))
    before = initial[:, None]
    if tiles > 1:
        # Plain matmul here and below: a reduced-precision matrix unit has no business in a running sum.
        ends = xp.matmul(lanes[:, :-1, :], matrix[1:, -1])
        before = xp.concat((before, _smooth_lanes(namespace, ends, initial, levels[1:])), axis=1)
    lanes = xp.concat((before[:, :, None], lanes), axis=2)
    lanes = xp.matmul(xp.reshape(lanes, (columns * tiles, _TILE + 1)), matrix)
    return xp.reshape(lanes, (columns, tiles * _TILE))[:, :rows]


def _tile_matrix(decay: float, weight: float) -> list[list[float]]:
    """Row 0 weighs the value before a tile in each of its results, row i + 1 the tile's row i."""
    before = [decay ** (column + 1) for column in range(_TILE)]
    inside = [
        [weight * decay ** (column - row) if column >= row else 0.0 for column in range(_TILE)] for row in range(_TILE)
    ]
    return [before, *inside]
