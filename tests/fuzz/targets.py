"""What is fuzzed: each target opens something, and checks one input of bytes against what must hold for every input.

A check raises for a defect and returns for everything else, so any engine can drive it: hypothesis, atheris, or a file that
is replayed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
from hypothesis import strategies as st

from routerd.client.core import (
    ReplyStream,
    decision_decoder,
    located_decoder,
    result_decoder,
    result_of,
    welcome_decoder,
)
from routerd.errors import BadRequest, FrameTooLarge, InvalidPolicy, RouterdError, from_wire
from routerd.flags import load_flags
from routerd.interfaces import CONTRACT_BACKEND, DEVICE_KINDS
from routerd.outbox import close_all
from routerd.policy import Vocabulary, compile_policy, load_policy
from routerd.protocol import HEADER, UNDECODABLE, FrameBuffer, Reply, Request
from routerd.types import ArrayRef, Decision, Result
from routerd.worker import messages
from routerd.worker.host import Host
from routerd.workloads.binding import bind
from tests.fuzz.documents import documents
from tests.fuzz.inputs import MAX_FRAME_BYTES, METHODS, WORKLOADS, Bytes, encode, frame, of_struct, spoiled, streams
from tests.fuzz.tasks import example, inline, is_affordable, tasks

Check: TypeAlias = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"


class Target(NamedTuple):
    """``open`` gives the check, and holds what it needs; ``inputs`` are what hypothesis tries, ``corpus`` names the seeds."""

    name: str
    corpus: str
    open: Callable[[], contextlib.AbstractContextManager[Check]]
    inputs: Bytes

    def seeds(self) -> list[Path]:
        """The committed inputs: one of every kind, and each that has found a defect."""
        return sorted((CORPUS / self.corpus).iterdir())


# -- the wire ---------------------------------------------------------------------------------------------------------

_request_decoder = msgspec.msgpack.Decoder(Request)
_params_decoders = {method: msgspec.msgpack.Decoder(kind) for method, kind in METHODS.items()}
_undecodable = UNDECODABLE


def check_frames(data: bytes) -> None:
    """However a stream is cut, the same bodies come out of it and no more is kept than one frame; each decodes or is refused."""
    whole = _cut_into_bodies([data])
    step = 1 + len(data) % 7
    pieces = [data[place : place + step] for place in range(0, len(data), step)]
    assert _cut_into_bodies(pieces) == whole
    for body in whole[0]:
        with contextlib.suppress(*_undecodable):
            request = _request_decoder.decode(body)
            decoder = _params_decoders.get(request.method)
            if decoder is not None:
                decoder.decode(request.params)


def _cut_into_bodies(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The bodies, and whether one was too large."""
    buffer, bodies = FrameBuffer(MAX_FRAME_BYTES), []
    for piece in pieces:
        try:
            for body in buffer.feed(piece):
                assert len(body) <= MAX_FRAME_BYTES
                bodies.append(body)
        except FrameTooLarge:
            return bodies, True
        assert len(buffer._rest) < HEADER.size + MAX_FRAME_BYTES
    return bodies, False


def check_replies(data: bytes) -> None:
    """Whatever a daemon sends, a client gets replies, a refusal of the bytes, or an exception of routerd's own."""
    replies = ReplyStream()
    with contextlib.suppress(*_undecodable, RouterdError):
        for reply, descriptors in replies.feed(data, []):
            close_all(descriptors)
            with contextlib.suppress(*_undecodable, RouterdError):
                result = result_of(reply)
                for decoder in (result_decoder, decision_decoder, welcome_decoder, located_decoder):
                    with contextlib.suppress(*_undecodable):
                        decoder.decode(result)
    replies.close()


_results = st.one_of(of_struct(Result), of_struct(Decision), of_struct(messages.Executed))
_replies = of_struct(Reply, {"result": _results | spoiled(_results)}).map(encode) | spoiled(
    of_struct(Reply, {"result": _results})
).map(encode)
_reply_streams = st.lists(_replies.map(frame), min_size=1, max_size=4).map(b"".join)

# -- workers ----------------------------------------------------------------------------------------------------------

_JOBS = (
    messages.Load,
    messages.Prove,
    messages.Measure,
    messages.Execute,
    messages.Adopt,
    messages.Recycle,
    messages.Discard,
    messages.Forget,
    messages.Release,
)
_OUTCOMES = (messages.Loaded, messages.Proved, messages.Measured, messages.Executed, messages.Adopted, messages.Failed)
_FACTORIES = ("routerd.testing:NullBackend", "routerd.testing:Nothing", "no.module:Backend", "routerd.testing", "", ":")
_MOST_WORK = 1e5


@contextlib.contextmanager
def open_host() -> Iterator[Host]:
    """What a worker is, in this process, with the contract's backend."""
    host = Host(WORKLOADS, incarnation=1, inline_bytes=256)
    loaded = host.handle(messages.Load(1, CONTRACT_BACKEND, "routerd_cpu.numpy_backend:NumpyBackend", {}))
    assert isinstance(loaded, messages.Loaded), loaded
    try:
        yield host
    finally:
        host.close()


@contextlib.contextmanager
def open_jobs() -> Iterator[Check]:
    """A worker answers every job with an outcome, and goes on."""
    with open_host() as host:

        def check(data: bytes) -> None:
            try:
                job = messages.job_decoder.decode(data)
            except _undecodable:
                return
            if not _is_harmless(job):
                return
            outcome = host.handle(job)
            assert outcome is None or messages.outcome_decoder.decode(encode(outcome)).id == job.id
            _let_go(host)

        yield check


def _is_harmless(job: messages.Job) -> bool:
    """Not a job that only the daemon could give and would not: code of others, or work without end."""
    match job:
        case messages.Load():
            return (
                job.factory in _FACTORIES
                and not job.options.keys() - {"fail", "device_kind"}
                and "exit" not in job.options.values()
            )
        case messages.Prove():
            return all(0.0 < work <= _MOST_WORK for work in job.works)
        case messages.Measure():
            return 0.0 < job.work <= _MOST_WORK and job.budget_seconds <= 0.01
        case messages.Execute():
            workload = WORKLOADS.get(job.workload)
            refs = {name: msgspec.to_builtins(ref) for name, ref in job.arrays.items()}
            params = {**job.params, **(job.dims if workload and not workload.inputs else {})}
            return workload is None or (
                is_affordable({"workload": job.workload, "params": params, "arrays": refs}) and _is_bound_so(job)
            )
        case _:
            return True


def _is_bound_so(job: messages.Execute) -> bool:
    """Whether the daemon would have bound the task to these dimensions: nothing else reaches a worker."""
    try:
        task = bind(WORKLOADS[job.workload], job.params, job.arrays, need_content=True)
    except (RouterdError, ArithmeticError):
        return False
    return task.dims == job.dims and task.params == job.params


def _let_go(host: Host) -> None:
    """As if every client had left, which leaves nothing behind."""
    for segment in host.created:
        segment.close_descriptor()
    host.created.clear()
    for client in {*host._outputs._free, *host._outputs._lent}:
        host.handle(messages.Forget(client=client))
    assert not host._outputs._free and not host._outputs._lent


def _execute_job(seed: int, name: str) -> dict[str, Any]:
    params, arrays = example(name, seed)
    refs = {key: msgspec.convert(inline(array), ArrayRef) for key, array in arrays.items()}
    task = bind(WORKLOADS[name], params, refs, need_content=True)
    job = messages.Execute(7, CONTRACT_BACKEND, name, task.params, refs, task.dims, 5, "d")
    return msgspec.msgpack.decode(encode(job))


_execute_jobs = st.builds(_execute_job, st.integers(0, 3), st.sampled_from(sorted(WORKLOADS)))
_plain_jobs = st.one_of(
    of_struct(messages.Load, {"factory": st.sampled_from(_FACTORIES), "options": st.just({})}),
    of_struct(messages.Prove, {"workload": st.sampled_from(sorted(WORKLOADS)), "works": st.sampled_from([(), (1e3,), (-1.0,), (1e3, 1e4)])}),
    of_struct(messages.Measure, {
        "workload": st.sampled_from(sorted(WORKLOADS)), "work": st.sampled_from([0.0, 1e3, 1e4]), "budget_seconds": st.just(0.001)}),
    *map(of_struct, (job for job in _JOBS if job not in (messages.Load, messages.Prove, messages.Measure))),
)  # fmt: skip
_jobs = st.one_of(_plain_jobs, spoiled(_plain_jobs), _execute_jobs, spoiled(_execute_jobs)).map(encode)


def check_outcomes(data: bytes) -> None:
    """Whatever a worker sends, the daemon gets an outcome or a refusal of the bytes; a failure becomes an exception of routerd's."""
    try:
        outcome = messages.outcome_decoder.decode(data)
    except _undecodable:
        return
    if isinstance(outcome, messages.Failed):
        assert isinstance(from_wire(outcome.error.code, outcome.error.message, outcome.error.detail), RouterdError)


_outcomes = st.one_of(*map(of_struct, _OUTCOMES))


@contextlib.contextmanager
def open_tasks() -> Iterator[Check]:
    """A task is refused by its declaration, or a worker answers it: with outputs as declared, or with a reason that was foreseen."""
    with open_host() as host:

        def check(data: bytes) -> None:
            try:
                task = msgspec.msgpack.decode(data)
                refs = {key: msgspec.convert(ref, ArrayRef) for key, ref in task["arrays"].items()}
                bound = bind(WORKLOADS[task["workload"]], task["params"], refs, need_content=True)
                encode(bound)  # it has to travel
            except (*_undecodable, BadRequest, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, (KeyError, TypeError, AttributeError)) and _is_task(data):
                    raise
                return
            if not is_affordable(task):
                return
            outcome = host.handle(
                messages.Execute(7, CONTRACT_BACKEND, bound.workload, bound.params, bound.arrays, bound.dims, 5, "d")
            )
            if isinstance(outcome, messages.Failed):
                assert not outcome.trace, outcome.trace
            else:
                assert outcome.outputs.keys() == {array.name for array in WORKLOADS[bound.workload].outputs}
            _let_go(host)

        yield check


class _TaskShape(msgspec.Struct):
    workload: str
    params: dict[str, bool | int | float | str]
    arrays: dict[str, ArrayRef]


def _is_task(data: bytes) -> bool:
    """Whether the bytes are a task in form, about a workload that there is."""
    try:
        return msgspec.msgpack.decode(data, type=_TaskShape).workload in WORKLOADS
    except _undecodable:
        return False


# -- policies ---------------------------------------------------------------------------------------------------------

_VOCABULARY = Vocabulary(
    workloads=frozenset(WORKLOADS),
    families=frozenset(workload.family for workload in WORKLOADS.values()),
    engines=frozenset(engine for workload in WORKLOADS.values() for engine in workload.engines),
    backends=frozenset({CONTRACT_BACKEND, "cpu.torch", "in_process.numpy"}),
    device_kinds=frozenset(DEVICE_KINDS),
)
_FACTS: Mapping[str, Any] = {
    "workload.name": "linalg.gemm", "workload.family": "linalg", "workload.engine": ("Risk",), "task.work": 1e6,
    "task.tolerance": 1e-9, "task.priority": 0, "task.bytes": 2**62, "client.name": "fuzz", "client.uid": 1, "client.gid": 1,
}  # fmt: skip


@contextlib.contextmanager
def open_policies() -> Iterator[Check]:
    """A file is a policy, which then judges and explains a task, or it is refused with the places of what is wrong."""
    flags = load_flags({}).as_mapping()
    with tempfile.TemporaryDirectory(prefix="rd-") as directory:
        path = Path(directory) / "policy.yaml"

        def check(data: bytes) -> None:
            path.write_bytes(data)
            try:
                policy = load_policy([path], _VOCABULARY, flags)
            except InvalidPolicy as error:
                assert error.detail["problems"]
                msgspec.json.encode(error.detail)
                return
            compiled = compile_policy(policy, self_uid=0)
            verdict = compiled.verdict(_FACTS)
            trace = compiled.trace(_FACTS)
            assert trace.rule == verdict.rule
            encode((policy, trace))
            msgspec.json.encode(policy.to_dict())

        yield check


def _always(check: Check) -> Callable[[], contextlib.AbstractContextManager[Check]]:
    return lambda: contextlib.nullcontext(check)


def targets() -> dict[str, Target]:
    """Every target by name."""
    from tests.fuzz.daemons import open_daemon, open_server

    found = (
        Target("frames", "streams", _always(check_frames), streams),
        Target("replies", "replies", _always(check_replies), _reply_streams),
        Target("jobs", "jobs", open_jobs, _jobs),
        Target("outcomes", "outcomes", _always(check_outcomes), (_outcomes | spoiled(_outcomes)).map(encode)),
        Target("tasks", "tasks", open_tasks, tasks.map(encode)),
        Target("policies", "policies", open_policies, documents),
        Target("server", "streams", open_server, streams),
        Target("daemon", "streams", open_daemon, streams),
    )
    return {target.name: target for target in found}
