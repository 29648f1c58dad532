"""Sobol points in namespace operations: the same bits on every device, any range of the sequence, without state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Namespace

if TYPE_CHECKING:
    import numpy as np

BITS = 32
# Digits of the table that longer ranges are put together from: 32 KiB for each dimension.
_TABLE_DIGITS = 12

# For each dimension after the first: the coefficients of a primitive polynomial over GF(2) as bits, highest power first,
# then the initial direction numbers m₁, m₂, …, one for each degree.
# Source: Joe, Kuo (2008), table new-joe-kuo-6.21201.
_INITIAL = (
    (3, 1),
    (7, 1, 3),
    (11, 1, 3, 1),
    (13, 1, 1, 1),
    (19, 1, 1, 3, 3),
    (25, 1, 3, 5, 13),
    (37, 1, 1, 5, 5, 17),
    (41, 1, 1, 5, 5, 5),
    (47, 1, 1, 7, 11, 19),
    (55, 1, 1, 5, 1, 1),
    (59, 1, 1, 1, 3, 11),
    (61, 1, 3, 5, 5, 31),
    (67, 1, 3, 3, 9, 7, 49),
    (91, 1, 1, 1, 15, 21, 21),
    (97, 1, 3, 1, 13, 27, 49),
    (103, 1, 1, 1, 15, 7, 5),
    (109, 1, 3, 1, 15, 13, 25),
    (115, 1, 1, 5, 5, 19, 61),
    (131, 1, 3, 7, 11, 23, 15, 103),
    (137, 1, 3, 7, 13, 13, 15, 69),
    (143, 1, 1, 3, 13, 7, 35, 63),
    (145, 1, 3, 5, 9, 1, 25, 53),
    (157, 1, 3, 1, 13, 9, 35, 107),
    (167, 1, 3, 1, 5, 27, 61, 31),
    (171, 1, 1, 5, 11, 19, 41, 61),
    (185, 1, 3, 5, 3, 3, 13, 69),
    (191, 1, 1, 7, 13, 1, 19, 1),
    (193, 1, 3, 7, 5, 13, 19, 59),
    (203, 1, 1, 3, 9, 25, 29, 41),
    (211, 1, 3, 5, 13, 23, 1, 55),
    (213, 1, 3, 7, 3, 13, 59, 17),
    (229, 1, 3, 1, 3, 5, 53, 69),
    (239, 1, 1, 5, 5, 23, 33, 13),
    (241, 1, 1, 7, 7, 1, 61, 123),
    (247, 1, 1, 7, 9, 13, 61, 49),
    (253, 1, 3, 3, 5, 3, 55, 33),
    (285, 1, 3, 1, 15, 31, 13, 49, 245),
    (299, 1, 3, 5, 15, 31, 59, 63, 97),
    (301, 1, 3, 1, 11, 11, 11, 77, 249),
    (333, 1, 3, 1, 11, 27, 43, 71, 9),
    (351, 1, 1, 7, 15, 21, 11, 81, 45),
    (355, 1, 3, 7, 3, 25, 31, 65, 79),
    (357, 1, 3, 1, 1, 19, 11, 3, 205),
    (361, 1, 1, 5, 9, 19, 21, 29, 157),
    (369, 1, 3, 7, 11, 1, 33, 89, 185),
    (391, 1, 3, 3, 3, 15, 9, 79, 71),
    (397, 1, 3, 7, 11, 15, 39, 119, 27),
    (425, 1, 1, 3, 1, 11, 31, 97, 225),
    (451, 1, 1, 1, 3, 23, 43, 57, 177),
    (463, 1, 3, 7, 7, 17, 17, 37, 71),
    (487, 1, 3, 1, 5, 27, 63, 123, 213),
    (501, 1, 1, 3, 5, 11, 43, 53, 133),
    (529, 1, 3, 5, 5, 29, 17, 47, 173, 479),
    (539, 1, 3, 3, 11, 3, 1, 109, 9, 69),
    (545, 1, 1, 1, 5, 17, 39, 23, 5, 343),
    (557, 1, 3, 1, 5, 25, 15, 31, 103, 499),
    (563, 1, 1, 1, 11, 11, 17, 63, 105, 183),
    (601, 1, 1, 5, 11, 9, 29, 97, 231, 363),
    (607, 1, 1, 5, 15, 19, 45, 41, 7, 383),
    (617, 1, 3, 7, 7, 31, 19, 83, 137, 221),
    (623, 1, 1, 1, 3, 23, 15, 111, 223, 83),
    (631, 1, 1, 5, 13, 31, 15, 55, 25, 161),
    (637, 1, 1, 3, 13, 25, 47, 39, 87, 257),
)

#: Dimensions that there are direction numbers for.
DIMENSIONS = 1 + len(_INITIAL)


def sobol(
    namespace: Namespace, dimensions: int, start: int, stop: int, shift_words: Sequence[int] | None = None
) -> Any:
    """Points ``start…stop−1`` of the Sobol sequence as real numbers in (0, 1): shape (stop−start, dimensions).

    They are the middles of cells of 2⁻³², so 0 and 1 do not occur. ``shift_words`` are as for :func:`sobol_words`.
    Raises ``ValueError`` as it does.
    """
    xp = namespace.xp
    points = namespace.asarray(sobol_words(namespace, dimensions, start, stop, shift_words))
    points += 0.5
    points *= 2.0**-BITS
    # In float32 the last cell of the interval rounds to 1.
    points = xp.minimum(points, namespace.asarray(1.0 - 0.5 * float(xp.finfo(namespace.real).eps)))
    return xp.permute_dims(points, (1, 0))


def sobol_words(
    namespace: Namespace, dimensions: int, start: int, stop: int, shift_words: Sequence[int] | None = None
) -> Any:
    """Points ``start…stop−1`` as 32-bit words in 64-bit integers, a row for each dimension: (dimensions, stop−start).

    ``shift_words`` holds a random 32-bit word for each dimension, which is added bit by bit without carry (a digital
    shift): every point is then uniform, and the net that the points form together stays one. Points come in the order of
    the Gray code, so the first 2ᵏ are the same set as in Sobol's own order.

    Raises ``ValueError`` unless 1 ≤ dimensions ≤ :data:`DIMENSIONS` and 0 ≤ start < stop ≤ 2³².

    Source: Sobol (1967), USSR Comput. Math. Math. Phys. 7; Antonov, Saleev (1979), ibid. 19; Joe, Kuo (2008), Constructing
    Sobol Sequences with Better Two-Dimensional Projections, SIAM J. Sci. Comput. 30.
    """
    if not 1 <= dimensions <= DIMENSIONS:
        raise ValueError(f"there are Sobol points in 1…{DIMENSIONS} dimensions, not in {dimensions}")
    if not 0 <= start < stop <= 2**BITS:
        raise ValueError(f"the Sobol sequence has points 0…2³²−1, so there is no range {start}…{stop}")
    # Points that share all but their lowest digits differ from the first ones by one word in each dimension.
    digits = min((stop - start - 1).bit_length(), _TABLE_DIGITS)
    low = namespace.from_host(_first(dimensions, digits))
    pieces = []
    for block in range(start >> digits, (stop - 1 >> digits) + 1):
        first = block << digits
        offset = namespace.from_host(_offset(dimensions, first, shift_words))
        pieces.append(low[:, max(start - first, 0) : min(stop - first, 1 << digits)] ^ offset)
    return pieces[0] if len(pieces) == 1 else namespace.xp.concat(pieces, axis=1)


def _offset(dimensions: int, index: int, shift_words: Sequence[int] | None) -> np.ndarray[Any, Any]:
    """Point ``index``, shifted, as words: (dimensions, 1)."""
    import numpy as np

    digits = [digit for digit in range(BITS) if index >> digit & 1]
    words: np.ndarray[Any, Any] = np.bitwise_xor.reduce(_directions()[:dimensions, digits], axis=1)
    if shift_words is not None:
        words = words ^ np.asarray(shift_words[:dimensions], dtype=np.int64)
    return words[:, None]


@lru_cache(maxsize=8)
def _first(dimensions: int, digits: int) -> np.ndarray[Any, Any]:
    """The first 2^digits points, unshifted, as words: (dimensions, 2^digits)."""
    import numpy as np

    directions = _directions()[:dimensions]
    points = np.zeros((dimensions, 2**digits), dtype=np.int64)
    for digit in range(digits):
        size = 1 << digit
        np.bitwise_xor(points[:, :size], directions[:, digit, None], out=points[:, size : 2 * size])
    points.flags.writeable = False
    return points


@lru_cache(maxsize=1)
def _directions() -> np.ndarray[Any, Any]:
    """What each binary digit of a point's index contributes to its words: (DIMENSIONS, BITS).

    A digit of the index appears in two digits of its Gray code, so its word is the sum of two direction numbers.
    """
    import numpy as np

    numbers: np.ndarray[Any, Any] = np.array(
        [_direction_numbers(*row) for row in ((1, ()), *((one[0], one[1:]) for one in _INITIAL))]
    )
    numbers[:, 1:] ^= numbers[:, :-1].copy()
    return numbers


def _direction_numbers(polynomial: int, initial: Sequence[int]) -> list[int]:
    """The direction numbers of one dimension as words, the one for the lowest digit first."""
    if not initial:
        return [1 << BITS - 1 - digit for digit in range(BITS)]
    degree = len(initial)
    numbers = [number << BITS - 1 - digit for digit, number in enumerate(initial)]
    for digit in range(degree, BITS):
        number = numbers[digit - degree] ^ numbers[digit - degree] >> degree
        for power in range(1, degree):
            if polynomial >> degree - power & 1:
                number ^= numbers[digit - power]
        numbers.append(number)
    return numbers
