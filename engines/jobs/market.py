"""Synthetic trades and a synthetic market around the real prices: the MarketData, WebSocket and Toraniko engines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from engines.jobs.job import Job
from engines.prices import TRADING_DAYS, Floats, Panel, Stock

TRADES = 300_000
OPENING, SESSION_SECONDS = "14:30", 23_400
BAR_SECONDS = 60
MESSAGES, CLIENTS = 20_000, 20_000
NAMES, SECTORS, STYLES = 400, 8, 2
SPECIFIC, SECTOR_MOVE, STYLE_MOVE = 0.015, 0.004, 0.003


def market(stocks: Sequence[Stock], old: Panel, rng: np.random.Generator) -> dict[str, Job]:
    """Bars of a day's trades, what subscribers are sent of them, and the factors of a cross-section."""
    trades = _trades(stocks, rng)
    last = trades["symbol"][-MESSAGES:]
    wanted = rng.random((CLIENTS, len(stocks))) < 0.5
    subscriber, subscribed = np.nonzero(wanted)
    shuffled = rng.permutation(len(subscriber))
    return {
        "bars": Job(
            "MarketData",
            f"{TRADES:,} synthetic trades of a day from the real last closes on, in bars of {BAR_SECONDS} s",
            "marketdata.ohlcv_bars",
            {"trades": {**trades, "interval_seconds": float(BAR_SECONDS)}},
        ),
        "fanout": Job(
            "WebSocket",
            f"the last {MESSAGES:,} of those trades for {CLIENTS:,} synthetic clients, each of whom wants about half of the symbols",
            "websocket.conflate_fanout",
            {
                "messages": {
                    "symbol": last,
                    "sequence": np.arange(TRADES - MESSAGES, TRADES),
                    "subscriber": subscriber[shuffled],
                    "subscribed": subscribed[shuffled],
                    "clients": CLIENTS,
                    "symbols": len(stocks),
                }
            },
        ),
        "factor_returns": Job(
            "Toraniko",
            f"{NAMES} synthetic names in {SECTORS} sectors that follow the real book of {len(old.tickers)} over its last {TRADING_DAYS} days",
            "toraniko.factor_returns",
            {"market": _cross_section(old.book[-TRADING_DAYS:], rng)},
        ),
    }


def _trades(stocks: Sequence[Stock], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Trades at random times, each stock's price a geometric random walk with its real volatility, in whole cents."""
    opening = datetime.fromisoformat(f"{max(stock.dates[-1] for stock in stocks)}T{OPENING}").replace(tzinfo=UTC)
    start = int(opening.timestamp()) * 1_000_000_000
    symbol = rng.integers(len(stocks), size=TRADES)
    price = np.empty(TRADES)
    for number, stock in enumerate(stocks):
        own = np.flatnonzero(symbol == number)
        steps = rng.standard_normal(len(own)) * stock.volatility / np.sqrt(TRADING_DAYS * len(own))
        price[own] = np.round(stock.close[-1] * np.exp(np.cumsum(steps)), 2)
    return {
        "timestamp": start + np.sort(rng.integers(SESSION_SECONDS * 1_000_000_000, size=TRADES)),
        "symbol": symbol,
        "price": price,
        "quantity": 100.0 * rng.geometric(0.3, TRADES),
    }


def _cross_section(book: Floats, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Names whose return is that of the real book, of their sector and of their styles, and noise of their own."""
    days = len(book)
    sector = np.eye(SECTORS)[np.arange(NAMES) % SECTORS]
    style = rng.standard_normal((days, NAMES, STYLES))
    returns = (
        book[:, None]
        + SECTOR_MOVE * rng.standard_normal((days, SECTORS)) @ sector.T
        + STYLE_MOVE * np.einsum("dnt,dt->dn", style, rng.standard_normal((days, STYLES)))
        + SPECIFIC * rng.standard_normal((days, NAMES))
    )
    return {
        "returns": returns,
        "market_cap": np.broadcast_to(rng.lognormal(23.0, 1.0, NAMES), (days, NAMES)).copy(),
        "sector": sector[None],
        "style": style,
    }
