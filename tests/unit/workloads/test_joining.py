"""Joined tasks: what may be joined, what comes of it, and each task's part of the outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from routerd.errors import InvalidArray
from routerd.interfaces import Example, Groups, Join, ModelId, Workload
from routerd.models.description import ArrayDescription, Description, workload_of
from routerd.testing import check_workload
from routerd.types import ArrayRef
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import bind
from routerd.workloads.joining import cut, join_key, join_problems, joined_dims, joined_params, joined_task

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
MLP = WORKLOADS["ml.mlp_inference"]
HAIRCUT = WORKLOADS["collateral.haircut"]
GREEKS = WORKLOADS["risk.greeks_batch"]
GEMM = WORKLOADS["linalg.gemm"]

JOINED = (
    "ml.mlp_inference", "ml.model", "linalg.gemm", "risk.greeks_batch", "collateral.haircut", "collateral.margin_sba",
    "factor.risk_decompose", "strategy.backtest_sma_sweep", "features.rolling", "analytics.performance",
    "execution.almgren_chriss",
)  # fmt: skip


def key(workload: Workload, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str] | None = None, **params: object):
    declared = {array.name: array.dtype for array in workload.inputs}
    refs = {
        name: ArrayRef(shape, (dtypes or {}).get(name, declared[name]), segment=number)
        for number, (name, shape) in enumerate(shapes.items())
    }
    return join_key(workload, bind(workload, params, refs, need_content=True))


def gemm_key(m: int, k: int = 3, n: int = 2, **dtypes: str):
    return key(GEMM, {"a": (m, k), "b": (k, n)}, dtypes)


@pytest.mark.parametrize("name", JOINED)
def test_independent_rows_are_declared(name: str) -> None:
    assert WORKLOADS[name].join is not None


@pytest.mark.parametrize("name", ["options.monte_carlo_european", "risk.var_historical", "execution.pretrade"])
def test_what_one_task_computes_as_a_whole_is_not(name: str) -> None:
    assert WORKLOADS[name].join is None


class TestKey:
    def test_the_number_of_rows_does_not_matter(self) -> None:
        assert gemm_key(1) == gemm_key(50)

    def test_other_dimensions_do(self) -> None:
        assert gemm_key(1, k=3) != gemm_key(1, k=4)

    def test_the_type_of_what_is_shared_does_and_of_what_is_joined_does_not(self) -> None:
        assert gemm_key(1) != gemm_key(1, b="float32")
        assert gemm_key(1) == gemm_key(1, a="float32")

    def test_parameters_do_but_for_a_count_of_groups(self) -> None:
        columns = dict.fromkeys((array.name for array in GREEKS.inputs), (5,))
        assert key(GREEKS, columns, option_type="call") != key(GREEKS, columns, option_type="put")
        columns = dict.fromkeys((array.name for array in HAIRCUT.inputs), (5,))
        assert key(HAIRCUT, columns, num_accounts=1) == key(HAIRCUT, columns, num_accounts=9)

    def test_workloads_do(self) -> None:
        shapes = {"close": (100, 2)}
        assert key(WORKLOADS["indicators.sma"], shapes) != key(WORKLOADS["indicators.ema"], shapes)

    def test_a_workload_without_a_join_has_none(self) -> None:
        assert key(dataclasses.replace(GEMM, join=None), {"a": (1, 2), "b": (2, 3)}) is None


class TestJoining:
    def test_rows_follow_each_other_and_are_cut_apart_again(self) -> None:
        b = np.arange(6.0).reshape(2, 3)
        tasks = [Example({}, {"a": np.full((rows, 2), float(rows)), "b": b}) for rows in (1, 3, 2)]
        joined = joined_task(GEMM, GEMM.join, tasks)
        assert joined.arrays["a"][:, 0].tolist() == [1.0, 3.0, 3.0, 3.0, 2.0, 2.0]
        assert joined.arrays["b"] is b
        parts = cut(GEMM, GEMM.join, tasks, {"c": joined.arrays["a"] @ b})
        assert [part["c"].tolist() for part in parts] == [(task.arrays["a"] @ b).tolist() for task in tasks]

    def test_what_is_joined_is_nobodys_memory(self) -> None:
        a = np.ones((1, 2))
        joined = joined_task(GEMM, GEMM.join, [Example({}, {"a": a, "b": np.ones((2, 1))})] * 2)
        assert not np.shares_memory(joined.arrays["a"], a)

    def test_a_group_is_its_own_tasks(self) -> None:
        accounts = [np.array([0, 1, 0]), np.array([0]), np.array([2, 0], dtype=np.int32)]
        tasks = [
            Example(
                {"num_accounts": count},
                {"account": account, **{one: np.ones(account.size) for one in ("quantity", "price", "haircut", "fx")}},
            )
            for count, account in zip((2, 1, 4), accounts, strict=True)
        ]
        joined = joined_task(HAIRCUT, HAIRCUT.join, tasks)
        assert joined.params == {"num_accounts": 7}
        assert joined.arrays["account"].tolist() == [0, 1, 0, 2, 5, 3]
        outputs = {"collateral_value": np.arange(7.0), "market_value": -np.arange(7.0)}
        parts = cut(HAIRCUT, HAIRCUT.join, tasks, outputs)
        assert [part["collateral_value"].tolist() for part in parts] == [[0.0, 1.0], [2.0], [3.0, 4.0, 5.0, 6.0]]

    @pytest.mark.parametrize("wrong", [2, -1])
    def test_nobody_reaches_into_the_groups_of_another(self, wrong: int) -> None:
        ones = {one: np.ones(1) for one in ("quantity", "price", "haircut", "fx")}
        bad = Example({"num_accounts": 2}, {"account": np.array([wrong]), **ones})
        good = Example({"num_accounts": 5}, {"account": np.array([0]), **ones})
        with pytest.raises(InvalidArray, match="account must be 0 to 1"):
            joined_task(HAIRCUT, HAIRCUT.join, [bad, good])

    def test_an_output_of_another_length_is_not_cut(self) -> None:
        tasks = [Example({}, {"a": np.ones((2, 2)), "b": np.ones((2, 2))})] * 2
        with pytest.raises(ValueError, match="the joined output c has length 3 on axis 0, its tasks have 4 together"):
            cut(GEMM, GEMM.join, tasks, {"c": np.ones((3, 2))})

    def test_dimensions_and_counts_add_up(self) -> None:
        assert joined_dims(GEMM, GEMM.join, [{"m": 2, "k": 3, "n": 4}, {"m": 5, "k": 3, "n": 4}]) == {
            "m": 7,
            "k": 3,
            "n": 4,
        }
        assert joined_params(HAIRCUT.join, [{"num_accounts": 2}, {"num_accounts": 3}]) == {"num_accounts": 5}


def model(*, rows_independent: bool) -> Workload:
    arrays = (ArrayDescription("x", ("batch", 3), "float64"),), (ArrayDescription("y", ("batch", 1), "float64"),)
    description = Description("d", 1, ".safetensors", *arrays, 10.0, rows_independent=rows_independent)
    return workload_of("ml.model/m@1", ModelId("m", 1), description)


def test_a_users_model_joins_if_its_rows_are_independent() -> None:
    assert model(rows_independent=True).join == Join(inputs={"x": 0}, outputs={"y": 0})
    assert model(rows_independent=False).join is None


class TestDeclaration:
    @pytest.mark.parametrize(
        ("workload", "join", "words"),
        [
            (GEMM, Join(inputs={}, outputs={"c": 0}), "names no input"),
            (GEMM, Join(inputs={"z": 0}, outputs={"c": 0}), "names the input z, which it does not have"),
            (GEMM, Join(inputs={"a": 0}, outputs={}), "does not cut the output c"),
            (GEMM, Join(inputs={"a": 0}, outputs={"c": 0, "d": 0}), "cuts d, which is no output"),
            (GEMM, Join(inputs={"a": 2}, outputs={"c": 0}), "along axis 2 of a, which has 2"),
            (GEMM, Join(inputs={"a": 1}, outputs={"c": 0}), "grows the dimension k, and b has it elsewhere"),
            (
                HAIRCUT,
                dataclasses.replace(HAIRCUT.join, groups=Groups("price", "num_accounts")),
                "numbered by price, which is no joined int64 input",
            ),
            (
                HAIRCUT,
                dataclasses.replace(HAIRCUT.join, groups=Groups("account", "accounts")),
                "counted by accounts, which is no required int parameter",
            ),
        ],
    )
    def test_a_wrong_one_is_found(self, workload: Workload, join: Join, words: str) -> None:
        assert any(words in problem for problem in join_problems(dataclasses.replace(workload, join=join)))

    def test_rows_that_know_of_each_other_are_found(self) -> None:
        def centred(namespace, params, arrays):
            return {"c": namespace.matmul(arrays["a"] - arrays["a"].mean(axis=0), arrays["b"])}

        (problem, *_) = check_workload(dataclasses.replace(GEMM, kernel=centred, split=None, merge=None)).problems
        assert "joined differ from each alone" in problem
