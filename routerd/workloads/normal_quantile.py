"""Standard normal numbers from random words by the inverse distribution function, in namespace operations."""

from __future__ import annotations

from typing import Any

from routerd.interfaces import Namespace

_LARGEST = 0xFFFFFFFF
_HALF = 0x80000000
# −Φ⁻¹(exp(−t²/2)) for t from √(2 ln 2) to √(66 ln 2), the middle and the farthest end of 2³² words: numerator and
# denominator in powers of t, highest first, fitted by reweighted least squares in 50 digits; exact to 1e-14.
_NUMERATOR = (
    0.030367387879124137221,
    0.92094828433375345792,
    6.3085505103628310591,
    14.065407808929156739,
    21.803616154668293177,
    11.336621544206871899,
    -47.312628891547463928,
    -36.302733201275608952,
    -3.7089840133079679693,
)
_DENOMINATOR = (
    0.030365122750909051132,
    0.92138890870696028947,
    6.4696328045996818997,
    17.308199837290307341,
    36.823639416230002644,
    43.367913038754790754,
    15.648563933323847026,
    1.0,
)


def normals_of_words(namespace: Namespace, words: Any) -> Any:
    """Φ⁻¹((word + ½)/2³²) of 32-bit words in 64-bit integers, in their shape.

    The nearer end of the interval is counted from, in integers, so a float32 tail is as precise as any other number; and
    one formula serves the whole line, so nothing branches. The absolute error in float64 is below 2e-14.
    """
    xp = namespace.xp
    tail = namespace.asarray(xp.minimum(words, _LARGEST - words))
    tail += 0.5
    tail *= 2.0**-32
    variable = xp.log(tail)
    variable *= -2.0
    variable = xp.sqrt(variable)
    numerator, denominator = _horner(_NUMERATOR, variable), _horner(_DENOMINATOR, variable)
    numerator /= denominator
    return xp.where(words < _HALF, -numerator, numerator)


def _horner(coefficients: tuple[float, ...], variable: Any) -> Any:
    value = variable * coefficients[0]
    for coefficient in coefficients[1:-1]:
        value += coefficient
        value *= variable
    value += coefficients[-1]
    return value
