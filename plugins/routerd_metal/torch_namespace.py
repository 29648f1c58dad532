"""torch on Metal: the namespace of every torch device, with the two operations that Metal's atomics cannot do as they are."""

from __future__ import annotations

from typing import Any

from routerd.namespaces.torch import TorchNamespace

_MAX_LANES = 1024
_LOW_BITS = 31


class MetalTorchNamespace(TorchNamespace):
    """Metal adds atomically in float32 only, and has no atomic maximum of 64 bits."""

    def sum_by(self, values: Any, groups: Any, count: int) -> Any:
        # One float32 sum of a long group would lose digits, and every thread would wait for it: lanes keep sums short.
        lanes = max(1, min(_MAX_LANES, values.shape[0] // (4 * count)))
        cells = groups * lanes + self.arange(0, values.shape[0]) % lanes
        sums = self.zeros((count * lanes,)).index_add_(0, cells, values)
        return sums.reshape(count, lanes).sum(dim=1)

    def max_by(self, values: Any, groups: Any, count: int) -> Any:
        # The greatest upper half of each group, then the greatest lower half among those who have it: 32 bits each.
        torch = self._torch
        upper = (values >> _LOW_BITS).to(torch.int32)
        lower = (values & (2**_LOW_BITS - 1)).to(torch.int32)
        greatest = self._max_by_32(upper, groups, count)
        contends = upper == greatest[groups]
        least = torch.full_like(lower, -1)
        rest = self._max_by_32(torch.where(contends, lower, least), groups, count)
        joined = (greatest.to(self.integer) << _LOW_BITS) | rest.to(self.integer)
        return torch.where(greatest < 0, torch.full_like(joined, -1), joined)

    def _max_by_32(self, values: Any, groups: Any, count: int) -> Any:
        torch = self._torch
        greatest = torch.full((count,), -1, dtype=torch.int32, device=self.device)
        return greatest.scatter_reduce_(0, groups, values, "amax")
