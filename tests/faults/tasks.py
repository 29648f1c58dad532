"""What the clients of a storm ask, each task with the answer that NumPy gives to it here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from routerd.interfaces import Workload
from routerd.namespaces.execution import contract_namespace, execute_kernel
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error
from tests.faults.plugin import ORDERS

#: Workloads that a daemon must have proved before a storm.
WORKLOADS = (
    "options.monte_carlo_european",
    "linalg.gemm",
    "indicators.sma",
    "risk.var_historical",
    "portfolio.qubo_cardinality",
)
#: Errors with which a deadline may end a task.
LATE_CODES = ("timeout", "deadline_unmeetable")
#: Its answers have NaN where the window is not full, so nobody could tell NaN on order from a right answer.
_NAN_IS_AN_ANSWER = "indicators.sma"

_Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class Task(NamedTuple):
    """A request and what its answer is compared with. ``may``: the error codes that its own terms allow."""

    kind: str
    workload: str
    params: dict[str, Any]
    arrays: dict[str, np.ndarray[Any, Any]]
    options: dict[str, Any]
    may: tuple[str, ...]
    order: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``run`` takes."""
        return {**self.params, **self.arrays, **self.options}

    def problem(self, outputs: Mapping[str, Any]) -> str:
        """What is wrong with these outputs, or an empty string."""
        declared = _catalogue()[self.workload]
        given = {
            parameter.name: parameter.default for parameter in declared.parameters if parameter.default is not None
        }
        expected = execute_kernel(contract_namespace(declared), declared, {**given, **self.params}, self.arrays).outputs
        return difference(declared, outputs, expected)


def difference(workload: Workload, outputs: Mapping[str, Any], expected: _Arrays) -> str:
    """How outputs differ from the contract's beyond the workload's tolerance, or an empty string."""
    if set(outputs) != set(expected):
        return f"outputs {sorted(outputs)} instead of {sorted(expected)}"
    for name, array in expected.items():
        actual, right = np.asarray(outputs[name]), np.asarray(array)
        if actual.shape != right.shape or (
            right.ndim > 0 and actual.dtype != right.dtype
        ):  # clients give scalars as Python's
            return f"{name} is {actual.dtype}{actual.shape} instead of {right.dtype}{right.shape}"
    error = relative_error(workload, {name: np.asarray(array) for name, array in outputs.items()}, expected)
    return "" if error <= workload.tolerance else f"relative error {error:.3g} beyond {workload.tolerance:g}"


def draw(rng: random.Random, orders: tuple[str, ...] = ()) -> Task:
    """A random task. With ``orders`` one in three carries one of them, which ``fickle.one`` follows."""
    ordered = bool(orders) and rng.random() < 1 / 3
    kind, make = rng.choice([("loss", _loss), ("average", _average)] if ordered else _KINDS)
    workload, params, arrays = make(rng, np.random.default_rng(rng.getrandbits(63)))
    order = ""
    if ordered:
        order = rng.choice([one for one in orders if (one, workload) != ("nan", _NAN_IS_AN_ANSWER)])
        next(iter(arrays.values())).flat[0] = ORDERS[order]
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["priority"] = rng.randint(-10, 10)
    may: tuple[str, ...] = ()
    if rng.random() < 0.1:
        options["deadline_ms"] = 10.0 ** rng.uniform(-1.0, 3.0)
        may = LATE_CODES
    return Task(kind, workload, params, arrays, options, may, order)


_Made = tuple[str, dict[str, Any], dict[str, "np.ndarray[Any, Any]"]]


def _price(rng: random.Random, _numbers: np.random.Generator) -> _Made:
    params = {
        "spot_price": rng.uniform(80.0, 120.0),
        "strike_price": 100.0,
        "volatility": rng.uniform(0.1, 0.4),
        "num_simulations": rng.randint(500, 4000),
        "seed": rng.randint(0, 1 << 30),
    }
    return "options.monte_carlo_european", params, {}


def _product(_rng: random.Random, numbers: np.random.Generator) -> _Made:
    return "linalg.gemm", {}, {"a": numbers.standard_normal((3, 4)), "b": numbers.standard_normal((4, 2))}


def _large_product(rng: random.Random, numbers: np.random.Generator) -> _Made:
    rows = rng.randint(100, 300)
    return "linalg.gemm", {}, {"a": numbers.standard_normal((rows, 120)), "b": numbers.standard_normal((120, 90))}


def _average(rng: random.Random, numbers: np.random.Generator) -> _Made:
    days = rng.randint(200, 600)
    return "indicators.sma", {"period": rng.randint(2, 40)}, {"close": numbers.uniform(50.0, 150.0, (days, 8))}


def _loss(rng: random.Random, numbers: np.random.Generator) -> _Made:
    days = rng.randint(300, 1500)
    arrays = {"returns": numbers.normal(0.0, 0.01, (days, 10)), "weights": numbers.dirichlet(np.ones(10))}
    return "risk.var_historical", {"confidence": rng.uniform(0.9, 0.99)}, arrays


def _selection(rng: random.Random, numbers: np.random.Generator) -> _Made:
    factors = numbers.normal(0.0, 0.1, (12, 4))
    arrays = {"expected_returns": numbers.normal(0.05, 0.02, 12), "covariance": factors @ factors.T + 0.01 * np.eye(12)}
    params = {"cardinality": rng.randint(2, 6), "num_reads": 4, "num_sweeps": 10, "seed": rng.randint(0, 1 << 30)}
    return "portfolio.qubo_cardinality", params, arrays


_KINDS: tuple[tuple[str, Callable[[random.Random, np.random.Generator], _Made]], ...] = (
    ("price", _price),
    ("product", _product),
    ("large product", _large_product),
    ("product in place", _large_product),
    ("average", _average),
    ("loss", _loss),
    ("selection", _selection),
)


@cache
def _catalogue() -> dict[str, Workload]:
    return {workload.name: workload for workload in builtin_workloads()}
