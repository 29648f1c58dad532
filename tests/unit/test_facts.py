"""Facts: what is known is told in its unit, what is not known is left out, and reading is rare."""

from __future__ import annotations

import time

import pytest

from routerd.errors import Unavailable
from routerd.facts import FactSource
from routerd.protocol import Ask
from routerd.workloads.binding import bind

OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 1000}


@pytest.fixture
def gather(fleet, session, parts):
    """Facts of a task, as a function of the names in use and what it was asked with."""

    def gather(used=(), *, workload="options.monte_carlo_european", source=None, **params):
        kind = parts.WORKLOADS[workload]
        task = bind(kind, params or OPTION, {}, need_content=False)
        return (source or FactSource(fleet, {})).gather(task, kind, session, frozenset(used))

    return gather


def test_the_task_and_the_client_are_always_known(gather):
    facts = gather()
    assert facts["workload.name"] == "options.monte_carlo_european"
    assert facts["workload.family"] == "options"
    assert "Risk" in facts["workload.engine"]
    assert (facts["task.work"], facts["task.priority"]) == (1000.0, 0)
    assert (facts["client.name"], facts["client.uid"], facts["client.gid"]) == ("tester", 1000, 1000)


def test_what_a_task_has_not_is_left_out(gather):
    facts = gather()
    assert not {"task.batch", "task.deadline_ms"} & facts.keys()
    assert gather(**OPTION, deadline_ms=50.0)["task.deadline_ms"] == 50.0
    assert gather(workload="ml.mlp_inference", rows=7, features=2, h1=2, h2=2, outputs=1)["task.batch"] == 7


def test_only_what_is_used_is_read(gather):
    assert not [name for name in gather() if name.startswith(("hardware.", "time.", "flags."))]
    assert gather(["hardware.cpu.free_bytes"])["hardware.cpu.free_bytes"] > 0


def test_what_the_machine_does_not_tell_is_missing(gather):
    used = ["hardware.thermal", "hardware.metal_gpu.utilisation", "hardware.cuda_gpu.queue_ms", "flags.UNSET"]
    assert not gather(used).keys() & set(used)


def test_devices(gather, fleet):
    used = ["hardware.metal_gpu.available", "hardware.cuda_gpu.available", "hardware.metal_gpu.queue_ms"]
    fleet.backends["metal.mlx"].worker.load(0.25)
    facts = gather(used)
    assert (facts["hardware.metal_gpu.available"], facts["hardware.cuda_gpu.available"]) == (True, False)
    assert facts["hardware.metal_gpu.queue_ms"] == 250.0
    fleet.backends["metal.mlx"].state = "down"
    facts = gather(used)
    assert facts["hardware.metal_gpu.available"] is False
    assert "hardware.metal_gpu.queue_ms" not in facts


def test_time_is_local_and_flags_are_those_given(gather, fleet, monkeypatch):
    monkeypatch.setattr("routerd.facts.time.localtime", time.gmtime)
    source = FactSource(fleet, {"KERNEL_DEBUG": True, "GPU_DEBUG": None}, clock=lambda: 3600.0 * 25.5)
    facts = gather(["time.local", "time.weekday", "flags.KERNEL_DEBUG", "flags.GPU_DEBUG"], source=source)
    assert (facts["time.local"], facts["time.weekday"]) == ("01:30", "fri")
    assert facts["flags.KERNEL_DEBUG"] is True
    assert "flags.GPU_DEBUG" not in facts


def test_unchanged_facts_are_the_same_object(fleet):
    now = [0.0]
    source = FactSource(fleet, {"KERNEL_DEBUG": True}, monotonic=lambda: now[0])
    used = frozenset({"flags.KERNEL_DEBUG", "hardware.metal_gpu.queue_ms"})
    first = source.ambient(used)
    now[0] = 1.0
    assert source.ambient(used) is first
    fleet.backends["metal.mlx"].worker.load(0.5)
    assert source.ambient(used) is first  # read a hundred times a second at most
    now[0] = 2.0
    second = source.ambient(used)
    assert second is not first
    assert second["hardware.metal_gpu.queue_ms"] == 500.0


class Thermometer:
    def __init__(self, reading):
        self.name = "thermometer"
        self.reading = reading
        self.reads = 0

    def read(self):
        self.reads += 1
        if isinstance(self.reading, Exception):
            raise self.reading
        return {"hardware.thermal": self.reading}


def test_sensors_are_read_every_two_seconds(fleet):
    now, sensor = [0.0], Thermometer("nominal")
    source = FactSource(fleet, {}, [sensor], monotonic=lambda: now[0])
    used = frozenset({"hardware.thermal"})
    for moment in (0.1, 0.5, 1.0, 1.9):
        now[0] = moment
        assert source.ambient(used) == {"hardware.thermal": "nominal"}
    assert sensor.reads == 1
    sensor.reading, now[0] = "serious", 2.5
    assert source.ambient(used) == {"hardware.thermal": "serious"}


@pytest.mark.parametrize("error", [Unavailable("no such chip"), ZeroDivisionError()])
def test_a_sensor_that_fails_leaves_its_facts_out_and_the_rest_alone(fleet, error):
    source = FactSource(fleet, {}, [Thermometer(error), Thermometer("fair")])
    assert source.ambient(frozenset({"hardware.thermal"})) == {"hardware.thermal": "fair"}


class PowerMeter:
    name = "power meter"

    def __init__(self, **watts):
        self.watts = watts

    def read(self):
        return {f"hardware.{kind}.watts": value for kind, value in self.watts.items()}


def test_watts_are_a_fact_where_a_sensor_reads_them(fleet):
    source = FactSource(fleet, {}, [PowerMeter(metal_gpu=38.5)], device_watts={"cpu": 65.0})
    assert source.ambient(frozenset({"hardware.metal_gpu.watts", "hardware.cpu.watts"})) == {
        "hardware.metal_gpu.watts": 38.5
    }
    assert (source.watts("metal_gpu"), source.watts("cpu")) == (38.5, None)


@pytest.mark.parametrize("reading", [0.0, -1.0, float("nan"), float("inf"), "much"])
def test_a_reading_that_cannot_be_is_none(fleet, reading):
    assert FactSource(fleet, {}, [PowerMeter(cpu=reading)]).watts("cpu") is None


@pytest.mark.parametrize(
    ("read", "given", "watts", "words"),
    [
        ({}, {}, {}, ""),
        ({}, {"metal_gpu": 40.0}, {"metal_gpu": 40.0}, "settings"),
        ({"cpu": 61.0}, {}, {"cpu": 61.0, "in_process": 61.0}, "sensor"),
        ({"cpu": 61.0}, {"cpu": 65.0}, {"cpu": 61.0, "in_process": 61.0}, "sensor"),
        (
            {"cpu": 61.0},
            {"cpu": 65.0, "metal_gpu": 40.0},
            {"cpu": 61.0, "metal_gpu": 40.0, "in_process": 61.0},
            "sensor for cpu, settings for metal_gpu",
        ),
    ],
)
def test_power_is_what_a_sensor_reads_or_else_what_the_settings_say(fleet, read, given, watts, words):
    assert FactSource(fleet, {}, [PowerMeter(**read)], device_watts=given).power() == (watts, words)


def test_power_follows_the_sensor(fleet):
    now, meter = [0.0], PowerMeter(cpu=20.0)
    source = FactSource(fleet, {}, [meter], monotonic=lambda: now[0])
    assert source.power()[0]["cpu"] == 20.0
    meter.watts, now[0] = {}, 2.5
    assert source.power() == ({}, "")


def test_the_question_for_a_decision_and_for_a_run_give_the_same_facts(make_router, session):
    router = make_router()
    ask = Ask("linalg.gemm", {"m": 3, "k": 4, "n": 5})
    assert router.plan(ask, session).facts["task.bytes"] == 8 * (12 + 20 + 15)
