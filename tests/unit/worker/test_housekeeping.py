"""A worker's memory goes back to the system between jobs, when that is due."""

from __future__ import annotations

import gc
import weakref

from routerd.worker.housekeeping import TIDY_SECONDS, Housekeeping, system_trim


class _Ring:
    """An object in a reference cycle with itself."""

    def __init__(self) -> None:
        self.me = self


def test_tidies_only_when_due() -> None:
    now, trimmed = [100.0], []
    housekeeping = Housekeeping(trim=lambda: trimmed.append(now[0]), clock=lambda: now[0])

    assert not housekeeping.between_jobs()
    now[0] += TIDY_SECONDS
    assert housekeeping.between_jobs()
    assert not housekeeping.between_jobs()
    now[0] += TIDY_SECONDS
    assert housekeeping.between_jobs()
    assert trimmed == [100.0 + TIDY_SECONDS, 100.0 + 2 * TIDY_SECONDS]


def test_tidying_collects_reference_cycles() -> None:
    now = [0.0]
    housekeeping = Housekeeping(trim=lambda: None, clock=lambda: now[0])
    ring = weakref.ref(_Ring())
    gc.disable()
    try:
        now[0] = TIDY_SECONDS
        housekeeping.between_jobs()
        assert ring() is None
    finally:
        gc.enable()


def test_what_has_settled_is_frozen() -> None:
    try:
        Housekeeping(trim=lambda: None).settle()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_the_system_s_own_way_can_be_called() -> None:
    system_trim()()
