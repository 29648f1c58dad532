"""The GPU's sensor: it never waits, asks again only when its facts are old, and tells only what it was told."""

from __future__ import annotations

import threading

from routerd_metal import apple_gpu
from routerd_metal.sensor import GpuSensor
from tests.unit.metal.test_apple_gpu import SYSCTL, ioreg

UTILISATION, FREE = "hardware.metal_gpu.utilisation", "hardware.metal_gpu.free_bytes"


class Machine:
    """A Mac that answers, with a clock that a test moves."""

    def __init__(self, sysctl: str = SYSCTL, load: bytes = b"") -> None:
        self.sysctl, self.load = sysctl, load or ioreg()
        self.seconds = 0.0
        self.asked: list[tuple[str, ...]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def ask(self, command: tuple[str, ...]) -> bytes:
        assert self.may_answer.wait(10.0)
        self.asked.append(command)
        return self.load if command == apple_gpu.IOREG else self.sysctl.encode()

    def sensor(self, available: int = 5_000_000_000) -> GpuSensor:
        return GpuSensor(ask=self.ask, available_bytes=lambda: available, clock=lambda: self.seconds)


def settled(sensor: GpuSensor) -> dict[str, object]:
    sensor.read()
    sensor.settle(10.0)
    return dict(sensor.read())


def test_the_first_reading_does_not_wait() -> None:
    machine = Machine()
    machine.may_answer.clear()
    sensor = machine.sensor()
    assert sensor.read() == {}
    machine.may_answer.set()
    sensor.settle(10.0)
    assert sensor.read() == {UTILISATION: 0.37, FREE: 5_000_000_000}


def test_facts_are_read_again_when_they_are_two_seconds_old() -> None:
    machine = Machine()
    sensor = machine.sensor()
    settled(sensor)
    machine.load = ioreg(**{"Device Utilization %": 90})
    machine.seconds = 1.9
    assert settled(sensor)[UTILISATION] == 0.37
    machine.seconds = 2.0
    assert settled(sensor)[UTILISATION] == 0.9
    assert machine.asked.count(apple_gpu.SYSCTL) == 1


def test_a_slow_answer_is_not_asked_for_twice() -> None:
    machine = Machine()
    machine.may_answer.clear()
    sensor = machine.sensor()
    for machine.seconds in (0.0, 2.0, 4.0):
        assert sensor.read() == {}
    machine.may_answer.set()
    sensor.settle(10.0)
    assert machine.asked == [apple_gpu.SYSCTL, apple_gpu.IOREG]


def test_the_administrators_limit_bounds_what_is_free() -> None:
    limited = SYSCTL.replace("mb: 0", "mb: 2048")
    assert settled(Machine(limited).sensor())[FREE] == 2 * 2**30 - 1_234_567_890
    assert settled(Machine(limited).sensor(available=1000))[FREE] == 1000
    full = Machine(limited, ioreg(**{"In use system memory": 2**32}))
    assert settled(full.sensor())[FREE] == 0


def test_what_is_not_told_is_left_out() -> None:
    assert settled(Machine(load=b"nothing").sensor()) == {}
    assert settled(Machine(load=ioreg(**{"In use system memory": None})).sensor()) == {UTILISATION: 0.37}
