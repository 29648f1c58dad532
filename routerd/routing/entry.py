"""One entry of the decision table: who wins over the whole range of work, for one workload and one class of clients.

An entry has a *plane* for each combination of batch and bytes that the policy tells apart, a plane has *spans* of work with
one winner each, and a span names the ground that its decisions are made on, or says that only the daemon can answer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import msgspec
from msgspec import Struct

from routerd.routing.crossings import UNDECIDED, winners
from routerd.routing.ground import NO_WORKER, Ground, Offer

#: In place of a ground: only the daemon can answer.
ASK = -1
#: The place, among the pieces of batch or bytes, of tasks whose batch or bytes are not known.
NOT_KNOWN = -1

_BELOW = 1e6  # work this much below all timed sizes is asked about: down to there only launch cost is left
_ABOVE = 64.0  # and work this much above them
_BLUR = 1e-9  # so near to where two change places rounding may let them take turns: there the daemon is asked
_FLAT_BELOW = 64.0  # times below the smallest timed size
_FIGURES_FACTOR = 4.0  # a span covers at most this range of work, so that the figures of its middle are near all of it


class Span(Struct, frozen=True, array_like=True):
    """Work from ``start`` to the next span's.

    ``ground`` is an index or :data:`ASK`; the answer holds while the workers of ``workers`` (a bit each) are idle; ``work``
    is the middle, which figures are given for.
    """

    start: float
    ground: int
    workers: int
    work: float
    backend: str


class Plane(Struct, frozen=True, array_like=True):
    """The spans for tasks whose batch and bytes lie in these pieces."""

    batch: int
    nbytes: int
    spans: tuple[Span, ...]


class Entry(Struct, frozen=True, array_like=True):
    """``batches`` and ``sizes`` are where the pieces of batch and of bytes start, as the policy tells them apart.

    They are empty where it makes no difference whether these are known. Of tasks of more than ``most_bytes`` the entry says
    nothing, as they may not fit on a device.
    """

    client_class: str
    workload: str
    tolerance: float
    generation: int
    batches: tuple[float, ...]
    sizes: tuple[float, ...]
    planes: tuple[Plane, ...]
    grounds: tuple[Ground, ...]
    most_bytes: int | None = None

    def spans(self, batch: int | None = None, nbytes: int | None = None) -> tuple[Span, ...]:
        """The spans for a task of this batch and size (``None``, or 0 bytes: not known). None where the entry does not say."""
        if self.most_bytes is not None and nbytes is not None and nbytes > self.most_bytes:
            return ()
        place = (piece_of(self.batches, batch), piece_of(self.sizes, nbytes or None))
        for plane in self.planes:
            if (plane.batch, plane.nbytes) == place:
                return plane.spans
        return ()


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Entry).decode


def piece_of(starts: Sequence[float], value: float | None) -> int:
    """The piece that ``value`` lies in. Where none are told apart, everything is in one."""
    if not starts:
        return 0
    return NOT_KNOWN if value is None else bisect_right(starts, value) - 1


def spans_of(pieces: Sequence[tuple[float, int]], grounds: Sequence[Ground]) -> tuple[Span, ...]:
    """The spans of a plane, from pieces of work (start, and index of the ground or :data:`ASK`) in ascending order."""
    spans: list[Span] = []
    ends = [start for start, _ground in pieces[1:]] + [math.inf]
    for (start, index), end in zip(pieces, ends, strict=True):
        spans.append(_asked(start))
        if index == ASK:
            continue
        ground = grounds[index]
        first_timed, last_timed = _timed(ground)
        low, high = max(start, first_timed / _BELOW), min(end, last_timed * _ABOVE)
        if low >= high:
            continue
        found = winners(ground, low, high)
        for (first, backend), last in zip(found, [first for first, _backend in found[1:]] + [high], strict=True):
            begin = first if first == low else first * (1.0 + _BLUR)
            until = last if last == high else last * (1.0 - _BLUR)
            spans.append(_asked(first))
            if backend == UNDECIDED or begin >= until:
                continue
            workers = _workers(ground, backend)
            spans += [
                Span(left, index, workers, math.sqrt(left * right), backend)
                for left, right in pairwise([begin, *_between(begin, until, first_timed), until])
            ]
            spans.append(_asked(until))
        spans.append(_asked(high))
    return tuple(
        span for span, after in zip(spans, [*spans[1:], None], strict=True) if not after or span.start < after.start
    )


def _asked(start: float) -> Span:
    return Span(start, ASK, 0, 0.0, "")


def _timed(ground: Ground) -> tuple[float, float]:
    """The smallest and the largest size that was timed on any of the ground's backends."""
    knots = [knot.log_work for offer in ground.offers for knot in offer.curve.knots]
    return (math.exp(min(knots)), math.exp(max(knots))) if knots else (1.0, 1.0)


def _between(first: float, last: float, first_timed: float) -> list[float]:
    """Places between two sizes, so close together that figures do not change much from one to the next.

    Far below the smallest timed size only launch cost is left, which does not change at all.
    """
    flat = first_timed / _FLAT_BELOW
    if last <= flat:
        return []
    start = max(first, flat)
    count = math.ceil(math.log(last / start) / math.log(_FIGURES_FACTOR))
    places = [start * (last / start) ** (part / count) for part in range(1, count)]
    return [start, *places] if start > first else places


def _workers(ground: Ground, backend: str) -> int:
    """Whose queues could change the answer.

    The winner's own; the others' only where the rule bounds a literal preference by the best, which a queue can make worse.
    """
    bounded = ground.preference.prefer and ground.preference.unless_slower_than is not None
    concerned: Sequence[Offer] = (
        ground.offers if bounded else [offer for offer in ground.offers if offer.backend == backend]
    )
    mask = 0
    for offer in concerned:
        for worker in offer.workers or (offer.worker,):
            if worker != NO_WORKER:
                mask |= 1 << worker
    return mask
