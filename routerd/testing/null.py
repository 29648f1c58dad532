"""A backend without a device: real in all it does, and able to fail in every way a real one can."""

from __future__ import annotations

import os
import threading
import time

from routerd.errors import Unavailable
from routerd.interfaces import BackendSpec, Execution, HostArrays, Params, Workload
from routerd.types import Device, Scalar

#: How a :class:`NullBackend` can fail.
FAILURES = ("", "unavailable", "unsupported", "raise", "wrong", "nan", "exit", "hang")


class NullBackend:
    """Runs the contract's kernel and, on request, fails.

    Args:
        device_kind: the kind of the device that ``probe`` reports.
        delay_seconds: how much longer each execution takes.
        fail: ``unavailable`` (the probe gives a reason), ``unsupported`` (no workload is supported), ``raise``
            (``RuntimeError``), ``wrong`` (outputs off by one), ``nan``, ``exit`` (the process ends, as after a crash of
            native code) or ``hang`` (the call never returns).
        fail_after: executions that succeed before ``fail`` begins.
    """

    def __init__(
        self, device_kind: str = "cpu", delay_seconds: float = 0.0, fail: str = "", fail_after: int = 0
    ) -> None:
        if fail not in FAILURES:
            raise ValueError(f"there is no failure {fail!r}; use one of {', '.join(filter(None, FAILURES))}")
        self._device_kind = device_kind
        self._delay_seconds = delay_seconds
        self._fail = fail
        self._good_left = fail_after

    def probe(self) -> Device:
        if self._fail == "unavailable":
            raise Unavailable("the null device was asked to be absent")
        return Device(kind=self._device_kind, name="null")

    def supports(self, workload: Workload) -> bool:
        from routerd.namespaces.execution import refusal
        from routerd.namespaces.numpy import NumpyNamespace

        return self._fail != "unsupported" and refusal(workload, NumpyNamespace()) is None

    def prepare(self, workload: Workload) -> None:
        """There is nothing to compile."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        import numpy as np

        from routerd.namespaces.execution import execute_kernel
        from routerd.namespaces.numpy import NumpyNamespace

        if self._delay_seconds > 0.0:
            time.sleep(self._delay_seconds)
        failing = self._good_left <= 0
        self._good_left -= 1
        if failing:
            self._fail_early()
        execution = execute_kernel(NumpyNamespace(into), workload, params, inputs, into)
        if failing and self._fail in ("wrong", "nan"):
            offset = 1.0 if self._fail == "wrong" else float("nan")
            spoilt = {name: np.asarray(array + offset, dtype=array.dtype) for name, array in execution.outputs.items()}
            return execution._replace(outputs=spoilt)
        return execution

    def close(self) -> None:
        """Nothing is held."""

    def _fail_early(self) -> None:
        if self._fail == "raise":
            raise RuntimeError("the null device was asked to fail")
        if self._fail == "exit":
            os._exit(70)
        if self._fail == "hang":
            threading.Event().wait()


def null_backend_spec(name: str = "test.null", device_kind: str = "cpu", **options: Scalar) -> BackendSpec:
    """The announcement of a :class:`NullBackend`; ``options`` are its arguments. Each has a worker of its own."""
    return BackendSpec(
        name=name,
        device_kind=device_kind,
        precision="float64",
        factory="routerd.testing.null:NullBackend",
        group=name.replace(".", "_"),
        options={"device_kind": device_kind, **options},
    )
