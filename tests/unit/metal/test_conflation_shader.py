"""The conflation shaders against the contract, number for number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.testing.examples import Sample, contract_outputs, default_works, sample
from routerd.testing.metal import HostLauncher
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from routerd.workloads.websocket import CONFLATE_FANOUT
from routerd_metal.fused import FUSED


def task(
    messages: list[tuple[int, int]],
    subscriptions: list[tuple[int, int]],
    *,
    symbols: int,
    clients: int,
    dtype: str = "int64",
) -> Sample:
    symbol, sequence = np.array(messages, dtype=dtype).T.copy()
    subscriber, subscribed = np.array(subscriptions, dtype=dtype).T.copy()
    inputs = {"symbol": symbol, "sequence": sequence, "subscriber": subscriber, "subscribed": subscribed}
    refs = {name: ArrayRef(array.shape, str(array.dtype), segment=0) for name, array in inputs.items()}
    params = {"symbols": symbols, "clients": clients}
    return Sample(bind(CONFLATE_FANOUT, params, refs, need_content=True), inputs)


class ZeroedLauncher(HostLauncher):
    """On a GPU an output that was never written holds anything, zeros for example."""

    def launch(self, shader: Any, *arguments: Any, **how: int) -> dict[str, Any]:
        return super().launch(replace(shader, zeroed=True), *arguments, **how)


def fused(made: Sample, launcher: HostLauncher | None = None) -> dict[str, Any] | None:
    run = FUSED["websocket.conflate_fanout"].run
    return run(launcher or HostLauncher(), made.task.params, made.inputs)


def check(made: Sample) -> dict[str, Any]:
    contract = contract_outputs(CONFLATE_FANOUT, made)
    for launcher in (ZeroedLauncher(), HostLauncher()):
        outputs = fused(made, launcher)
        assert outputs is not None
        assert outputs.keys() == contract.keys()
        for name, expected in contract.items():
            assert outputs[name].dtype == np.int64
            np.testing.assert_array_equal(outputs[name], expected)
    return contract


@pytest.mark.parametrize("work", [*default_works(CONFLATE_FANOUT), 50_000.0])
def test_the_examples_agree(work: float) -> None:
    check(sample(CONFLATE_FANOUT, work))


@given(
    messages=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=40),
    subscriptions=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=60),
    base=st.sampled_from([0, 7, 2**31 - 6, 2**62]),
)
@settings(max_examples=120, deadline=None)
def test_small_tasks_with_everything_repeated(
    messages: list[tuple[int, int]], subscriptions: list[tuple[int, int]], base: int
) -> None:
    shifted = [(symbol, base + sequence) for symbol, sequence in messages]
    dtypes = ["int64"] if base > 2**31 else ["int64", "int32"]
    for dtype in dtypes:
        check(task(shifted, subscriptions, symbols=6, clients=5, dtype=dtype))


def test_of_equal_sequence_numbers_the_last_message_counts_and_symbols_without_one_are_left_out() -> None:
    made = task(
        [(0, 3), (1, 9), (0, 3), (1, 4), (3, 0)], [(2, 0), (2, 1), (2, 2), (0, 3), (2, 1)], symbols=4, clients=4
    )
    outputs = check(made)
    assert outputs["client_offsets"].tolist() == [0, 1, 1, 3, 3]
    assert outputs["message_index"].tolist() == [4, 2, 1]


def test_nothing_is_sent_where_no_symbol_asked_for_has_a_message() -> None:
    outputs = check(task([(0, 1)], [(0, 1), (1, 1)], symbols=2, clients=3))
    assert outputs["client_offsets"].tolist() == [0, 0, 0, 0]
    assert outputs["message_index"].size == 0


def test_one_message_to_one_client() -> None:
    assert check(task([(0, 0)], [(0, 0)], symbols=1, clients=1))["message_index"].tolist() == [0]


def test_sequence_numbers_may_span_all_of_32_bits_and_no_more() -> None:
    least, subscriptions = 10**15, [(0, 0), (0, 1)]
    widest = task([(0, least), (1, least + 2**32 - 1), (0, least + 1)], subscriptions, symbols=2, clients=1)
    assert check(widest)["message_index"].tolist() == [2, 1]
    assert fused(task([(0, least), (1, least + 2**32)], subscriptions, symbols=2, clients=1)) is None


def test_lists_so_long_that_a_sort_is_better_are_left_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    messages = [(symbol, int(rng.integers(100))) for symbol in range(50)]
    made = task(messages, [(0, int(rng.integers(50))) for _ in range(300)], symbols=50, clients=2)
    check(made)
    monkeypatch.setattr("routerd_metal.fused.conflation._MOST_COMPARISONS", 299)
    assert fused(made) is None
