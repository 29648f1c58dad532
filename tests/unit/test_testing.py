"""The kit finds what is wrong with a backend or a workload, and nothing where all is well."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest

from routerd.backends import create_backend
from routerd.errors import Unavailable
from routerd.interfaces import Backend, BackendSpec, Example, Execution, Parameter, Workload
from routerd.testing import BackendContract, NullBackend, check_backend, check_workload, null_backend_spec
from routerd.types import Device
from routerd.workloads.linalg import GEMM
from routerd.workloads.splitting import merge_along, split_along

WORKS = (1e4,)


def problems(backend: Backend | BackendSpec, workload: Workload = GEMM) -> str:
    return "\n".join(check_backend(backend, [workload], WORKS).problems)


def test_a_good_backend_has_no_problem() -> None:
    report = check_backend(null_backend_spec(), [GEMM])
    assert report.ok
    report.raise_for_problems()
    assert report.device == Device(kind="cpu", name="null")
    assert {finding.check for finding in report.findings} == {
        "probe",
        "supports",
        "execute",
        "execute in place",
        "recover from a broken input",
        "close twice",
    }
    assert "test.null: 0 problems" in str(report)
    assert "execute linalg.gemm at work 1e+04 (error 0, tolerance 1e-05)" in str(report)


def test_an_absent_backend_is_unavailable_not_wrong() -> None:
    report = check_backend(null_backend_spec(fail="unavailable"), [GEMM])
    assert report.ok
    assert report.unavailable == "the null device was asked to be absent"
    assert "unavailable: the null device" in str(report)


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        ("raise", "it raised RuntimeError: the null device was asked to fail"),
        ("wrong", "it differs from the contract by more than the tolerance"),
        ("nan", "(error inf, tolerance 1e-05): it differs from the contract"),
    ],
)
def test_a_failing_backend_is_found(fail: str, expected: str) -> None:
    assert expected in problems(null_backend_spec(fail=fail))


def test_a_backend_that_fails_later_is_found_too() -> None:
    report = check_backend(null_backend_spec(fail="wrong", fail_after=1), [GEMM], WORKS)
    first, second = (finding for finding in report.findings if finding.check.startswith("execute"))
    assert not first.problem
    assert second.problem


def test_an_unsupported_workload_is_not_executed() -> None:
    report = check_backend(null_backend_spec(fail="unsupported"), [GEMM])
    assert report.ok
    assert [finding.check for finding in report.findings] == ["probe", "supports", "close twice"]


def test_an_unknown_failure_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no failure 'explode'; use one of unavailable"):
        NullBackend(fail="explode")
    assert "create and probe: it raised PluginError" in problems(null_backend_spec(fail="explode"))


def test_a_crash_ends_the_process() -> None:
    program = """
from routerd.testing import check_backend, null_backend_spec
check_backend(null_backend_spec(fail="exit"))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert ran.returncode == 70


def test_the_device_must_be_of_the_announced_kind() -> None:
    spec = dataclasses.replace(null_backend_spec(), device_kind="cuda_gpu")
    assert "the device is a cpu, the spec announces a cuda_gpu" in problems(spec)


class Modified(NullBackend):
    """A backend with one method replaced."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        super().__init__()
        for name, method in methods.items():
            setattr(self, name, method)


def executing(change: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]) -> Modified:
    """A backend whose outputs (and writable copies of whose inputs) go through ``change``."""

    def execute(workload: Workload, params: Any, inputs: Any, into: Any) -> Execution:
        execution = NullBackend().execute(workload, params, inputs, into)
        return execution._replace(outputs=change(execution.outputs, inputs))

    return Modified(execute=execute)


def write_to_input(outputs: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    inputs["a"].flags.writeable = True
    inputs["a"][0, 0] += 1.0
    return outputs


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda outputs, _: {}, "the output c is missing"),
        (lambda outputs, _: {**outputs, "d": outputs["c"]}, "the output d is not declared"),
        (lambda outputs, _: {"c": outputs["c"].tolist()}, "the output c is a list, not a NumPy array on the host"),
        (lambda outputs, _: {"c": outputs["c"][:-1]}, "the output c has shape (16, 17), declared is (17, 17)"),
        (lambda outputs, _: {"c": outputs["c"].astype("float32")}, "the output c is float32, declared is float64"),
        (write_to_input, "the input a was modified"),
    ],
)
def test_wrong_outputs_are_named(change: Any, expected: str) -> None:
    assert expected in problems(executing(change))


def absent(reason: str) -> Callable[..., Any]:
    def raising(*_: object) -> None:
        raise Unavailable(reason)

    return raising


def test_reasons_must_be_one_line() -> None:
    assert "the reason must be one line" in problems(Modified(probe=absent("two\nlines")))
    assert "the reason must be one line" in problems(Modified(supports=absent(" ")))


def failing(*_: object) -> None:
    raise RuntimeError("no")


def test_each_method_is_checked() -> None:
    assert "probe: it gave a str, not a Device" in problems(Modified(probe=lambda: "cpu"))
    assert "supports linalg.gemm: it answered 1, not True or False" in problems(Modified(supports=lambda _: 1))
    assert "supports linalg.gemm: it raised RuntimeError: no" in problems(Modified(supports=failing))
    assert "prepare linalg.gemm: it raised RuntimeError: no" in problems(Modified(prepare=failing))
    assert "close twice: it raised RuntimeError: no" in problems(Modified(close=failing))


def test_a_broken_input_must_not_spoil_what_follows() -> None:
    broken = False

    def execute(workload: Workload, params: Any, inputs: Any, into: Any) -> Execution:
        nonlocal broken
        broken = broken or len(inputs) < 2
        return NullBackend(fail="wrong" if broken else "").execute(workload, params, inputs, into)

    found = problems(Modified(execute=execute))
    assert found.startswith("WRONG  recover from a broken input linalg.gemm")


def test_a_low_precision_may_be_less_accurate_and_tolerance_can_be_given() -> None:
    off = executing(lambda outputs, _: {"c": outputs["c"] * (1.0 + 1e-3)})
    assert "more than the tolerance" in problems(off)
    assert check_backend(off, [GEMM], WORKS, tolerance=1e-2).ok


class Contract(BackendContract):
    def workloads(self) -> list[Workload]:
        return [GEMM]


CONTRACT_TESTS = [name for name in dir(BackendContract) if name.startswith("test_")]


@pytest.mark.parametrize("test", CONTRACT_TESTS)
def test_the_contract_passes_for_a_good_backend(test: str) -> None:
    getattr(Contract(), test)(null_backend_spec())


@pytest.mark.parametrize(
    ("test", "fail"),
    [
        ("test_every_supported_workload_agrees_with_the_contract", "wrong"),
        ("test_outputs_may_be_written_in_place", "nan"),
        ("test_a_broken_input_is_an_error_not_a_crash", "raise"),
    ],
)
def test_the_contract_fails_for_a_bad_backend(test: str, fail: str) -> None:
    with pytest.raises(AssertionError, match=r"WRONG .* linalg\.gemm"):
        getattr(Contract(), test)(null_backend_spec(fail=fail))


@pytest.mark.parametrize("test", CONTRACT_TESTS)
def test_the_contract_is_skipped_for_an_absent_backend_with_its_reason(test: str) -> None:
    spec = null_backend_spec(fail="unavailable")
    if test.startswith("test_probe"):
        getattr(Contract(), test)(spec)
        return
    with pytest.raises(SkipTest, match=r"test\.null is unavailable: the null device was asked to be absent"):
        getattr(Contract(), test)(spec)


def test_the_contract_is_skipped_where_nothing_is_supported() -> None:
    with pytest.raises(SkipTest, match="supports none of the workloads"):
        Contract().test_outputs_may_be_written_in_place(null_backend_spec(fail="unsupported"))


def test_the_null_backend_waits_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("routerd.testing.null.time.sleep", waits.append)
    backend = create_backend(null_backend_spec(delay_seconds=3.0))
    backend.execute(GEMM, {}, {"a": np.ones((1, 1)), "b": np.ones((1, 1))}, {})
    assert waits == [3.0]


def test_a_good_workload_has_no_problem() -> None:
    report = check_workload(GEMM)
    assert report.ok
    assert report.subject == "linalg.gemm"


def test_parts_that_merge_to_the_whole_are_fine() -> None:
    merge = merge_along({"c": 0})
    split = split_along({"a": 0})
    assert check_workload(dataclasses.replace(GEMM, split=split, merge=merge)).ok
    lossy = dataclasses.replace(GEMM, split=split, merge=lambda whole, parts: dict(parts[0]))
    assert (
        "split and merge linalg.gemm at work 1e+04: 2 parts merged differ from the whole"
        in check_workload(lossy).problems[0]
    )


def random_kernel(namespace: Any, params: Any, arrays: Any) -> dict[str, Any]:
    return {"c": arrays["a"] + np.random.default_rng().random()}


def writing_kernel(namespace: Any, params: Any, arrays: Any) -> dict[str, Any]:
    arrays["a"][0, 0] = 0.0
    return {"c": arrays["a"]}


def unseeded_example(work: float, rng: object) -> Example:
    return GEMM.example(work, np.random.default_rng())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kernel": lambda *_: {}}, "the output c is missing"),
        ({"kernel": random_kernel}, "the output c differs between two runs"),
        ({"kernel": writing_kernel}, "it raised ValueError: assignment destination is read-only"),
        ({"example": lambda work, rng: Example({}, {})}, "it raised InvalidArray: linalg.gemm needs the array a"),
        ({"example": lambda work, rng: GEMM.example(work * 100, rng)}, "more than a factor 4 away"),
        ({"example": unseeded_example}, "the same generator gives another example"),
        ({"outputs": ()}, "it declares no output"),
        ({"parameters": (Parameter(name="a", type="int", doc="", default=1),)}, "a names two of its parameters"),
        ({"outputs": GEMM.outputs * 2}, "two outputs are named c"),
        ({"batch_dim": "rows"}, "its batch_dim rows is no dimension of its inputs"),
        ({"work_range": (10.0, 1.0)}, "is not positive and ascending"),
        ({"tolerance": 0.0}, "its tolerance 0.0 is not above 0"),
        ({"split": None}, "it has only one of split and merge"),
    ],
)
def test_a_bad_workload_is_found(changes: dict[str, Any], expected: str) -> None:
    report = check_workload(dataclasses.replace(GEMM, **changes), WORKS)
    assert expected in "\n".join(report.problems)
    with pytest.raises(AssertionError, match=r"linalg\.gemm breaks its contract"):
        report.raise_for_problems()


def test_the_kit_imports_neither_pytest_nor_numpy() -> None:
    program = "import sys, routerd.testing; assert not {'pytest', 'numpy', 'torch'} & sys.modules.keys()"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
