"""The sensor against the stand-in: facts by policy name, never waited for, and gone when the card is."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from routerd.errors import Unavailable
from routerd.policy.facts import FACTS
from routerd_cuda.driver import load_nvml
from routerd_cuda.sensor import NvmlSensor

COOL = {
    "hardware.cuda_gpu.free_bytes": 70 << 30,
    "hardware.cuda_gpu.utilisation": 0.35,
    "hardware.cuda_gpu.watts": 312.5,
}


def facts(sensor: NvmlSensor, fits: Callable[[Mapping[str, Any]], bool] = bool) -> Mapping[str, Any]:
    """What the sensor says once it says what fits; asking again and again, as the daemon does."""
    deadline = time.monotonic() + 10.0
    while not fits(told := sensor.read()):
        assert time.monotonic() < deadline, f"the sensor still says {told}"
        time.sleep(0.002)
    return told


def reason(sensor: NvmlSensor) -> str:
    """Why the sensor has nothing to say, once it knows."""
    with pytest.raises(Unavailable) as caught:
        facts(sensor, lambda _told: False)
    return caught.value.message


def test_the_card_is_told_under_the_names_of_policies(library: ctypes.CDLL) -> None:
    told = facts(NvmlSensor(lambda: library, {}))
    assert told == COOL
    for name in told:
        assert name.replace("cuda_gpu", "<device>") in FACTS


def test_the_card_is_the_one_that_backends_use(library: ctypes.CDLL) -> None:
    told = facts(NvmlSensor(lambda: library, {"CUDA_VISIBLE_DEVICES": "1"}))
    assert told["hardware.cuda_gpu.watts"] == 18.0


def test_heat_is_told_while_the_card_slows_down_for_it(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = NvmlSensor(lambda: library, {})
    monkeypatch.setenv("NVML_STUB", "hot")
    assert facts(sensor)["hardware.thermal"] == "serious"
    assert "serious" in FACTS["hardware.thermal"].choices
    monkeypatch.delenv("NVML_STUB")
    assert facts(sensor, lambda told: "hardware.thermal" not in told) == COOL


def test_a_partitioned_card_leaves_out_what_it_cannot_tell(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVML_STUB", "partitioned")
    assert facts(NvmlSensor(lambda: library, {})).keys() == COOL.keys() - {"hardware.cuda_gpu.utilisation"}


def test_reading_never_waits_for_the_library() -> None:
    stuck, release = threading.Event(), threading.Event()

    def load() -> Any:
        stuck.set()
        release.wait(10.0)
        raise Unavailable("it took too long")

    sensor = NvmlSensor(load, {})
    try:
        assert sensor.read() == {}
        assert stuck.wait(10.0)
        assert sensor.read() == {}
    finally:
        release.set()


def test_a_reading_of_another_time_is_not_given(library: ctypes.CDLL) -> None:
    now = [0.0]
    sensor = NvmlSensor(lambda: library, {}, clock=lambda: now[0])
    assert facts(sensor) == COOL
    now[0] = 3600.0
    assert sensor.read() == {}
    assert facts(sensor) == COOL


def test_a_card_that_is_lost_ends_the_sensor_with_its_reason(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = NvmlSensor(lambda: library, {})
    assert facts(sensor) == COOL
    monkeypatch.setenv("NVML_STUB", "lost")
    assert reason(sensor).endswith("nvmlDeviceGetMemoryInfo: GPU is lost")


def test_without_a_driver_the_reason_is_the_backends_own() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert reason(NvmlSensor(lambda: load_nvml(missing), {})).startswith("no NVIDIA driver (")


def test_hidden_cards_are_not_read(library: ctypes.CDLL) -> None:
    assert "hides every card" in reason(NvmlSensor(lambda: library, {"CUDA_VISIBLE_DEVICES": "-1"}))
