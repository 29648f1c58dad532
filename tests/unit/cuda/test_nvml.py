"""The binding against a library of NVML's signatures and structures."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from routerd_cuda.nvml import Nvml, NvmlError

SECOND = "GPU-55555555-6666-7777-8888-999999999999"


def test_each_quantity_comes_in_its_unit(library: ctypes.CDLL) -> None:
    nvml = Nvml(library)
    card = nvml.card(0)
    assert nvml.free_bytes(card) == 70 << 30
    assert nvml.utilisation(card) == 0.35
    assert nvml.watts(card) == 312.5
    assert nvml.driver_version() == "580.65.06"


def test_a_card_is_found_by_number_and_by_uuid(library: ctypes.CDLL) -> None:
    nvml = Nvml(library)
    assert nvml.free_bytes(nvml.card(1)) == nvml.free_bytes(nvml.card(SECOND)) == 15 << 30
    with pytest.raises(NvmlError, match="nvmlDeviceGetHandleByUUID: Not Found") as caught:
        nvml.card("GPU-5555")
    assert not caught.value.cannot_tell


def test_only_heat_counts_as_heat(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(library)
    assert nvml.slowed_by_heat(nvml.card(0)) is False  # it is held back by its power cap
    monkeypatch.setenv("NVML_STUB", "hot")
    assert nvml.slowed_by_heat(nvml.card(0)) is True


def test_what_a_card_cannot_tell_is_no_fault(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(library)
    monkeypatch.setenv("NVML_STUB", "partitioned")
    with pytest.raises(NvmlError) as caught:
        nvml.utilisation(nvml.card(0))
    assert caught.value.cannot_tell


def test_a_function_that_an_old_library_lacks_is_no_fault(build_nvml: Callable[..., Path]) -> None:
    nvml = Nvml(ctypes.CDLL(str(build_nvml("OLD_LIBRARY"))))
    with pytest.raises(NvmlError, match="this driver's library lacks it") as caught:
        nvml.slowed_by_heat(nvml.card(0))
    assert caught.value.cannot_tell


def test_a_start_that_fails_says_why(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_STUB", "unloaded")
    with pytest.raises(NvmlError, match="nvmlInit_v2: Driver Not Loaded") as caught:
        Nvml(library)
    assert not caught.value.cannot_tell
