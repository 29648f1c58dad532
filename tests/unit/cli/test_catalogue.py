"""Bounds in words and completion, made from declarations."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from routerd.cli import catalogue, options
from routerd.interfaces import Array, Parameter
from routerd.reports import _array, _parameter
from routerd.workloads import builtin_workloads


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


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({}, "finite"),
        ({"finite": False}, "may be NaN"),
        ({"minimum": 0.0, "above_minimum": True}, "finite, > 0"),
        ({"minimum": 0.0, "maximum": 1.0}, "finite, ≥ 0, ≤ 1"),
        ({"dtype": "int64", "minimum": 0.0}, "≥ 0"),
    ],
)
def test_what_an_element_may_be_in_words(declared, text):
    assert catalogue._values(_array(Array(name="x", shape=("N",), doc="", **declared))) == text


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
