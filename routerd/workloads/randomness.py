"""Counter-based random numbers in namespace operations: the same bits on every device, in any order, without state."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from routerd.interfaces import Namespace, Parameter

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

#: Words of a counter, and so the numbers that it gives.
LANES = 4
#: Streams that one seed offers: words of different streams are independent.
PATHS, SHIFTS = 0, 1


#: The parameter of every workload that draws random numbers.
SEED = Parameter(
    name="seed",
    type="int",
    default=0,
    minimum=0,
    maximum=2**53 - 1,
    doc="selects the random numbers; the same seed gives the same answer on every device",
)


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10: four random 32-bit words for a counter of four words and a key of two.

    The counter is either four 64-bit integer arrays of one shape or four Python integers, each word in 0…2³²−1.
    A product of two words needs 64 unsigned bits; in a signed array it wraps around to the same bits, and the mask after
    the shift drops the sign that the shift drew in. Low words keep garbage above bit 31 until a mask removes it.

    Source: Salmon, Moraes, Dror, Shaw (2011), Parallel Random Numbers: As Easy as 1, 2, 3, SC'11.
    """
    left, left_low, right, right_low = counter
    key_left, key_right = key
    for _ in range(_ROUNDS):
        product_left, product_right = left * _MULTIPLIERS[0], right * _MULTIPLIERS[1]
        left = product_right >> 32
        left ^= left_low
        left ^= key_left
        left &= _MASK
        right = product_left >> 32
        right ^= right_low
        right ^= key_right
        right &= _MASK
        left_low, right_low = product_right, product_left
        key_left, key_right = (key_left + _KEY_STEPS[0]) & _MASK, (key_right + _KEY_STEPS[1]) & _MASK
    return left, left_low & _MASK, right, right_low & _MASK


def key_of(seed: int) -> tuple[int, int]:
    """The Philox key of a seed in 0…2⁶⁴−1."""
    return seed & _MASK, seed >> 32 & _MASK


def normals(namespace: Namespace, seed: int, start: int, stop: int) -> Any:
    """Standard normal numbers of the counters ``start…stop−1``, four for each: shape ``(4·(stop−start),)``.

    Element ``lane·(stop−start) + i`` belongs to lane 0…3 of counter ``start+i``, whatever else is asked for.
    """
    counter = namespace.arange(start, stop)
    zero = counter ^ counter
    return _box_muller(namespace, philox4x32((counter & _MASK, counter >> 32, zero + PATHS, zero), key_of(seed)))


def step_normals(namespace: Namespace, seed: int, start: int, stop: int, steps: range) -> Any:
    """Standard normal numbers for consecutive time steps: shape ``(len(steps), 4·(stop−start))``.

    A row is what :func:`normals` gives for the counters ``start…stop−1``, the one of step 0 exactly that; rows of
    different steps are independent. ``steps`` advances by 1 and stays in 0…2³²−1.
    """
    xp = namespace.xp
    step = namespace.arange(steps.start, steps.stop)[:, None]
    counter = namespace.arange(start, stop)[None, :]
    step, counter = step + (counter ^ counter), counter + (step ^ step)
    words = philox4x32((counter & _MASK, counter >> 32, (counter ^ counter) + PATHS, step), key_of(seed))
    lanes = xp.reshape(_box_muller(namespace, words), (4, len(steps), stop - start))
    return xp.reshape(xp.permute_dims(lanes, (1, 0, 2)), (len(steps), 4 * (stop - start)))


def _box_muller(namespace: Namespace, words: tuple[Any, Any, Any, Any]) -> Any:
    """Four standard normal numbers from four words: one array, lane after lane along the first axis.

    Source: Box and Muller (1958), Annals of Mathematical Statistics 29. Sine and cosine of an angle come from the
    tangent of its half, which vector libraries compute several times faster than the pair.
    """
    xp = namespace.xp
    # Unit interval without 0, so the logarithm is finite; float32 may round up to 1, whose radius is 0.
    uniform = namespace.asarray(xp.concat((words[0], words[2])))
    uniform += 0.5
    uniform *= 2.0**-32
    half_angle = namespace.asarray(xp.concat((words[1], words[3])))
    half_angle += 0.5
    half_angle *= math.pi * 2.0**-32
    radius = xp.log(uniform)
    radius *= -2.0
    radius = xp.sqrt(radius)
    tangent = xp.tan(half_angle)
    square = tangent * tangent
    radius /= 1.0 + square
    cosine = 1.0 - square
    cosine *= radius
    sine = tangent
    sine *= 2.0
    sine *= radius
    return xp.concat((cosine, sine))


@lru_cache(maxsize=64)
def random_words(seed: int, count: int) -> tuple[int, ...]:
    """``count`` random 32-bit words of the seed's shift stream, as Python integers; fewer are the beginning of more."""
    words: list[int] = []
    for index in range(-(-count // 4)):
        words.extend(philox4x32((index, 0, SHIFTS, 0), key_of(seed)))
    return tuple(words[:count])


@lru_cache(maxsize=256)
def shifts(seed: int, count: int) -> tuple[float, ...]:
    """``count`` uniform numbers in (0, 1) of the seed's shift stream, as Python floats."""
    return tuple((word + 0.5) * 2.0**-32 for word in random_words(seed, count))
