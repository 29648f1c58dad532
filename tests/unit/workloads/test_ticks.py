"""The synthetic trades: seeded, in order, and with what makes real ones awkward."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.workloads.ticks import popular, tick_stream


def test_the_same_generator_gives_the_same_trades() -> None:
    first, second = (tick_stream(np.random.default_rng(3), 1_000, 4) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("symbols", [1, 40])
def test_trades_are_in_order_with_ties_and_move_by_cents(symbols: int) -> None:
    ticks = tick_stream(np.random.default_rng(1), 20_000, symbols)
    gaps = np.diff(ticks["timestamp"])
    assert (gaps >= 0).all() and 0.05 < (gaps == 0).mean() < 0.15
    assert set(ticks["symbol"]) == set(range(symbols))
    assert (ticks["quantity"] >= 1.0).all() and (ticks["quantity"] % 1.0 == 0.0).all()
    for symbol in range(symbols):
        moves = np.diff(ticks["price"][ticks["symbol"] == symbol])
        assert np.abs(moves).max() < 0.2


def test_popular_ids_are_drawn_more_often() -> None:
    counts = np.bincount(popular(np.random.default_rng(0), 100_000, 4), minlength=4)
    assert counts / 100_000 == pytest.approx(np.array([12.0, 6.0, 4.0, 3.0]) / 25.0, abs=0.01)
