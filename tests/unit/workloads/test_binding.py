"""Parameters that may be left out, and rules between parameters that the daemon checks before it decides."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Dims, Parameter, Params
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from routerd.workloads.linalg import GEMM

SQUARE = {"a": ArrayRef((2, 2), "float64"), "b": ArrayRef((2, 2), "float64")}


def exactly_one(params: Params, dims: Dims) -> None:
    if ("count" in params) == ("error" in params):
        raise InvalidParameter(f"give either count or error, for {dims['m']} rows", parameter="count")


WORKLOAD = dataclasses.replace(
    GEMM,
    parameters=(
        Parameter(name="count", type="int", doc="how many", minimum=1, maximum=9, optional=True),
        Parameter(name="error", type="float", doc="how exact", minimum=0.0, maximum=1.0, optional=True),
        Parameter(name="seed", type="int", doc="which", default=0, minimum=0, maximum=9, optional=True),
    ),
    check_task=exactly_one,
)


def bound(**params: Any) -> dict[str, Any]:
    return bind(WORKLOAD, params, SQUARE, need_content=False).params


def test_an_optional_parameter_is_absent_when_left_out() -> None:
    assert bound(count=3) == {"count": 3, "seed": 0}
    assert bound(error=0.5, seed=2) == {"error": 0.5, "seed": 2}
    assert not any(parameter.required for parameter in WORKLOAD.parameters)


@pytest.mark.parametrize("params", [{}, {"count": 1, "error": 0.1}])
def test_rules_between_parameters_see_parameters_and_dimensions(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="give either count or error, for 2 rows"):
        bound(**params)


def test_what_an_optional_parameter_holds_is_checked_all_the_same() -> None:
    with pytest.raises(InvalidParameter, match="count must be <= 9"):
        bound(count=10)


def test_an_array_of_another_type_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidArray, match=r"a must be float64 or float32, got int64; send a NumPy array of float64"):
        bind(GEMM, {}, {**SQUARE, "a": ArrayRef((2, 2), "int64")}, need_content=False)


def test_a_task_that_weighs_more_than_can_be_addressed_is_refused() -> None:
    with pytest.raises(InvalidArray, match=r"of these dimensions weigh 7.25e\+24 bytes, more than can be addressed"):
        bind(GEMM, {"m": 2**39, "k": 2**39, "n": 2**39}, {}, need_content=False)
    assert bind(GEMM, {"m": 2**29, "k": 2**29, "n": 2**29}, {}, need_content=False).nbytes == 3 * 8 * 2**58
