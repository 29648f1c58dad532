"""``cpu.torch`` and ``cpu.torch_bf16``: the same kernels through torch, on as many threads as the work deserves."""

from __future__ import annotations

from routerd.errors import Unavailable
from routerd.interfaces import Execution, HostArrays, Params, Workload
from routerd.namespaces.execution import execute_kernel, require_support
from routerd.namespaces.torch import TorchNamespace
from routerd.types import Device
from routerd.workloads.binding import dims_of
from routerd_cpu.processor import available_threads, describe, read_processor


class TorchBackend:
    """torch on the processor in float32.

    ``threads`` bounds its thread pool (0: every processor available); tasks whose work is below
    ``parallel_threshold`` run on one thread.
    """

    product_precision: str | None = None

    def __init__(self, threads: int = 0, parallel_threshold: float = 0.0) -> None:
        import torch

        self._torch = torch
        self._threads = threads or available_threads()
        self._parallel_threshold = parallel_threshold
        self._namespace = TorchNamespace("cpu", "float32", self.product_precision)

    def probe(self) -> Device:
        return describe(read_processor(), threads=self._threads, torch=str(self._torch.__version__))

    def supports(self, workload: Workload) -> bool:
        require_support(workload, self._namespace)
        return True

    def prepare(self, workload: Workload) -> None:
        """torch compiles nothing ahead; its first call is slow because it starts the thread pool."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        self._use_threads_for(workload, params, inputs)
        return execute_kernel(self._namespace, workload, params, inputs, into)

    def close(self) -> None:
        """torch keeps its thread pool until the process ends."""

    def _use_threads_for(self, workload: Workload, params: Params, inputs: HostArrays) -> None:
        dims = dims_of(workload, {name: array.shape for name, array in inputs.items()})
        wanted = self._threads if workload.work(params, dims) >= self._parallel_threshold else 1
        if self._torch.get_num_threads() != wanted:  # asking is cheap, setting is not
            self._torch.set_num_threads(wanted)


class Bfloat16Backend(TorchBackend):
    """torch with operands of matrix products rounded to bfloat16, for processors that have a unit for them."""

    product_precision = "bfloat16"

    def probe(self) -> Device:
        if not read_processor().has_bfloat16:
            raise Unavailable("the processor has no bfloat16 matrix unit (amx_bf16, avx512_bf16 or FEAT_BF16)")
        return super().probe()

    def supports(self, workload: Workload) -> bool:
        if not workload.matmul_bound:
            raise Unavailable(f"{workload.name} is not bound by matrix products, so bfloat16 would only lose precision")
        return super().supports(workload)
