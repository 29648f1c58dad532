"""The facts that policies ask about, gathered for one task. What is not known is left out, never guessed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import psutil

from routerd.errors import Unavailable
from routerd.interfaces import DEVICE_KINDS, Sensor, Workload
from routerd.logs import get_logger
from routerd.types import Scalar, Task
from routerd.worker.fleet import Fleet

_log = get_logger("hardware")

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SENSOR_SECONDS = 2.0
_AMBIENT_SECONDS = 0.01
_AMBIENT_SUBJECTS = ("flags", "time", "hardware")


class Identity(Protocol):
    """What policies can tell clients apart by."""

    @property
    def name(self) -> str: ...

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...


class FactSource:
    """Gathers facts. Only those that the policy in force uses are read from the machine."""

    def __init__(
        self,
        fleet: Fleet,
        flags: Mapping[str, Scalar | None],
        sensors: Sequence[Sensor] = (),
        *,
        device_watts: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._sensors = list(sensors)
        self._device_watts = dict(device_watts or {})
        self._clock = clock
        self._monotonic = monotonic
        self._flags = {f"flags.{name}": value for name, value in flags.items() if value is not None}
        self._machine: dict[str, Any] = {}
        self._machine_at = -_SENSOR_SECONDS
        self._ambient_facts: dict[str, Any] = {}
        self._ambient_used: frozenset[str] | None = None
        self._ambient_at = 0.0

    def gather(self, task: Task, workload: Workload, client: Identity, used: frozenset[str]) -> dict[str, Any]:
        """Facts about this task from this client, with those of time and hardware that ``used`` names."""
        facts: dict[str, Any] = {
            "workload.name": workload.declared_name,
            "workload.family": workload.family,
            "workload.engine": workload.engines,
            "task.work": task.work,
            "task.tolerance": task.tolerance,
            "task.priority": task.priority,
            "client.name": client.name,
            "client.uid": client.uid,
            "client.gid": client.gid,
        }
        if task.nbytes:
            facts["task.bytes"] = task.nbytes
        if task.batch is not None:
            facts["task.batch"] = task.batch
        if workload.model is not None:
            facts["task.model"], facts["task.model_version"] = workload.model
        if task.deadline_seconds is not None:
            facts["task.deadline_ms"] = task.deadline_seconds * 1000.0
        facts.update(self.ambient(used))
        return facts

    def ambient(self, used: frozenset[str]) -> dict[str, Any]:
        """Those of the facts ``used`` that depend on no task: flags, time, hardware. Read at most a hundred times a second.

        While nothing changed it is the same object, so that a cache can tell by identity.
        """
        now = self._monotonic()
        if now - self._ambient_at >= _AMBIENT_SECONDS or used is not self._ambient_used:
            names = [name for name in used if name.partition(".")[0] in _AMBIENT_SUBJECTS]
            read = {name: value for name in names if (value := self._read(name)) is not None}
            if read != self._ambient_facts:
                self._ambient_facts = read
            self._ambient_at, self._ambient_used = now, used
        return self._ambient_facts

    def watts(self, kind: str) -> float | None:
        """Watts that a device kind draws now, as a sensor reads them; ``None`` where none does."""
        reading = self._readings().get(f"hardware.{kind}.watts")
        return float(reading) if isinstance(reading, int | float) and 0.0 < reading < math.inf else None

    def free_bytes(self, kind: str) -> float | None:
        """Bytes free on a device kind now, as a sensor reads them; ``None`` where none does."""
        reading = self._readings().get(f"hardware.{kind}.free_bytes")
        return float(reading) if isinstance(reading, int | float) and 0.0 <= reading < math.inf else None

    def power(self) -> tuple[Mapping[str, float], str]:
        """Watts by device kind, and in words where they are from: a sensor's reading, or else the settings.

        What a client runs in its own process draws what the processor does.
        """
        read = {kind: watts for kind in DEVICE_KINDS if (watts := self.watts(kind)) is not None}
        known = self._device_watts | read
        origins = {kind: "sensor" if kind in read else "settings" for kind in sorted(known)}
        several = len(set(origins.values())) > 1
        words = [f"{origin} for {kind}" if several else origin for kind, origin in origins.items()]
        if "cpu" in known:
            known.setdefault("in_process", known["cpu"])
        return known, ", ".join(dict.fromkeys(words))

    def _read(self, name: str) -> Any:
        subject, _, rest = name.partition(".")
        if subject == "flags":
            return self._flags.get(name)
        if subject == "time":
            now = time.localtime(self._clock())
            return time.strftime("%H:%M", now) if rest == "local" else _WEEKDAYS[now.tm_wday]
        if subject == "hardware":
            device, _, quantity = rest.partition(".")
            return self._device(device, quantity) if quantity else self._readings().get(name)
        return None

    def _device(self, kind: str, quantity: str) -> Any:
        backends = [backend for backend in self._fleet.backends.values() if backend.spec.device_kind == kind]
        ready = [backend for backend in backends if backend.state == "ready"]
        if quantity == "available":
            return bool(ready)
        if quantity == "queue_ms" and ready:
            return min(backend.worker.queue_seconds() for backend in ready) * 1000.0
        if quantity in ("free_bytes", "utilisation", "watts"):
            return self._readings().get(f"hardware.{kind}.{quantity}")
        return None

    def _readings(self) -> dict[str, Any]:
        """What the machine and the plugins' sensors say, read at most every two seconds."""
        now = self._monotonic()
        if now - self._machine_at >= _SENSOR_SECONDS:
            self._machine_at = now
            self._machine = {
                "hardware.cpu.free_bytes": psutil.virtual_memory().available,
                "hardware.cpu.utilisation": psutil.cpu_percent(interval=None) / 100.0,
            }
            battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
            if battery is not None and battery.power_plugged is not None:
                self._machine["hardware.on_battery"] = not battery.power_plugged
            for sensor in list(self._sensors):
                self._machine |= self._read_sensor(sensor)
        return self._machine

    def _read_sensor(self, sensor: Sensor) -> Mapping[str, Scalar]:
        try:
            return sensor.read()
        except Unavailable as reason:
            _log.info("sensor is absent", sensor=sensor.name, reason=reason.message)
        except Exception as error:  # a third party's code: it loses its say, policies see the fact as missing
            _log.error("sensor failed", sensor=sensor.name, reason=f"{type(error).__name__}: {error}")
        self._sensors.remove(sensor)
        return {}
