"""Ways between host and card through a few page-locked buffers, which a card reads and writes by itself.

Inputs lie in clients' memory, which is pageable and holds float64. A chunk is rounded into a buffer by the processor while the
card still fetches the one before, and results come back in the same way. The copies go to the stream that the kernels run on:
they are in order with the kernels, and no buffer is freed under a copy.
"""

from __future__ import annotations

from collections import deque
from typing import Any

_MIB = 1 << 20


class Staging:
    """``slots`` buffers of ``slot_bytes`` each, made at the first use and used in turn.

    On a device that is no card the buffers are ordinary memory and every copy is done when it returns.
    """

    def __init__(self, torch: Any, device: Any, *, slot_bytes: int = 4 * _MIB, slots: int = 4) -> None:
        self._torch = torch
        self._device = device
        self._slot_bytes = slot_bytes
        self._count = slots
        self._slots: deque[_Slot] = deque()

    def to_device(self, host: Any, dtype: Any) -> Any:
        """A new array on the device with the values of the contiguous host tensor, converted to ``dtype``.

        The host tensor may be overwritten when this returns; the array is complete for whatever the stream does next.
        """
        result = self._torch.empty(host.shape, dtype=dtype, device=self._device)
        source, target = host.reshape(-1), result.reshape(-1)
        for start, stop in self._chunks(source.numel(), dtype):
            slot = self._next()
            buffer = slot.view(stop - start, dtype)
            buffer.copy_(source[start:stop])
            target[start:stop].copy_(buffer, non_blocking=True)
            slot.mark()
        return result

    def to_host(self, array: Any, host: Any) -> None:
        """Fill the contiguous host tensor with the array's values, converted. They are there when this returns."""
        source, target = array.contiguous().reshape(-1), host.reshape(-1)
        coming: deque[tuple[_Slot, Any, Any]] = deque()
        for start, stop in self._chunks(source.numel(), array.dtype):
            if len(coming) == self._count:
                _arrive(*coming.popleft())
            slot = self._next()
            buffer = slot.view(stop - start, array.dtype)
            buffer.copy_(source[start:stop], non_blocking=True)
            slot.mark()
            coming.append((slot, buffer, target[start:stop]))
        for one in coming:
            _arrive(*one)

    def release(self) -> None:
        """Give the buffers back."""
        self._slots.clear()

    def _chunks(self, count: int, dtype: Any) -> list[tuple[int, int]]:
        step = self._slot_bytes // dtype.itemsize
        return [(start, min(start + step, count)) for start in range(0, count, step)]

    def _next(self) -> _Slot:
        """The buffer that was used longest ago, when its last copy is over."""
        if len(self._slots) < self._count:
            self._slots.append(_Slot(self._torch, self._device, self._slot_bytes))
        else:
            self._slots.rotate(-1)
        slot = self._slots[-1]
        slot.wait()
        return slot


class _Slot:
    """One buffer, and the event that says when the card has finished with it."""

    def __init__(self, torch: Any, device: Any, size: int) -> None:
        on_card = device.type == "cuda"
        self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=on_card)
        self._event = torch.cuda.Event() if on_card else None

    def view(self, count: int, dtype: Any) -> Any:
        return self._bytes[: count * dtype.itemsize].view(dtype)

    def mark(self) -> None:
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def _arrive(slot: _Slot, buffer: Any, target: Any) -> None:
    slot.wait()
    target.copy_(buffer)
