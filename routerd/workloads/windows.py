"""Sums and scatters over every window of a series, from the window's own rows alone.

Series have shape (T, S), time down the rows. A window is put together from two or three equal parts, or from one row and
the rest, so what any two windows share is computed once and a window costs the logarithm of its length. Nothing is ever
taken out of a sum: a long series loses no precision, and a price that was huge leaves no trace.
"""

from __future__ import annotations

from typing import Any

from routerd.interfaces import Namespace


def window_spans(namespace: Namespace, rows: int, columns: int, length: int) -> list[tuple[int, int]]:
    """Ranges of about a block each of the T−length+1 windows; range (start, stop) needs the rows start…stop+length−2.

    Neighbouring ranges share length−1 rows, so a range is several windows long.
    """
    windows = rows - length + 1
    step = max(4 * length, namespace.block // columns)
    return [(start, min(start + step, windows)) for start in range(0, windows, step)]


def window_sums(series: Any, length: int) -> Any:
    """Sums over every window of ``length`` rows: shape (T−length+1, S), for 1 ≤ length ≤ T.

    The sums of windows of one row are the series itself.
    """
    return _sums(series, length, 1)


def window_moved(namespace: Namespace, series: Any, length: int) -> Any:
    """Whether the rows of each window of ``length`` ≥ 2 differ at all: booleans (T−length+1, S). Equality is exact."""
    xp = namespace.xp
    moved = series[1:, :] != series[:-1, :]
    covered = 1
    while covered < length - 1:
        shift = min(covered, length - 1 - covered)
        moved = xp.logical_or(moved[:-shift, :], moved[shift:, :])
        covered += shift
    return moved


def _sums(sums: Any, count: int, stride: int) -> Any:
    """Sums over ``count`` rows that are ``stride`` apart."""
    if count == 1:
        return sums
    if count % 2 == 0:
        return _sums(sums[:-stride, :] + sums[stride:, :], count // 2, 2 * stride)
    if count % 3 == 0:
        triples = sums[: -2 * stride, :] + sums[stride:-stride, :]
        triples += sums[2 * stride :, :]
        return _sums(triples, count // 3, 3 * stride)
    rest = _sums(sums, count - 1, stride)
    rest = rest[stride:, :]
    rest += sums[: rest.shape[0], :]
    return rest


def window_moments(series: Any, length: int) -> tuple[Any, Any]:
    """Sums S and scatters over every window of ``length`` rows, each (T−length+1, S).

    A scatter is length·Σ(x − mean)², a sum of squares of differences between parts of the window: never negative, and as
    exact for prices of a million as for their changes. The variance is scatter/length².

    Source: Chan, Golub, LeVeque (1983), Algorithms for Computing the Sample Variance, The American Statistician 37(3).
    """
    sums, scatter = _moments(series, None, length, 1)
    return sums, series * 0.0 if scatter is None else scatter


def _moments(sums: Any, scatter: Any, count: int, stride: int) -> tuple[Any, Any]:
    """Moments over ``count`` parts that are ``stride`` rows apart; no scatter is a scatter of zero."""
    if count == 1:
        return sums, scatter
    if count % 2 == 0:
        pairs = sums[:-stride, :] - sums[stride:, :]
        pairs *= pairs
        if scatter is not None:
            inner = scatter[:-stride, :] + scatter[stride:, :]
            inner *= 2.0
            pairs += inner
        return _moments(sums[:-stride, :] + sums[stride:, :], pairs, count // 2, 2 * stride)
    rest_sums, rest = _moments(sums, scatter, count - 1, stride)
    rest_sums, rest = rest_sums[stride:, :], rest[stride:, :]
    rows = rest.shape[0]
    between = sums[:rows, :] * (count - 1.0)
    between -= rest_sums
    between *= between
    between *= 1.0 / (count - 1.0)
    rest *= count / (count - 1.0)
    rest += between
    if scatter is not None:
        rest += scatter[:rows, :] * float(count)
    rest_sums += sums[:rows, :]
    return rest_sums, rest
