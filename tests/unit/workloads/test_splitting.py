"""Parts of a task: ranges that cover it once, whatever the shares, and outputs joined in their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.interfaces import Example
from routerd.workloads.splitting import boundaries, merge_along, split_along


@given(
    length=st.integers(1, 10_000),
    shares=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8),
    multiple=st.sampled_from([1, 4, 64]),
)
def test_ranges_cover_the_whole_once(length: int, shares: list[float], multiple: int) -> None:
    ranges = boundaries(length, shares, multiple)
    assert 1 <= len(ranges) <= len(shares)
    assert [index for start, stop in ranges for index in range(start, stop)] == list(range(length))
    assert all(start < stop for start, stop in ranges)
    assert all(stop % multiple == 0 for _start, stop in ranges[:-1])


def test_ranges_follow_the_shares() -> None:
    assert boundaries(100, (1.0, 1.0)) == [(0, 50), (50, 100)]
    assert boundaries(10, (0.5, 0.2, 0.3)) == [(0, 5), (5, 7), (7, 10)]
    assert boundaries(2, (0.1, 0.1, 0.8)) == [(0, 2)]
    assert boundaries(10, (0.5, 0.5), multiple=4) == [(0, 4), (4, 10)]


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_arrays_join_to_the_whole(axis: int) -> None:
    whole = Example({"rate": 0.1}, {"x": np.arange(12.0).reshape(3, 4), "y": np.arange(3.0), "z": np.ones(2)})
    along = {"x": axis, "y": 0} if axis == 0 else {"x": axis}
    parts = split_along(along)(whole, (0.4, 0.6))
    assert len(parts) == 2
    assert all(part.params == whole.params and part.arrays["z"] is whole.arrays["z"] for part in parts)
    merged = merge_along(along)(whole, [part.arrays for part in parts])
    assert {name: array.tolist() for name, array in merged.items()} == {
        name: whole.arrays[name].tolist() for name in along
    }
