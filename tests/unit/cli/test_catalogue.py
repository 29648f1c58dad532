"""Example commands and completion, made from declarations."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest

from routerd.cli import arguments, catalogue, options
from routerd.interfaces import Array, Parameter
from routerd.reports import _array, _parameter
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import bind


def described(name, parameters=(), inputs=()):
    return {
        "name": name,
        "parameters": [_parameter(one) for one in parameters],
        "inputs": [_array(one) for one in inputs],
    }


@pytest.mark.parametrize("workload", builtin_workloads(), ids=lambda one: one.name)
def test_the_example_of_every_workload_is_a_valid_task(workload):
    command = shlex.split(catalogue.example_command(described(workload.name, workload.parameters, workload.inputs)))
    program, verb, name, *rest = command
    assert (program, verb, name) == ("routerctl", "decide" if workload.inputs else "run", workload.name)
    given = {option: rest[index + 1] for index, option in enumerate(rest) if option.startswith("--")}
    assert set(given) <= {"--param", "--shape"}
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    params = [value for option, value in pairs if option == "--param"]
    shapes = [value for option, value in pairs if option == "--shape"]
    ask = arguments.ask(name, params, shapes, [])
    assert bind(workload, ask.params, ask.arrays, need_content=False).work > 0


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Parameter(name="x", type="float", doc="", minimum=0.0, above_minimum=True, maximum=1e12), "100"),
        (Parameter(name="x", type="float", doc="", minimum=0.0, above_minimum=True, maximum=5.0), "0.2"),
        (Parameter(name="x", type="float", doc=""), "100"),
        (Parameter(name="x", type="float", doc="", minimum=-4.0, maximum=-2.0), "-3"),
        (Parameter(name="x", type="int", doc="", minimum=1, maximum=3), "2"),
        (Parameter(name="x", type="int", doc="", minimum=7, maximum=8), "8"),
        (Parameter(name="x", type="bool", doc=""), "true"),
        (Parameter(name="x", type="str", doc="", choices=("call", "put")), "call"),
        (Parameter(name="x", type="str", doc="", choices=("a b",)), "'a b'"),
    ],
)
def test_an_example_value_lies_within_the_bounds(parameter, value):
    assert catalogue.example_command(described("f.w", [parameter])) == f"routerctl run f.w --param x={value}"


def test_dimensions_of_the_same_name_have_the_same_length():
    inputs = [
        Array(name="a", shape=("T", "N"), doc=""),
        Array(name="b", shape=("N", 3), doc="", dtype="int64", accepts=("int64",)),
    ]
    command = catalogue.example_command(described("f.w", inputs=inputs))
    assert command == "routerctl decide f.w --shape a=1250x20 --shape b=20x3:int64"


@pytest.mark.parametrize(
    ("low", "high", "above", "text"),
    [
        (None, None, False, ""),
        (0.0, None, True, "> 0"),
        (None, 5.0, False, "≤ 5"),
        (2, 2**53 - 1, False, "≥ 2, ≤ 9007199254740991"),
    ],
)
def test_bounds_in_words(low, high, above, text):
    parameter = Parameter(name="x", type="float", doc="", minimum=low, maximum=high, above_minimum=above)
    assert catalogue._bounds(_parameter(parameter)) == text


def line(workload=None, args=()):
    return SimpleNamespace(params={"workload": workload}, args=list(args))


def test_workloads_are_completed_without_a_daemon():
    assert [name for name, _help in options.complete_workload("linalg.g")] == ["linalg.gemm"]
    assert len(options.complete_workload("")) == len(builtin_workloads())


def test_parameters_are_completed_by_name_and_choice():
    name = "options.monte_carlo_european"
    assert [one for one, _ in options.complete_param(line(name), "vol")] == ["volatility="]
    assert [one for one, _ in options.complete_param(line(None, [name]), "option_type=p")] == ["option_type=put"]
    assert options.complete_param(line("no.such"), "") == []


def test_arrays_are_completed():
    assert [one for one, _ in options.complete_array(line("linalg.gemm"), "")] == ["a=", "b="]
