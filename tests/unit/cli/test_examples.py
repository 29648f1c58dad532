"""Example tasks and the commands that show them: every one is a task that its workload accepts."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from routerd.cli import arguments, examples
from routerd.errors import BadRequest, InvalidParameter
from routerd.interfaces import Workload
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import bind
from routerd.workloads.linalg import GEMM

every_workload = pytest.mark.parametrize("workload", builtin_workloads(), ids=lambda one: one.name)


@every_workload
def test_the_commands_of_every_workload_are_valid_tasks(workload: Workload) -> None:
    for command in examples.example_commands(workload):
        program, verb, name, *rest = shlex.split(command)
        assert (program, name) == ("routerctl", workload.name)
        options = list(zip(rest[::2], rest[1::2], strict=True))
        given = {kind: [value for option, value in options if option == f"--{kind}"] for kind in ("param", "shape")}
        example = [float(value) for option, value in options if option == "--example"]
        if example:
            assert verb == "run"
            made = examples.make_example(name, *example)
            refs = arguments.parse_shapes([])
            assert made.arrays.keys() == {array.name for array in workload.inputs}
            assert not refs and not given["param"] and not given["shape"]
        else:
            assert verb == ("decide" if workload.inputs else "run")
            ask = arguments.ask(name, given["param"], given["shape"], [])
            assert bind(workload, ask.params, ask.arrays, need_content=False).work > 0


def test_arguments_stand_above_the_example() -> None:
    mine = np.ones((2, 2))
    params, arrays = examples.with_example("linalg.gemm", 1e5, {"tolerance": 0.1}, {"a": mine})
    assert params == {"tolerance": 0.1}
    assert arrays["a"] is mine
    assert arrays["b"].ndim == 2
    assert examples.with_example("linalg.gemm", None, {}, {}) == ({}, {})


def test_the_same_example_each_time() -> None:
    one, two = (examples.make_example("linalg.gemm", 1e5) for _ in range(2))
    assert one.params == two.params
    assert np.array_equal(one.arrays["a"], two.arrays["a"])


@pytest.mark.parametrize("work", [-1.0, 0.0, 1e30, float("nan")])
def test_a_work_beyond_the_range_is_refused(work: float) -> None:
    low, high = GEMM.work_range
    with pytest.raises(InvalidParameter, match=re.escape(f"from {low:g} to {high:g} floating")):
        examples.make_example("linalg.gemm", work)


def test_a_workload_that_is_not_installed_here_has_no_example() -> None:
    assert examples.find_workload("acme.unheard_of") is None
    with pytest.raises(BadRequest, match=r"no plugin that declares acme\.unheard_of"):
        examples.make_example("acme.unheard_of", 1.0)
