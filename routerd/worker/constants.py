"""What a worker remembers about content that can never change: its digest, and whose bounds it keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from routerd.interfaces import Workload
from routerd.types import ArrayRef

#: Findings that are kept of one segment: a client that cuts it up in ever new ways pays for that itself.
_MOST_FINDINGS = 1024

_Place: TypeAlias = tuple[int, tuple[int, ...], str]


class Constants:
    """Findings about arrays in frozen segments, which are kept as long as the segment is."""

    def __init__(self) -> None:
        self._digests: dict[int, dict[_Place, bytes]] = {}
        self._good: dict[int, set[tuple[str, str, str, _Place]]] = {}

    def digest(self, ref: ArrayRef, array: np.ndarray[Any, Any]) -> bytes:
        """A digest of the bytes of an array that lies in a frozen segment; made once."""
        assert ref.segment is not None
        known = self._digests.setdefault(ref.segment, {})
        place = _place(ref)
        if place not in known:
            if len(known) >= _MOST_FINDINGS:
                known.clear()
            known[place] = hashlib.blake2b(array.data, digest_size=32).digest()
        return known[place]

    def known_good(self, workload: Workload, arrays: Mapping[str, ArrayRef], frozen: Collection[int]) -> frozenset[str]:
        """The inputs that were found within the workload's bounds before, and are frozen."""
        if not frozen:
            return frozenset()
        return frozenset(
            name
            for name, ref in arrays.items()
            if ref.segment is not None
            and ref.segment in frozen
            and _finding(workload, name, ref) in self._good.get(ref.segment, ())
        )

    def note_good(self, workload: Workload, arrays: Mapping[str, ArrayRef], frozen: Collection[int]) -> None:
        """These inputs are within the workload's bounds; what is frozen stays so."""
        for name, ref in arrays.items():
            if ref.segment is not None and ref.segment in frozen:
                good = self._good.setdefault(ref.segment, set())
                if len(good) >= _MOST_FINDINGS:
                    good.clear()
                good.add(_finding(workload, name, ref))

    def drop(self, segments: Iterable[int]) -> None:
        """These segments are gone."""
        for segment in segments:
            self._digests.pop(segment, None)
            self._good.pop(segment, None)


def _place(ref: ArrayRef) -> _Place:
    return ref.offset, ref.shape, ref.dtype


def _finding(workload: Workload, name: str, ref: ArrayRef) -> tuple[str, str, str, _Place]:
    return workload.name, workload.content, name, _place(ref)
