"""What a worker computes: it holds the backends of one device and answers one job at a time."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from routerd.backends import create_backend
from routerd.errors import ExecutionError, OutOfMemory, RouterdError, Unavailable
from routerd.interfaces import Backend, BackendSpec, Execution, ModelId, Workload
from routerd.models.description import Description, unloadable
from routerd.models.loading import load_model
from routerd.namespaces.execution import contract_namespace, execute_kernel
from routerd.protocol import SegmentInfo, failure
from routerd.types import ITEM_BYTES, ArrayRef
from routerd.worker import messages
from routerd.worker.constants import Constants
from routerd.worker.joining import Means, execute_joined
from routerd.worker.messages import Outcome
from routerd.worker.parts import Parts
from routerd.worker.pieces import execute_in_pieces
from routerd.worker.segments import NOBODY, InputSegments, OutputSegment, OutputSegments, place
from routerd.workloads.binding import dims_of, output_shape
from routerd.workloads.content import check_content, relative_error, require_result

HostArrays = Mapping[str, "np.ndarray[Any, Any]"]

_Answer = TypeVar("_Answer")

_dtype_name = cache(str)  # NumPy puts the name together anew every time


class _Destination(NamedTuple):
    """Where a kernel may write: arrays over one segment and their offsets in it; ``segment`` is ``None`` without any."""

    arrays: dict[str, np.ndarray[Any, Any]]
    offsets: dict[str, int]
    segment: OutputSegment | None


_NOWHERE = _Destination({}, {}, None)


class Host:
    """Backends, segments and workloads of one worker process."""

    def __init__(self, workloads: Mapping[str, Workload], *, incarnation: int, inline_bytes: int) -> None:
        self._workloads = dict(workloads)
        self._models: dict[str, Description] = {}
        self._inline_bytes = inline_bytes
        self._backends: dict[str, Backend] = {}
        self._prepared: set[tuple[str, str]] = set()
        self._inputs = InputSegments()
        self._outputs = OutputSegments(incarnation)
        self.created: list[OutputSegment] = []
        self._constants = Constants()
        parts = Parts(self._means("parts"), self._outputs)
        self._handlers: dict[type, Callable[[Any], Outcome | None]] = {
            messages.Load: self._load,
            messages.Prove: self._prove,
            messages.Measure: self._measure,
            messages.Execute: self._execute,
            messages.ExecuteJoined: self._execute_joined,
            messages.Recycle: self._recycle,
            messages.Discard: self._discard,
            messages.Forget: self._forget,
            messages.Adopt: self._adopt,
            messages.Ping: lambda job: messages.Pong(job.id),
            messages.Release: self._let_go,
            messages.ExecutePart: parts.execute,
            messages.Merge: parts.merge,
            messages.EndParts: parts.end,
        }

    def attach(self, info: SegmentInfo, descriptor: int) -> None:
        """Map a client's segment for the tasks to come."""
        self._inputs.attach(info, descriptor)

    def miss(self, info: SegmentInfo, error: OSError) -> None:
        """A client's segment whose descriptor did not arrive: tasks that use it fail."""
        self._inputs.miss(info, error)

    def handle(self, job: messages.Job) -> Outcome | None:
        """Do one job. Whatever it raises becomes a :class:`messages.Failed`; the worker itself goes on."""
        return _guarded(_label(job), getattr(job, "id", 0), lambda: self._handlers[type(job)](job))

    def close(self) -> None:
        """Release every device."""
        for backend in self._backends.values():
            backend.close()

    def _load(self, job: messages.Load) -> messages.Loaded:
        started = perf_counter()
        spec = BackendSpec(
            name=job.backend, device_kind="", precision="", factory=job.factory, options=dict(job.options)
        )
        backend = create_backend(spec)
        device = backend.probe()
        self._backends[job.backend] = backend
        supported = {name: _support(backend, workload) for name, workload in self._workloads.items()}
        return messages.Loaded(job.id, device, supported, perf_counter() - started)

    def _prove(self, job: messages.Prove) -> messages.Proved:
        backend, workload = self._backends[job.backend], self._workload(job.workload)
        worst, cold_seconds, reference = 0.0, 0.0, contract_namespace(workload)
        for number, work in enumerate(job.works):
            example = workload.example(work, np.random.default_rng(messages.PROOF_SEED + number))
            for variant in workload.variants:
                params = _with_defaults(workload, {**example.params, **variant})
                contract = execute_kernel(reference, workload, params, example.arrays).outputs
                started = perf_counter()
                self._prepare(job.backend, workload)
                try:
                    outputs = backend.execute(workload, params, example.arrays, {}).outputs
                except (OutOfMemory, MemoryError):
                    if number == 0:
                        raise
                    return messages.Proved(job.id, worst, cold_seconds)  # tasks of this size go there in pieces at most
                cold_seconds = cold_seconds or perf_counter() - started
                worst = max(worst, relative_error(workload, outputs, contract))
        return messages.Proved(job.id, worst, cold_seconds)

    def _measure(self, job: messages.Measure) -> messages.Measured:
        workload = self._workload(job.workload)
        example = workload.example(job.work, np.random.default_rng(job.seed))
        params = _with_defaults(workload, example.params)
        dims = dims_of(workload, {name: array.shape for name, array in example.arrays.items()})
        seconds: list[float] = []
        begin = perf_counter()
        for repeat in range(messages.MEASURE_CALLS):
            started = perf_counter()
            refs, *_figures = self._run(job.backend, workload, params, example.arrays, dims, NOBODY)
            if repeat > 0:  # the first call warms caches and compiles
                seconds.append(perf_counter() - started)
            self._release(refs)
            elapsed = perf_counter() - begin
            if seconds and elapsed + elapsed / (repeat + 1) > job.budget_seconds:
                break
        self._outputs.forget(NOBODY)
        return messages.Measured(job.id, float(workload.work(params, dims)), tuple(seconds))

    def _execute(self, job: messages.Execute) -> messages.Executed:
        self._outputs.recycle(job.client, job.recycle)
        workload = self._workload(job.workload)
        inputs = {name: self._inputs.view(name, ref) for name, ref in job.arrays.items()}
        known = self._constants.known_good(workload, job.arrays, job.frozen)
        refs, transfer, kernel, device_bytes = self._run(
            job.backend, workload, job.params, inputs, job.dims, job.client, known, job.pieces
        )
        self._constants.note_good(workload, job.arrays, job.frozen)
        created = tuple(segment.info for segment in self.created)
        return messages.Executed(job.id, job.client, refs, transfer, kernel, created, device_bytes)

    def _execute_joined(self, job: messages.ExecuteJoined) -> messages.ExecutedJoined:
        for member in job.members:
            self._outputs.recycle(member.client, member.recycle)
        return execute_joined(job, self._means(_label(job)))

    def _means(self, label: str) -> Means:
        return Means(
            workload=self._workload,
            view=self._inputs.view,
            compute=self._compute,
            hand_over=lambda outputs, client: self._place(outputs, _NOWHERE, client),
            guarded=lambda place, work: _guarded(label, place, work),
            created=lambda: self.created,
            constants=self._constants,
        )

    def _compute(self, name: str, workload: Workload, params: Mapping[str, Any], inputs: HostArrays) -> Execution:
        """A checked task, run; its outputs stay in this process."""
        self._prepare(name, workload)
        execution = self._backends[name].execute(workload, params, inputs, {})
        dims = dims_of(workload, {one: array.shape for one, array in inputs.items()})
        require_result(workload, execution.outputs, dims, name)
        return execution

    def _workload(self, name: str) -> Workload:
        workload = self._workloads.get(name)
        if workload is None:
            raise Unavailable(f"this worker does not hold {name} yet")
        return workload

    def _adopt(self, job: messages.Adopt) -> messages.Adopted:
        """Load a model unless it is loaded already, or no backend here could run it: then not even its file is opened."""
        description = self._models.get(job.workload)
        if description is None:
            supported = self._supported(unloadable(job.workload, Path(job.file).suffix))
            if all(reason is not None for reason in supported.values()):
                return messages.Adopted(job.id, None, supported)
            model = ModelId(job.model, job.version)
            description, self._workloads[job.workload] = load_model(
                Path(job.directory), model, job.file, job.workload, limit=job.max_bytes, digest=job.digest
            )
            self._models[job.workload] = description
        return messages.Adopted(job.id, description, self._supported(self._workloads[job.workload]))

    def _supported(self, workload: Workload) -> dict[str, str | None]:
        return {name: _support(backend, workload) for name, backend in self._backends.items()}

    def _let_go(self, job: messages.Release) -> None:
        self._models.pop(job.workload, None)
        self._workloads.pop(job.workload, None)
        self._prepared = {one for one in self._prepared if one[1] != job.workload}

    def _run(
        self,
        name: str,
        workload: Workload,
        params: Mapping[str, Any],
        inputs: HostArrays,
        dims: Mapping[str, int],
        client: int,
        known: Collection[str] = (),
        pieces: int = 1,
    ) -> tuple[dict[str, ArrayRef], float, float, int]:
        """One task, from inputs to outputs placed for the client; seconds outside and inside the kernel; bytes on the device.

        The values of the inputs ``known`` were checked before.
        """
        started = perf_counter()
        check_content(workload, params, inputs, known)
        self._prepare(name, workload)
        destination = self._destination(workload, dims, client)
        try:
            backend = self._backends[name]
            if pieces > 1:
                execution = execute_in_pieces(
                    workload, params, inputs, pieces, lambda part, arrays: backend.execute(workload, part, arrays, {})
                )
            else:
                execution = backend.execute(workload, params, inputs, destination.arrays)
            require_result(workload, execution.outputs, dims, name)
            refs = self._place(execution.outputs, destination, client)
        except BaseException:
            if destination.segment is not None:
                self._abandon(client, destination.segment)
            raise
        kernel = execution.kernel_seconds
        return refs, perf_counter() - started - kernel, kernel, execution.device_bytes

    def _prepare(self, name: str, workload: Workload) -> None:
        if (name, workload.name) not in self._prepared:
            self._backends[name].prepare(workload)
            self._prepared.add((name, workload.name))

    def _destination(self, workload: Workload, dims: Mapping[str, int], client: int) -> _Destination:
        """Writable arrays over a segment for large outputs of known shape, so that a kernel may write in place."""
        large = {}
        for output in workload.outputs:
            shape = output_shape(output, dims)
            if shape is not None and math.prod(shape) * ITEM_BYTES[output.dtype] > self._inline_bytes:
                large[output.name] = (shape, np.dtype(output.dtype))
        if not large:
            return _NOWHERE
        offsets, size = place(large)
        segment = self._acquire(client, size)
        return _Destination({name: _view(segment, offsets[name], *large[name]) for name in large}, offsets, segment)

    def _place(self, outputs: HostArrays, destination: _Destination, client: int) -> dict[str, ArrayRef]:
        """References to the outputs: small ones inline, large ones where they were to go or, unforeseen, in a new segment."""
        refs: dict[str, ArrayRef] = {}
        late: dict[str, np.ndarray[Any, Any]] = {}
        for name, output in outputs.items():
            target = destination.arrays.get(name)
            if target is not None and destination.segment is not None and target.shape == output.shape:
                if output is not target:
                    np.copyto(target, output)
                number = destination.segment.info.segment
                refs[name] = ArrayRef(target.shape, _dtype_name(target.dtype), number, destination.offsets[name])
            elif output.nbytes <= self._inline_bytes:
                refs[name] = ArrayRef(output.shape, _dtype_name(output.dtype), data=output.tobytes())
            else:
                late[name] = output
        if late:
            offsets, size = place({name: (output.shape, output.dtype) for name, output in late.items()})
            extra = self._acquire(client, size)
            for name, output in late.items():
                np.copyto(_view(extra, offsets[name], output.shape, output.dtype), output)
                refs[name] = ArrayRef(output.shape, _dtype_name(output.dtype), extra.info.segment, offsets[name])
        return refs

    def _acquire(self, client: int, size: int) -> OutputSegment:
        try:
            segment, new = self._outputs.acquire(client, size)
        except OSError as error:
            raise OutOfMemory(f"no shared memory for a result of {size} bytes: {error.strerror}") from error
        if new and client != NOBODY:
            self.created.append(segment)
        return segment

    def _abandon(self, client: int, segment: OutputSegment) -> None:
        """A failed task's segment: keep it if the client knows it, else let it go unannounced."""
        if segment in self.created:
            self.created.remove(segment)
            segment.close_descriptor()
            self._outputs.discard(client, (segment.info.segment,))
        else:
            self._outputs.recycle(client, (segment.info.segment,))

    def _release(self, refs: Mapping[str, ArrayRef]) -> None:
        used = {ref.segment for ref in refs.values() if ref.segment is not None}
        self._outputs.recycle(NOBODY, used)

    def _recycle(self, job: messages.Recycle) -> None:
        self._outputs.recycle(job.client, job.segments)

    def _discard(self, job: messages.Discard) -> None:
        self._outputs.discard(job.client, job.segments)

    def _forget(self, job: messages.Forget) -> None:
        self._inputs.drop(job.segments)
        self._constants.drop(job.segments)
        if job.client is not None:
            self._outputs.forget(job.client)


def _guarded(label: str, number: int, work: Callable[[], _Answer]) -> _Answer | messages.Failed:
    """What ``work`` answers, or what became of it as a failure of this number."""
    trace = ""
    try:
        return work()
    # No variable keeps an exception: its traceback would keep this frame, and both the arrays of the failed task.
    except RouterdError as error:
        problem = failure(error)
    except MemoryError as error:
        problem = failure(OutOfMemory(f"{label}: not enough host memory ({error})"))
    except Exception as error:  # a kernel may raise anything: the client gets it as an error, with its type
        problem = failure(ExecutionError(f"{label} raised {type(error).__name__}: {error}"))
        trace = traceback.format_exc()
    return messages.Failed(number, problem, trace)


def _view(segment: OutputSegment, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(segment.map, dtype=dtype, count=math.prod(shape), offset=offset).reshape(shape)


def _support(backend: Backend, workload: Workload) -> str | None:
    try:
        return None if backend.supports(workload) else "the backend does not support this workload"
    except Unavailable as reason:
        return reason.message


def _with_defaults(workload: Workload, params: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
    return {**defaults, **params}


def _label(job: messages.Job) -> str:
    return " ".join(filter(None, (getattr(job, "backend", ""), getattr(job, "workload", "")))) or type(job).__name__
