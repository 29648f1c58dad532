"""Checks of what was made of synthetic trades and of the synthetic market."""

from __future__ import annotations

import numpy as np

from engines.checks.require import require, require_close
from engines.jobs.job import Outcome

_AWAY = 0.03  # of what styles and the sectors' sizes may move the names' average by


def bars(outcome: Outcome) -> str:
    """Trades, volume and value go into the bars whole, and a symbol's extremes are those of its bars."""
    [result], [trades] = outcome.results.values(), outcome.job.tasks.values()
    table, symbol = result["bars"], result["symbol"]
    require(result["tick_count"].sum() == len(trades["price"]), "trades are missing from the bars")
    require(table[:, 4].sum() == trades["quantity"].sum(), "volume is missing from the bars")
    require_close((table[:, 4] * table[:, 5]).sum(), trades["price"] @ trades["quantity"], 1e-9, "the bars' value")
    for number in np.unique(trades["symbol"]):
        price, own = trades["price"][trades["symbol"] == number], table[symbol == number]
        ends = own[0, 0], own[:, 1].max(), own[:, 2].min(), own[-1, 3]
        require(
            ends == (price[0], price.max(), price.min(), price[-1]), f"the bars of symbol {number} are not its trades"
        )
    return f"{len(table):,} bars, which hold all {table[:, 4].sum():,.0f} shares"


def fanout(outcome: Outcome) -> str:
    """Every client gets exactly the last message of each symbol that it wants."""
    [result], [task] = outcome.results.values(), outcome.job.tasks.values()
    last = [int(np.flatnonzero(task["symbol"] == number)[-1]) for number in range(task["symbols"])]
    offsets, sent = result["client_offsets"], result["message_index"]
    client = np.repeat(np.arange(task["clients"]), np.diff(offsets))
    pairs = np.sort(client * task["symbols"] + task["symbol"][sent])
    wanted = np.sort(task["subscriber"] * task["symbols"] + task["subscribed"])
    require(np.array_equal(pairs, wanted), "clients are sent other symbols than they want")
    require(set(sent) <= set(last), "a client is sent a message that is not its symbol's newest")
    everything = np.bincount(task["symbol"])[task["subscribed"]].sum()
    return f"{len(sent):,} messages sent instead of {everything:,}"


def factor_returns(outcome: Outcome) -> str:
    """The market's return must go with the names' average, in which sectors and styles all but cancel out."""
    [result], [task] = outcome.results.values(), outcome.job.tasks.values()
    found = result["factor_returns"]
    root_cap = np.sqrt(task["market_cap"][0])
    average = task["returns"] @ root_cap / root_cap.sum()
    away = float(np.linalg.norm(found[:, 0] - average) / np.linalg.norm(average))
    require(away <= _AWAY, f"the market's returns are {away:.1%} away from the names' average")
    sectors = found[:, 1 : 1 + task["sector"].shape[2]]
    require(np.abs(sectors.sum(axis=1)).max() < 1e-6, "the sectors' returns do not sum to zero")
    return f"the market's returns are {away:.1%} away from the names' average; the sectors' sum to zero"
