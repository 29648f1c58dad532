"""The card as a device, and the share of its memory that a worker may take."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from routerd.errors import Unavailable
from routerd_cuda import card

PROPERTIES = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30
)


def test_the_card_and_the_versions_are_described() -> None:
    device = card.describe(PROPERTIES, torch="2.13.0+cu130", cuda="13.0", driver="580.65.06")
    assert (device.kind, device.name, device.memory_bytes) == ("cuda_gpu", "NVIDIA H100 80GB HBM3", 80 << 30)
    assert device.detail == {
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "cuda": "13.0",
        "torch": "2.13.0+cu130",
        "driver": "580.65.06",
    }


def test_a_driver_that_does_not_tell_its_version_is_left_out() -> None:
    assert "driver" not in card.describe(PROPERTIES, torch="2", cuda="13", driver=None).detail


def test_the_driver_s_version_is_its_library_s(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "load_nvml", lambda: library)
    assert card.driver_version() == "580.65.06"


def test_without_its_library_the_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise Unavailable("no library")

    monkeypatch.setattr(card, "load_nvml", missing)
    assert card.driver_version() is None


@pytest.mark.parametrize(("limit", "share"), [(0, 0.9), (40, 0.4), (95, 0.9), (1000, 0.9)])
def test_a_worker_leaves_a_tenth_of_the_card_and_keeps_to_its_limit(limit: int, share: float) -> None:
    assert card.memory_share(100, limit) == pytest.approx(share)
