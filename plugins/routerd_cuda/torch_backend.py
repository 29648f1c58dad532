"""``cuda.torch`` and ``cuda.torch_bf16``: the same kernels through torch on an NVIDIA card."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from routerd.errors import InvalidArray, OutOfMemory, Unavailable
from routerd.interfaces import Execution, HostArrays, Params, Workload
from routerd.namespaces.execution import execute_kernel, require_support
from routerd.types import Device
from routerd_cuda.card import describe, driver_version, memory_share
from routerd_cuda.driver import driver_problem
from routerd_cuda.reproducible import prepare_environment, prepare_torch

#: How NVIDIA's libraries say that they got no memory for their own workspace.
_LIBRARY_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED")


class TorchBackend:
    """torch on a card in float32; matrix products too (no TF32).

    ``device`` is torch's name of it: the first visible card, unless a test runs the same code on ``cpu``. The worker takes at
    most ``memory_bytes`` of the card's memory (0: nine tenths of it).
    """

    product_precision: str | None = None

    def __init__(self, device: str = "cuda:0", memory_bytes: int = 0) -> None:
        on_card = device.startswith("cuda")
        if on_card:
            problem = driver_problem()
            if problem is not None:
                raise Unavailable(problem)
            prepare_environment(os.environ)
        import torch

        if on_card and torch.version.cuda is None:
            raise Unavailable(
                f"torch {torch.__version__} is built without CUDA; install a build with it: on Linux "
                f"pip install --force-reinstall 'torch>=2.6' from PyPI, or the wheel for your driver's CUDA version"
            )
        from routerd_cuda.namespace import CudaNamespace

        prepare_torch(torch)
        self._torch = torch
        self._on_card = on_card
        self._memory_bytes = memory_bytes
        self._namespace = CudaNamespace(device, "float32", self.product_precision)

    def probe(self) -> Device:
        """Start CUDA, run one operation and describe the card. Raises ``Unavailable`` with the driver's or torch's reason."""
        cuda, device = self._torch.cuda, self._namespace.device
        try:
            cuda.init()
            properties = cuda.get_device_properties(device)
            self._torch.ones(1, device=device).item()  # a card that torch has no code for fails here
        except (RuntimeError, AssertionError, cuda.DeferredCudaCallError) as error:
            raise Unavailable(f"CUDA does not start: {_first_line(error)}") from error
        cuda.set_per_process_memory_fraction(memory_share(properties.total_memory, self._memory_bytes), device)
        versions = {"torch": str(self._torch.__version__), "cuda": str(self._torch.version.cuda)}
        return describe(properties, driver=driver_version(), **versions)

    def supports(self, workload: Workload) -> bool:
        require_support(workload, self._namespace)
        return True

    def prepare(self, workload: Workload) -> None:
        """torch compiles nothing ahead; its first call is slow because CUDA loads each kernel when it is first used."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        """Run one task; the outputs are on the host when this returns.

        Raises ``OutOfMemory`` where the card has too little memory free, and gives what the task took back to it; and
        ``InvalidArray`` for inputs that do not fit each other. Ends the process where CUDA's context is lost: no later task
        could succeed in it.
        """
        _require_fitting(workload, inputs)
        held = self._begin_watch()
        try:
            execution = execute_kernel(self._namespace, workload, params, inputs, into)
            return execution._replace(device_bytes=self._peak_bytes() - held)
        except OutOfMemory as error:
            self._give_back(error)
            raise
        except RuntimeError as error:
            if any(words in str(error) for words in _LIBRARY_OUT_OF_MEMORY):
                self._give_back(error)
                raise OutOfMemory(
                    f"{workload.name} leaves NVIDIA's libraries no memory on the card: {_first_line(error)}; "
                    f"send smaller inputs or let another backend take it"
                ) from error
            self._end_if_lost(error)
            raise

    def close(self) -> None:
        self._namespace.release()
        with contextlib.suppress(RuntimeError):  # a lost context gives nothing back; its process is ending
            self._torch.cuda.empty_cache()  # does nothing where CUDA was never started

    def _begin_watch(self) -> int:
        """Bytes of the card that arrays hold now, from where the next peak is counted."""
        if not self._on_card:
            return 0
        self._torch.cuda.reset_peak_memory_stats(self._namespace.device)
        return int(self._torch.cuda.memory_allocated(self._namespace.device))

    def _peak_bytes(self) -> int:
        """The most bytes that arrays have held since then."""
        return int(self._torch.cuda.max_memory_allocated(self._namespace.device)) if self._on_card else 0

    def context_is_lost(self) -> bool:
        """Whether CUDA refuses everything since a kernel failed in it (a bad address, a failed assertion, a fault of the card)."""
        try:
            self._namespace.synchronize()
        except RuntimeError:
            return True
        return False

    def _give_back(self, error: BaseException) -> None:
        """Free the failed task's arrays, which the frames of its traceback hold, and return them to the card."""
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__
        self._torch.cuda.empty_cache()

    def _end_if_lost(self, error: RuntimeError) -> None:
        if self.context_is_lost():
            sys.exit(f"the CUDA context is lost ({_first_line(error)}): the worker ends and is started anew")


class Bfloat16Backend(TorchBackend):
    """torch with operands of matrix products rounded to bfloat16, for cards that have units for them."""

    product_precision = "bfloat16"

    def probe(self) -> Device:
        device = super().probe()
        capability = str(device.detail["compute_capability"])
        if int(capability.partition(".")[0]) < 8:
            raise Unavailable(
                f"{device.name} has compute capability {capability}; bfloat16 matrix units come with 8.0 (Ampere)"
            )
        return device

    def supports(self, workload: Workload) -> bool:
        if not workload.matmul_bound:
            raise Unavailable(f"{workload.name} is not bound by matrix products, so bfloat16 would only lose precision")
        return super().supports(workload)


def _require_fitting(workload: Workload, inputs: HostArrays) -> None:
    """Inputs have the same length wherever they share a dimension. On a card an index beyond an array ends the context."""
    lengths: dict[str, int] = {}
    for array in workload.inputs:
        if array.name not in inputs:
            raise InvalidArray(f"{workload.name} needs the array {array.name}", array=array.name)
        for dim, length in zip(array.shape, inputs[array.name].shape, strict=True):
            expected = lengths.setdefault(dim, length) if isinstance(dim, str) else dim
            if length != expected:
                raise InvalidArray(
                    f"{workload.name}: {array.name} has length {length} where {dim} is {expected}", array=array.name
                )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
