"""Conflation and fan-out against a dictionary of the newest messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.ticks import popular
from routerd.workloads.websocket import CONFLATE_FANOUT

_SUBSCRIPTIONS = 200


def cases(quick: bool) -> list[Case | Missing]:
    messages, clients, symbols = (5_000, 50, 500) if quick else (100_000, 1_000, 5_000)
    rng = np.random.default_rng(0)
    own = [rng.choice(symbols, min(_SUBSCRIPTIONS, symbols), replace=False) for _ in range(clients)]
    arrays = {
        "symbol": popular(rng, messages, symbols),
        "sequence": np.arange(messages) ^ 1,  # neighbours have changed places
        "subscriber": np.repeat(np.arange(clients), [one.size for one in own]),
        "subscribed": np.concatenate(own),
    }
    symbol, sequence = arrays["symbol"].tolist(), arrays["sequence"].tolist()
    wanted = [one.tolist() for one in own]
    return [
        Case(
            workload=CONFLATE_FANOUT.name,
            scale=f"{messages:,} messages, {clients:,} clients with {_SUBSCRIPTIONS} of {symbols:,} symbols",
            library="a dictionary",
            params={"clients": clients, "symbols": symbols},
            arrays=arrays,
            peer=lambda: _loop(symbol, sequence, wanted),
            difference=_difference,
            note="the dictionary's side holds messages and subscriptions as lists beforehand; making them is not timed",
        )
    ]


def _difference(outputs: Mapping[str, Any], lists: list[list[int]]) -> float:
    offsets = np.cumsum([0, *(len(mine) for mine in lists)])
    same = np.array_equal(outputs["client_offsets"], offsets) and np.array_equal(
        outputs["message_index"], np.concatenate([np.asarray(mine, dtype=np.int64) for mine in lists])
    )
    return 0.0 if same else float("inf")


def _loop(symbol: list[int], sequence: list[int], wanted: list[list[int]]) -> list[list[int]]:
    newest: dict[int, tuple[int, int]] = {}
    for index, (one, number) in enumerate(zip(symbol, sequence, strict=True)):
        if one not in newest or number >= newest[one][0]:
            newest[one] = (number, index)
    return [[index for _, index in sorted(newest[one] for one in mine if one in newest)] for mine in wanted]
