"""Conflation and fan-out against a dictionary of the newest messages, and the order of what is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.workloads.websocket import CONFLATE_FANOUT

Run = Callable[..., dict[str, Any]]


def lists_of(out: dict[str, Any]) -> list[list[int]]:
    return [part.tolist() for part in np.split(out["message_index"], out["client_offsets"][1:-1])]


def loop(arrays: dict[str, np.ndarray], clients: int) -> list[list[int]]:
    newest: dict[int, tuple[int, int]] = {}
    for index, (symbol, number) in enumerate(zip(arrays["symbol"].tolist(), arrays["sequence"].tolist(), strict=True)):
        newest[symbol] = max(newest.get(symbol, (-1, -1)), (number, index))
    wanted: list[set[int]] = [set() for _ in range(clients)]
    for client, symbol in zip(arrays["subscriber"].tolist(), arrays["subscribed"].tolist(), strict=True):
        wanted[client].add(symbol)
    return [[index for _, index in sorted(newest[one] for one in mine if one in newest)] for mine in wanted]


def traffic(
    seed: int, messages: int, pairs: int, clients: int, symbols: int, numbers: int | None = None
) -> dict[str, np.ndarray]:
    """Messages out of order, with few distinct sequence numbers where ``numbers`` is small, and repeated subscriptions."""
    rng = np.random.default_rng(seed)
    return {
        "symbol": rng.integers(0, symbols, messages),
        "sequence": rng.integers(0, numbers or messages, messages),
        "subscriber": rng.integers(0, clients, pairs),
        "subscribed": rng.integers(0, symbols, pairs),
    }


def few(**arrays: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(values, dtype=np.int64) for name, values in arrays.items()}


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    messages=st.integers(1, 200),
    pairs=st.integers(1, 200),
    clients=st.integers(1, 30),
    symbols=st.integers(1, 60),
    numbers=st.sampled_from([None, 1, 3]),
)
def test_agrees_with_a_dictionary(
    run: Run, seed: int, messages: int, pairs: int, clients: int, symbols: int, numbers: int | None
) -> None:
    arrays = traffic(seed, messages, pairs, clients, symbols, numbers)
    out = run(CONFLATE_FANOUT, arrays, clients=clients, symbols=symbols)
    assert out["client_offsets"].dtype == out["message_index"].dtype == np.int64
    assert lists_of(out) == loop(arrays, clients)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_a_dictionary_on_every_device(run: Run, seed: int, precise: Namespace, single: Namespace) -> None:
    arrays = traffic(seed, 5_000, 3_000, 120, 700)
    expected = loop(arrays, 120)
    for namespace in (precise, single):
        assert lists_of(run(CONFLATE_FANOUT, arrays, namespace=namespace, clients=120, symbols=700)) == expected


def test_each_list_is_in_order_of_sequence(run: Run) -> None:
    arrays = traffic(1, 20_000, 5_000, 50, 900)
    arrays["sequence"] = np.random.default_rng(2).permutation(20_000)
    for mine in lists_of(run(CONFLATE_FANOUT, arrays, clients=50, symbols=900)):
        assert len(mine) > 50 and (np.diff(arrays["sequence"][mine]) > 0).all()


def test_of_equal_numbers_the_last_message_wins_and_the_earlier_one_goes_first(run: Run) -> None:
    arrays = few(symbol=[0, 1, 0, 1, 1], sequence=[5, 5, 5, 5, 4], subscriber=[0, 0], subscribed=[1, 0])
    assert lists_of(run(CONFLATE_FANOUT, arrays, clients=1, symbols=2)) == [[2, 3]]


def test_clients_without_subscriptions_get_empty_lists(run: Run) -> None:
    arrays = few(symbol=[1], sequence=[0], subscriber=[2], subscribed=[1])
    out = run(CONFLATE_FANOUT, arrays, clients=5, symbols=2)
    assert out["client_offsets"].tolist() == [0, 0, 0, 1, 1, 1]
    assert out["message_index"].tolist() == [0]


def test_symbols_without_messages_are_not_sent(run: Run, single: Namespace) -> None:
    arrays = few(symbol=[3, 3], sequence=[0, 1], subscriber=[0, 1, 1], subscribed=[0, 1, 2])
    out = run(CONFLATE_FANOUT, arrays, namespace=single, clients=2, symbols=4)
    assert out["client_offsets"].tolist() == [0, 0, 0]
    assert out["message_index"].dtype == np.int64 and out["message_index"].shape == (0,)


def test_a_repeated_subscription_is_sent_once(run: Run) -> None:
    arrays = few(symbol=[0, 1], sequence=[0, 1], subscriber=[0, 0, 0, 0], subscribed=[1, 0, 1, 1])
    assert lists_of(run(CONFLATE_FANOUT, arrays, clients=1, symbols=2)) == [[0, 1]]


def test_sequence_numbers_are_compared_exactly(run: Run, single: Namespace) -> None:
    """Numbers that neither float32 nor float64 can tell apart."""
    large = 2**62
    arrays = few(symbol=[0, 0, 1], sequence=[large + 1, large, large], subscriber=[0, 0], subscribed=[0, 1])
    for options in ({}, {"namespace": single}):
        assert lists_of(run(CONFLATE_FANOUT, arrays, clients=1, symbols=2, **options)) == [[2, 0]]


def test_clients_times_symbols_may_exceed_32_bits(run: Run, precise: Namespace, single: Namespace) -> None:
    count = 3_000_000
    arrays = traffic(5, 20_000, 400, count, 1_500)
    assert np.unique(arrays["subscriber"]).size == 400
    subscribed = arrays["subscribed"][np.argsort(arrays["subscriber"])]
    for namespace in (precise, single):
        out = run(CONFLATE_FANOUT, arrays, namespace=namespace, clients=count, symbols=1_500)
        assert np.array_equal(arrays["symbol"][out["message_index"]], subscribed)


def test_ids_of_32_bits_are_welcome(run: Run, precise: Namespace, single: Namespace) -> None:
    arrays = traffic(3, 900, 800, 70_000, 50_000)
    narrow = {name: array.astype(np.int32) for name, array in arrays.items()}
    expected = loop(arrays, 70_000)
    for namespace in (precise, single):
        out = run(CONFLATE_FANOUT, narrow, namespace=namespace, clients=70_000, symbols=50_000)
        assert lists_of(out) == expected


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.001, 0.9, 0.099], [0.1] * 10])
@pytest.mark.parametrize("clients", [1, 3, 400])
def test_parts_merged_are_the_whole(run: Run, shares: list[float], clients: int) -> None:
    assert CONFLATE_FANOUT.split is not None and CONFLATE_FANOUT.merge is not None
    whole = Example({"clients": clients, "symbols": 80}, traffic(4, 500, 900, clients, 80))
    parts = CONFLATE_FANOUT.split(whole, shares)
    assert 1 <= len(parts) <= len(shares)
    merged = CONFLATE_FANOUT.merge(whole, [run(CONFLATE_FANOUT, part.arrays, **part.params) for part in parts])
    expected = run(CONFLATE_FANOUT, whole.arrays, **whole.params)
    assert merged.keys() == expected.keys()
    for name, array in expected.items():
        assert merged[name].dtype == np.int64 and np.array_equal(merged[name], array)


@pytest.mark.parametrize(
    ("name", "limit"), [("symbol", "7 symbols"), ("subscribed", "7 symbols"), ("subscriber", "5 clients")]
)
def test_ids_beyond_their_count_are_refused(run: Run, name: str, limit: str) -> None:
    arrays = few(symbol=[0, 1], sequence=[0, 1], subscriber=[0, 1], subscribed=[0, 1])
    arrays[name][1] = int(limit[0])
    with pytest.raises(InvalidArray, match=rf"{name}\[1\] is {limit[0]}, with {limit}"):
        run(CONFLATE_FANOUT, arrays, clients=5, symbols=7)


@pytest.mark.parametrize("name", ["symbol", "sequence", "subscriber", "subscribed"])
def test_negative_ids_are_refused(run: Run, name: str) -> None:
    arrays = few(symbol=[0, 1], sequence=[0, 1], subscriber=[0, 1], subscribed=[0, 1])
    arrays[name][0] = -1
    with pytest.raises(InvalidArray, match=f"{name} must be >= 0"):
        run(CONFLATE_FANOUT, arrays, clients=2, symbols=2)


def test_counts_are_bounded(run: Run) -> None:
    arrays = few(symbol=[0], sequence=[0], subscriber=[0], subscribed=[0])
    with pytest.raises(InvalidParameter, match="clients must be <= 1e"):
        run(CONFLATE_FANOUT, arrays, clients=10**9, symbols=1)
    with pytest.raises(InvalidParameter, match="symbols must be >= 1"):
        run(CONFLATE_FANOUT, arrays, clients=1, symbols=0)
