"""Arrays on the client's side: segments to write inputs to, results mapped where the worker wrote them."""

from __future__ import annotations

import mmap
import weakref
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from functools import cache
from operator import itemgetter
from typing import Any

import numpy as np

from routerd.errors import InvalidArray
from routerd.memory import map_segment, seal_future_writes
from routerd.protocol import SegmentInfo
from routerd.types import ITEM_BYTES, ArrayRef

_KEPT_BYTES = (
    256 << 20
)  # mapped segments kept for reuse: mapping and faulting pages afresh costs more than most kernels
_PAGE = mmap.PAGESIZE
_OFFSET_STEP = 8  # what the protocol asks of an offset
_dtype_name = cache(str)  # NumPy puts the name together anew every time


class Segments:
    """The segments of one connection: staging and ``empty`` arrays going out, results coming in."""

    def __init__(self, inline_bytes: int) -> None:
        self._inline_bytes = inline_bytes
        self._inputs: dict[int, _Mapped] = {}
        self._places: list[tuple[int, int]] = []  # the address of each input and its number, sorted
        self._constants: set[int] = set()
        self._staging: list[int] = []
        self._outputs: dict[int, mmap.mmap] = {}
        self._idle_outputs: deque[int] = deque()
        # Finalisers run at any moment, possibly inside another method: they only append.
        self._dropped_inputs: deque[int] = deque()
        self._dropped_outputs: deque[int] = deque()

    # -- inputs -------------------------------------------------------------------------------------------------------

    def adopt_input(self, info: SegmentInfo, descriptor: int) -> None:
        """Map a fresh segment writable, and forbid that to everybody after."""
        self._add(info, map_segment(descriptor, info.size, writable=True))
        seal_future_writes(descriptor)

    def adopt_constant(self, info: SegmentInfo, descriptor: int) -> None:
        """Map a segment whose content is final."""
        self._add(info, map_segment(descriptor, info.size, writable=False))
        self._constants.add(info.segment)

    def empty(self, segment: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array over a whole segment, which lives as long as the array and its views do."""
        count = int(np.prod(shape, dtype=np.int64))
        root = np.frombuffer(self._inputs[segment].map, dtype=dtype, count=count)
        weakref.finalize(root, self._dropped_inputs.append, segment).atexit = False
        return root.reshape(shape)

    def locate(self, name: str, array: np.ndarray[Any, Any]) -> ArrayRef | None:
        """How to send an array without staging: inline if it is small, in place if it lies in a segment; else ``None``."""
        dtype = _dtype_name(array.dtype)
        if dtype not in ITEM_BYTES:
            raise InvalidArray(f"array {name} has dtype {dtype}; routerd takes {', '.join(ITEM_BYTES)}", array=name)
        inline = array.nbytes <= self._inline_bytes
        if inline and (array.flags.writeable or not self._constants):
            return ArrayRef(array.shape, dtype, data=array.tobytes())
        if array.flags.c_contiguous and self._places:
            address = array.__array_interface__["data"][0]
            index = bisect_right(self._places, address, key=itemgetter(0)) - 1
            start, number = self._places[index]
            offset = address - start
            inside = index >= 0 and offset <= self._inputs[number].size - array.nbytes
            if inside and offset % _OFFSET_STEP == 0:  # a slice may begin elsewhere: it is copied
                return ArrayRef(array.shape, dtype, number, offset)
        return ArrayRef(array.shape, dtype, data=array.tobytes()) if inline else None

    def take_staging(self, size: int) -> int | None:
        """A staging segment that fits, or ``None``: then allocate one of :func:`whole_pages`. It is the caller's now."""
        fitting = [number for number in self._staging if size <= self._inputs[number].size <= 4 * size + _PAGE]
        if not fitting:
            return None
        number = min(fitting, key=lambda one: self._inputs[one].size)
        self._staging.remove(number)
        return number

    def fill(self, segment: int, array: np.ndarray[Any, Any]) -> ArrayRef:
        """Copy an array to the start of a staging segment."""
        target = np.frombuffer(self._inputs[segment].map, dtype=array.dtype, count=array.size).reshape(array.shape)
        np.copyto(target, array)
        return ArrayRef(array.shape, _dtype_name(array.dtype), segment, 0)

    def unstage(self, staged: list[int]) -> None:
        """The tasks that used these staging segments are answered: they may carry others."""
        self._staging += staged

    def drop(self, segments: Iterable[int]) -> None:
        """These inputs are not used again, though a worker may still read them: they are freed with the next message."""
        self._dropped_inputs += segments

    # -- results ------------------------------------------------------------------------------------------------------

    def adopt_output(self, info: SegmentInfo, descriptor: int) -> None:
        """Map a result's segment read-only."""
        self._outputs[info.segment] = map_segment(descriptor, info.size, writable=False)

    def results(self, outputs: dict[str, ArrayRef]) -> dict[str, Any]:
        """Outputs as arrays (read-only, where the worker wrote them) and, for those of shape ``()``, as numbers."""
        roots: dict[int, np.ndarray[Any, Any]] = {}
        found: dict[str, Any] = {}
        for name, ref in outputs.items():
            if ref.data is not None:
                array = np.frombuffer(ref.data, dtype=ref.dtype).reshape(ref.shape)
                found[name] = array.item() if ref.shape == () else array
                continue
            assert ref.segment is not None
            root = roots.get(ref.segment)
            if root is None:
                root = roots[ref.segment] = np.frombuffer(self._outputs[ref.segment], dtype=np.uint8)
                weakref.finalize(root, self._dropped_outputs.append, ref.segment).atexit = False
            found[name] = root[ref.offset : ref.offset + ref.nbytes].view(ref.dtype).reshape(ref.shape)
        return found

    def give_back(self, *, in_flight: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Segments to name in the next message: results that may be overwritten, and segments now unmapped.

        What was once given for reuse may carry the answer to a request ``in_flight``, so it stays mapped meanwhile.
        """
        reuse: list[int] = []
        free: list[int] = []
        kept = sum(len(self._outputs[number]) for number in self._idle_outputs)
        while self._dropped_outputs:
            number = self._dropped_outputs.popleft()
            size = len(self._outputs[number])
            while not in_flight and self._idle_outputs and kept + size > _KEPT_BYTES:
                oldest = self._idle_outputs.popleft()
                kept -= len(self._outputs.pop(oldest))
                free.append(oldest)
            if kept + size > _KEPT_BYTES:
                del self._outputs[number]
                free.append(number)
            else:
                kept += size
                reuse.append(number)
                self._idle_outputs.append(number)
        while self._dropped_inputs:
            number = self._dropped_inputs.popleft()
            if self._remove(number):
                free.append(number)
        staged = sum(self._inputs[number].size for number in self._staging)
        while staged > _KEPT_BYTES:
            number = self._staging.pop(0)
            staged -= self._inputs[number].size
            self._remove(number)
            free.append(number)
        return tuple(number for number in reuse if number in self._outputs), tuple(free)

    def taken(self, outputs: dict[str, ArrayRef]) -> None:
        """A worker wrote to these segments again: they are no longer idle."""
        for ref in outputs.values():
            if ref.segment is not None and ref.segment in self._idle_outputs:
                self._idle_outputs.remove(ref.segment)

    def _add(self, info: SegmentInfo, mapped: mmap.mmap) -> None:
        one = self._inputs[info.segment] = _Mapped(mapped, info.size)
        insort(self._places, (one.address, info.segment))

    def _remove(self, number: int) -> bool:
        """Forget an input segment; ``False`` if it is forgotten already."""
        mapped = self._inputs.pop(number, None)
        if mapped is None:
            return False
        self._places.remove((mapped.address, number))
        self._constants.discard(number)
        return True


def pour(array: np.ndarray[Any, Any], descriptor: int, size: int) -> None:
    """Copy an array to the start of a segment, and leave nothing mapped behind."""
    with map_segment(descriptor, size, writable=True) as mapped:
        target = np.frombuffer(mapped, dtype=array.dtype, count=array.size).reshape(array.shape)
        np.copyto(target, array)
        del target  # or the segment could not be unmapped


def whole_pages(size: int) -> int:
    """``size`` rounded up to whole pages."""
    return -(-size // _PAGE) * _PAGE


class _Mapped:
    """A mapping with its address."""

    def __init__(self, mapped: mmap.mmap, size: int) -> None:
        self.map = mapped
        self.size = size
        self.address = int(np.frombuffer(mapped, dtype=np.uint8).__array_interface__["data"][0])
