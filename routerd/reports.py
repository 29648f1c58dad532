"""What the daemon says about itself: true at the moment of asking, in plain data."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import psutil

from routerd import __version__
from routerd.calibrator import Calibrator
from routerd.decisions import DecisionCache
from routerd.flags import Flags
from routerd.interfaces import NEEDS, Array, Parameter, Workload
from routerd.plugins import PluginRegistry
from routerd.policies import PolicyKeeper
from routerd.reported import ReportedWork
from routerd.router import Router
from routerd.settings import Settings
from routerd.store import Store
from routerd.table import DecisionTable
from routerd.worker.fleet import BackendState, Fleet, Pair
from routerd.worker.teams import Team
from routerd.workloads.binding import TASK_OPTIONS
from routerd.workloads.ml import MODEL


class Reporter:
    """Builds the answers to status, stats, backends, workloads and flags."""

    def __init__(
        self,
        settings: Settings,
        flags: Flags,
        registry: PluginRegistry,
        fleet: Fleet,
        router: Router,
        cache: DecisionCache,
        calibrator: Calibrator,
        policies: PolicyKeeper,
        store: Store,
        traffic: Callable[[], dict[str, int]],
        table: DecisionTable,
        reported: ReportedWork,
    ) -> None:
        self._settings = settings
        self._flags = flags
        self._registry = registry
        self._fleet = fleet
        self._router = router
        self._cache = cache
        self._calibrator = calibrator
        self._policies = policies
        self._store = store
        self._traffic = traffic
        self._table = table
        self._reported = reported
        self._started = time.monotonic()
        self._process = psutil.Process()
        self._memory_bytes = 0

    def status(self) -> dict[str, Any]:
        """Whether the next request would be served, by what, under which policy."""
        backends = self._fleet.backends.values()
        ready = [backend.spec.name for backend in backends if backend.state == "ready"]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self._started,
            "ready": bool(ready),
            "socket": str(self._settings.socket),
            "state_dir": str(self._settings.state_dir),
            "models_dir": str(self._settings.models_dir),
            "memory_bytes": self._resident_bytes(),
            "policy": self._policies.summary(),
            "backends": {backend.spec.name: backend.state for backend in backends},
            "workers": [
                {
                    "name": worker.name,
                    "pid": worker.pid,
                    "state": worker.state,
                    "restarts": worker.restarts,
                    "memory_bytes": worker.private_bytes,
                    "waiting": worker.waiting,
                    "queue_seconds": worker.queue_seconds(),
                    "joined_executions": worker.joined.executions,
                    "joined_tasks": worker.joined.tasks,
                }
                for worker in self._fleet.workers
            ],
            "calibration_pending": len(self._calibrator.pending(())),
            "decisions": self._decisions(),
            "table": {
                "entries": self._table.entries,
                "compiled": self._table.compiled,
                "compile_seconds": self._table.compile_seconds,
                "too_large": self._table.too_large,
                "decisions": self._reported.decisions,
                "in_process": self._reported.runs.total(),
            },
            "traffic": self._traffic(),
            "plugins_failed": [report.name for report in self._registry.reports if report.state == "failed"],
        }

    def stats(self) -> dict[str, Any]:
        """Counters since start."""
        return {
            "uptime_seconds": time.monotonic() - self._started,
            "decided": self._router.decided + self._cache.hits,
            "decided_from_cache": self._cache.hits,
            "executed": self._router.executed,
            "failed": self._router.failed,
            "fallbacks": self._router.executor.fallbacks,
            "reruns": self._router.executor.reruns,
            "contents_refused": self._router.executor.quarantine.refused,
            "explored": self._router.explorer.explored,
            "decided_from_table": self._reported.decisions,
            "executed_in_process": self._reported.runs.total(),
            "failed_in_process": self._reported.failed,
            **{f"decisions_{name}": count for name, count in self._decisions().items()},
            **self._traffic(),
        }

    def backends(self) -> dict[str, Any]:
        """Every backend, team and plugin, with its state and reason, its device, and each workload's proof."""
        return {
            "backends": [self._backend(backend) for backend in self._fleet.backends.values()],
            "hybrid": [_team(team) for team in self._fleet.teams],
            "plugins": [
                {
                    "name": report.name,
                    "version": report.version,
                    "state": report.state,
                    "reason": report.reason,
                    "backends": report.backends,
                }
                for report in self._registry.reports
            ],
        }

    def workloads(self, name: str | None) -> list[dict[str, Any]]:
        """The catalogue, or one workload. Raises ``UnknownWorkload``."""
        wanted = self._fleet.workloads.values() if name is None else (self._router.workload(name),)
        return [self._workload(workload) for workload in wanted]

    def flags(self) -> list[dict[str, Any]]:
        """Every environment flag with value, source, effect and state."""
        devices = {backend.device.kind for backend in self._fleet.backends.values() if backend.device is not None}
        return [msgspec.to_builtins(state) for state in self._flags.report(devices)]

    def pending(self, workloads: Collection[str]) -> dict[str, Any]:
        """Pairs still to be proved or timed."""
        starting = [name for name, backend in self._fleet.backends.items() if backend.state == "starting"]
        names = [self._router.workload(name).name for name in workloads]
        open_pairs: Sequence[tuple[str, str]] = self._calibrator.pending(names)
        return {"starting": starting, "pairs": [{"backend": one, "workload": two} for one, two in open_pairs]}

    def _resident_bytes(self) -> int:
        """Memory of this process now; as it was when last asked, while there is no descriptor to ask the system with."""
        with contextlib.suppress(OSError):
            self._memory_bytes = self._process.memory_info().rss
        return self._memory_bytes

    def _decisions(self) -> dict[str, int]:
        store = self._store
        return {"recorded": store.recorded, "dropped": store.dropped, "write_errors": store.write_errors}

    def _backend(self, backend: BackendState) -> dict[str, Any]:
        spec, device = backend.spec, backend.device
        return {
            "name": spec.name,
            "plugin": self._registry.backend_plugin[spec.name],
            "device_kind": spec.device_kind,
            "precision": spec.precision,
            "state": backend.state,
            "reason": backend.reason,
            "device": None if device is None else msgspec.to_builtins(device),
            "load_seconds": backend.load_seconds,
            "worker": backend.worker.name,
            "planned": backend.planned,
            "ran": backend.ran,
            "failed": backend.failed,
            "workloads": [_pair(pair) for pair in backend.pairs.values()],
        }

    def _workload(self, workload: Workload) -> dict[str, Any]:
        return {
            "name": workload.name,
            "summary": workload.summary,
            "source": workload.source,
            "engines": workload.engines,
            "tolerance": workload.tolerance,
            "work_unit": workload.work_unit,
            "work_range": workload.work_range,
            "needs": {need: NEEDS[need] for need in sorted(workload.needs)},
            "cpu_only": workload.cpu_only,
            "splits": workload.split is not None,
            "parameters": [_parameter(parameter) for parameter in workload.parameters],
            "options": [_parameter(option) for option in TASK_OPTIONS],
            "inputs": [_array(array) for array in workload.inputs],
            "outputs": [_array(array) for array in workload.outputs],
            "backends": {
                name: _pair(backend.pairs[workload.name])
                for name, backend in self._fleet.backends.items()
                if workload.name in backend.pairs
            },
            **({"models": self._router.releases.report()} if workload.name == MODEL else {}),
        }


def _team(team: Team) -> dict[str, Any]:
    return {
        "workload": team.workload,
        "members": team.members,
        "state": "calibrated" if team.model.calibrated else "untimed",
        "reason": team.objection() or "",
        "slowdowns": {member: team.slowdown(member) for member in team.members},
        "executions": team.used,
        "points": [msgspec.to_builtins(point) for point in team.model.points],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    if pair.unsupported is not None:
        state = "unsupported"
    elif pair.absent:
        state = "loading"
    elif pair.quarantine is not None:
        state = "quarantined"
    elif pair.error is None:
        state = "unproved"
    elif not pair.breaker.closed:
        state = "breaker_open"
    else:
        state = "calibrated" if pair.model.calibrated else "proved"
    return {
        "workload": pair.workload,
        "state": state,
        "reason": pair.objection() or "",
        "error": pair.error,
        "cold_seconds": pair.model.cold_seconds,
        "executions": pair.used,
        "points": [msgspec.to_builtins(point) for point in pair.model.points],
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "type": parameter.type,
        "unit": parameter.unit,
        "doc": parameter.doc,
        "default": parameter.default,
        "minimum": parameter.minimum,
        "above_minimum": parameter.above_minimum,
        "maximum": parameter.maximum,
        "choices": parameter.choices,
        "optional": parameter.optional,
    }


def _array(array: Array) -> dict[str, Any]:
    return {
        "name": array.name,
        "shape": array.shape,
        "dtype": array.dtype,
        "unit": array.unit,
        "doc": array.doc,
        "finite": array.finite,
        "minimum": array.minimum,
        "above_minimum": array.above_minimum,
        "maximum": array.maximum,
    }
