"""``cpu.numpy``: the contract. Every kernel as it is written, in float64."""

from __future__ import annotations

import numpy as np

from routerd.interfaces import Execution, HostArrays, Params, Workload
from routerd.namespaces.execution import execute_kernel, require_support
from routerd.namespaces.numpy import NumpyNamespace
from routerd.types import Device
from routerd_cpu.processor import available_threads, describe, read_processor


class NumpyBackend:
    """NumPy on the processor. Products are written straight into the output buffers where a kernel says which."""

    def __init__(self, *, threads: int | None = None) -> None:
        self._threads = threads or available_threads()  # its worker's environment holds the numeric library to them

    def probe(self) -> Device:
        return describe(read_processor(), threads=self._threads, numpy=np.__version__)

    def supports(self, workload: Workload) -> bool:
        """Whatever is in the catalogue runs here, or there would be nothing to compare with; users' models may not."""
        require_support(workload, NumpyNamespace())
        return True

    def prepare(self, workload: Workload) -> None:
        """There is nothing to compile."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        return execute_kernel(NumpyNamespace(into), workload, params, inputs, into)

    def close(self) -> None:
        """Nothing is held."""
