"""Which descriptors the daemon gives away, and which it keeps."""

from __future__ import annotations

import resource

import pytest

from routerd.descriptors import KEPT, can_spare


@pytest.mark.parametrize(("limit", "first_kept"), [(64, 48), (1024, 1024 - KEPT), (20_000, 20_000 - KEPT)])
def test_the_last_ones_are_kept(limit: int, first_kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    assert can_spare(first_kept - 1)
    assert not can_spare(first_kept)


def test_without_a_limit_all_can_be_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert can_spare(10**9)
