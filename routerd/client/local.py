"""Tiny work in the client's own process: the contract's kernel, without the daemon, where the table says that this is best."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np

from routerd.client.result import TaskResult
from routerd.client.table import Table, View, catalogue
from routerd.errors import ExecutionError, OutOfMemory, RouterdError
from routerd.interfaces import IN_PROCESS_BACKEND
from routerd.protocol import InProcessRuns
from routerd.types import Decision, Placed, Result, Timing
from routerd.workloads.content import check_content, require_finite

_SAMPLES = 16  # of each workload in one report
_HERE = Placed(IN_PROCESS_BACKEND, "in_process")


class LocalWork:
    """Runs what the table sends to the caller, and keeps count until :meth:`take_runs`."""

    def __init__(self, table: Table) -> None:
        self.count = 0
        self._table = table
        self._warm: set[str] = set()
        self._counts: dict[str, list[int]] = {}
        self._samples: dict[str, list[tuple[float, float]]] = {}

    def view(self, workload: str) -> View | None:
        """The entry to look at before running such a task, or ``None`` if it is surely the daemon's."""
        return self._table.view(workload) if workload in catalogue() else None

    def run(
        self, view: View, params: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]
    ) -> TaskResult | None:
        """The result, if this is a task for the caller; otherwise ``None``. Raises what the daemon would raise."""
        if not view.refresh():
            return None
        started = perf_counter()
        workload = catalogue()[view.workload]
        if any(declared.name not in arrays for declared in workload.inputs):
            return None  # not a task to run: the daemon says what is missing
        question = self._table.question(workload.name, {**params, **arrays})
        if question is None:
            return None
        decision = view.by_question(question)
        if decision is None or decision.backend != IN_PROCESS_BACKEND:
            return None
        counts = self._counts.setdefault(workload.name, [0, 0])
        counts[0] += 1
        self.count += 1
        try:
            outputs, kernel_seconds = _compute(workload.name, question.params, arrays)
        except Exception as error:
            counts[1] += 1
            if isinstance(error, RouterdError):
                raise
            kind = OutOfMemory if isinstance(error, MemoryError) else ExecutionError
            raise kind(f"{workload.name} on {IN_PROCESS_BACKEND} raised {type(error).__name__}: {error}") from error
        total = perf_counter() - started
        samples = self._samples.setdefault(workload.name, [])
        if workload.name not in self._warm:  # the first run imports and prepares, which says nothing of the next
            self._warm.add(workload.name)
        elif len(samples) < _SAMPLES:
            samples.append((question.work, total))
        return TaskResult(_result(decision, kernel_seconds, total), outputs)

    def take_runs(self) -> tuple[InProcessRuns, ...]:
        """What was run since this was last asked."""
        self.count = 0
        counts, self._counts = self._counts, {}
        samples, self._samples = self._samples, {}
        return tuple(
            InProcessRuns(name, count, failed, tuple(samples.get(name, ()))) for name, (count, failed) in counts.items()
        )


def _compute(
    name: str, params: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]
) -> tuple[dict[str, Any], float]:
    """The outputs as a user gets them, and the seconds of the kernel."""
    from routerd.namespaces.execution import execute_kernel
    from routerd.namespaces.numpy import NumpyNamespace

    workload = catalogue()[name]
    arrays = {given: np.asarray(array) for given, array in arrays.items()}  # a subclass may compute in ways of its own
    check_content(workload, params, arrays)
    with np.errstate(all="ignore"):  # what the caller has set is for the caller's own work
        execution = execute_kernel(NumpyNamespace(), workload, params, arrays)
    require_finite(workload, execution.outputs, IN_PROCESS_BACKEND)
    outputs: dict[str, Any] = {}
    for output, array in execution.outputs.items():
        if array.shape == ():
            outputs[output] = array.item()
            continue
        own = np.ascontiguousarray(array)
        if any(np.may_share_memory(own, given) for given in arrays.values()):
            own = own.copy()  # the caller may change its input afterwards
        own.flags.writeable = False
        outputs[output] = own
    return outputs, execution.kernel_seconds


def _result(decision: Decision, kernel_seconds: float, total_seconds: float) -> Result:
    return Result(
        decision=decision,
        outputs={},
        planned=_HERE,
        ran_on=_HERE,
        timing=Timing(
            queue_seconds=0.0,
            transfer_seconds=total_seconds - kernel_seconds,
            kernel_seconds=kernel_seconds,
            total_seconds=total_seconds,
        ),
    )
