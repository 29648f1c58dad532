"""The contract of a backend, as a function that reports and as pytest tests to inherit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from unittest import SkipTest

from routerd.backends import create_backend
from routerd.errors import Unavailable
from routerd.interfaces import Backend, BackendSpec, Workload
from routerd.testing.examples import contract_outputs, default_works, inputs_kept, output_problems, sample
from routerd.testing.report import Finding, Report
from routerd.types import Device
from routerd.workloads import builtin_workloads

#: What a precision can promise at best; a workload's own tolerance counts where it is larger. Backends below float32
#: serve tasks that ask for a larger tolerance than the workload's default.
PRECISION_TOLERANCE = {"float16": 5e-3, "bfloat16": 3e-2, "int8": 1e-1}

_NO_BUFFERS: Mapping[str, Any] = {}


def check_backend(
    backend: BackendSpec | Backend,
    workloads: Sequence[Workload] | None = None,
    works: Sequence[float] | None = None,
    *,
    tolerance: float | None = None,
) -> Report:
    """Check a backend, or what a spec makes, on ``workloads`` (the built-in ones) at each of ``works``.

    ``works`` defaults to the smallest of each workload's range and 8 and 64 times that. ``tolerance`` replaces each
    workload's own, which counts otherwise, but for what the spec's precision can promise at best. The backend is closed
    at the end. Never raises for what the backend does: read ``problems``, or call ``raise_for_problems``.
    """
    subject = backend.name if isinstance(backend, BackendSpec) else type(backend).__name__
    floor = PRECISION_TOLERANCE.get(backend.precision, 0.0) if isinstance(backend, BackendSpec) else 0.0
    try:
        made = create_backend(backend) if isinstance(backend, BackendSpec) else backend
        device, findings = _check_probe(made, backend)
    except Unavailable as reason:
        return Report(subject=subject, findings=(_reason("probe", reason),), unavailable=reason.message)
    except Exception as error:  # a third party's code: whatever it raises is what the report is about
        return Report(subject=subject, findings=(Finding(check="create and probe", problem=_raised(error)),))
    for workload in builtin_workloads() if workloads is None else workloads:
        supported, finding = _check_supports(made, workload)
        findings.append(finding)
        if supported:
            allowed = max(workload.tolerance, floor) if tolerance is None else tolerance
            findings += _check_workload(made, workload, works or default_works(workload), allowed)
    findings.append(_check_close(made))
    return Report(subject=subject, findings=tuple(findings), device=device)


class BackendContract:
    """The contract as pytest tests: inherit it and give a fixture ``spec``; override the methods to narrow or widen.

    ::

        class TestMyBackend(BackendContract):
            @pytest.fixture
            def spec(self):
                return BackendSpec(name="my.backend", ...)

    Tests are skipped, with the reason, where the backend is unavailable.
    """

    def workloads(self) -> Sequence[Workload]:
        """What to check with; the built-in catalogue unless overridden."""
        return builtin_workloads()

    def works(self, workload: Workload) -> Sequence[float]:
        """The sizes to check a workload at."""
        return default_works(workload)

    def tolerance(self, workload: Workload, spec: BackendSpec) -> float:
        """The largest relative error accepted."""
        return max(workload.tolerance, PRECISION_TOLERANCE.get(spec.precision, 0.0))

    def test_probe_describes_the_device_or_says_why_not(self, spec: BackendSpec) -> None:
        try:
            device, findings = _check_probe(create_backend(spec), spec)
        except Unavailable as reason:
            _assert_fine([_reason("probe", reason)])
            return
        assert device is not None
        _assert_fine(findings)

    def test_supports_answers_yes_or_no_or_says_why_not(self, spec: BackendSpec) -> None:
        backend = _available(spec)
        answers = [_check_supports(backend, workload) for workload in self.workloads()]
        _assert_fine([finding for _, finding in answers])

    def test_every_supported_workload_agrees_with_the_contract(self, spec: BackendSpec) -> None:
        self._check_each(spec, _check_agreement)

    def test_outputs_may_be_written_in_place(self, spec: BackendSpec) -> None:
        self._check_each(spec, _check_in_place)

    def test_a_broken_input_is_an_error_not_a_crash(self, spec: BackendSpec) -> None:
        self._check_each(spec, _check_broken_input)

    def test_close_may_be_called_twice(self, spec: BackendSpec) -> None:
        _assert_fine([_check_close(_available(spec))])

    def _check_each(self, spec: BackendSpec, check: Callable[[Backend, Workload, float, float], Finding]) -> None:
        backend = _available(spec)
        findings = []
        for workload in self.workloads():
            if _check_supports(backend, workload)[0]:
                backend.prepare(workload)
                tolerance = self.tolerance(workload, spec)
                findings += [check(backend, workload, work, tolerance) for work in self.works(workload)]
        backend.close()
        if not findings:
            raise SkipTest(f"{spec.name} supports none of the workloads")
        _assert_fine(findings)


def _available(spec: BackendSpec) -> Backend:
    try:
        backend = create_backend(spec)
        backend.probe()
    except Unavailable as reason:
        raise SkipTest(f"{spec.name} is unavailable: {reason.message}") from reason
    return backend


def _assert_fine(findings: Sequence[Finding]) -> None:
    problems = [str(finding) for finding in findings if finding.problem]
    assert not problems, "\n".join(problems)


def _check_probe(backend: Backend, origin: BackendSpec | Backend) -> tuple[Device | None, list[Finding]]:
    device = backend.probe()
    if not isinstance(device, Device):
        return None, [Finding(check="probe", problem=f"it gave a {type(device).__name__}, not a Device")]
    if isinstance(origin, BackendSpec) and device.kind != origin.device_kind:
        problem = f"the device is a {device.kind}, the spec announces a {origin.device_kind}"
        return device, [Finding(check="probe", problem=problem)]
    return device, [Finding(check="probe")]


def _check_supports(backend: Backend, workload: Workload) -> tuple[bool, Finding]:
    try:
        answer = backend.supports(workload)
    except Unavailable as reason:
        return False, _reason("supports", reason, workload)
    except Exception as error:  # a third party's code: whatever it raises is what the report is about
        return False, Finding(check="supports", workload=workload.name, problem=_raised(error))
    problem = "" if isinstance(answer, bool) else f"it answered {answer!r}, not True or False"
    return answer is True, Finding(check="supports", workload=workload.name, problem=problem)


def _check_workload(
    backend: Backend, workload: Workload, works: Sequence[float], tolerance: float
) -> Iterator[Finding]:
    try:
        backend.prepare(workload)
    except Exception as error:  # a third party's code: whatever it raises is what the report is about
        yield Finding(check="prepare", workload=workload.name, problem=_raised(error))
        return
    for work in works:
        yield _check_agreement(backend, workload, work, tolerance)
        yield _check_in_place(backend, workload, work, tolerance)
    yield _check_broken_input(backend, workload, works[0], tolerance)


def _check_agreement(backend: Backend, workload: Workload, work: float, tolerance: float) -> Finding:
    """Outputs as declared and within tolerance, from read-only inputs that stay as they were."""
    return _compare("execute", backend, workload, work, tolerance)


def _check_in_place(backend: Backend, workload: Workload, work: float, tolerance: float) -> Finding:
    """The same with buffers for every output of known shape. They start as NaN, so that what is not written shows."""
    import numpy as np

    from routerd.workloads.binding import output_shape

    task = sample(workload, work).task
    shapes = {array: output_shape(array, task.dims) for array in workload.outputs if array.dtype == "float64"}
    into = {array.name: np.full(shape, np.nan) for array, shape in shapes.items() if shape is not None}
    return _compare("execute in place", backend, workload, work, tolerance, into=into)


def _compare(
    check: str,
    backend: Backend,
    workload: Workload,
    work: float,
    tolerance: float,
    *,
    into: Mapping[str, Any] = _NO_BUFFERS,
) -> Finding:
    from routerd.workloads.content import relative_error

    given = sample(workload, work)
    problems: list[str] = []
    error = None
    try:
        with inputs_kept(given.inputs, problems):
            execution = backend.execute(workload, given.task.params, given.inputs, into)
        problems += output_problems(workload, given.task, execution.outputs)
        if execution.transfer_seconds < 0.0 or execution.kernel_seconds < 0.0:
            problems.append("its seconds are negative")
        error = relative_error(workload, execution.outputs, contract_outputs(workload, given))
        if not error <= tolerance:
            problems.append("it differs from the contract by more than the tolerance")
    except Exception as failure:  # a third party's code: whatever it raises is what the report is about
        problems.append(_raised(failure))
    return Finding(
        check=check, workload=workload.name, work=work, error=error, tolerance=tolerance, problem="; ".join(problems)
    )


def _check_broken_input(backend: Backend, workload: Workload, work: float, tolerance: float) -> Finding:
    """An input too short, then one missing: an exception is right, and a good task must go well afterwards."""
    given = sample(workload, work)
    for name, array in given.inputs.items():
        short = {**given.inputs, name: array[:-1]} if array.ndim else dict(given.inputs)
        missing = {other: values for other, values in given.inputs.items() if other != name}
        for broken in (short, missing):
            with suppress(Exception):  # an error is the right answer; what counts is that the next task goes well
                backend.execute(workload, given.task.params, broken, {})
    return _compare("recover from a broken input", backend, workload, work, tolerance)


def _check_close(backend: Backend) -> Finding:
    try:
        backend.close()
        backend.close()
    except Exception as error:  # a third party's code: whatever it raises is what the report is about
        return Finding(check="close twice", problem=_raised(error))
    return Finding(check="close twice")


def _reason(check: str, reason: Unavailable, workload: Workload | None = None) -> Finding:
    name = "" if workload is None else workload.name
    one_line = reason.message.strip() and "\n" not in reason.message
    problem = "" if one_line else f"the reason must be one line that says why, got {reason.message!r}"
    return Finding(check=check, workload=name, problem=problem)


def _raised(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {' '.join(str(error).split())}"
