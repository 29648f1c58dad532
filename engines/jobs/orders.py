"""Orders and what secures them: the order pipeline (Execution) and the Collateral engine.

Prices, volumes, volatilities and correlations are the real ones; orders, accounts, limits and impact are assumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.jobs.job import Job
from engines.prices import TRADING_DAYS, Floats, Panel, Stock

AVERSIONS = np.logspace(-10, -7, 100)
PERIODS, HORIZON = 50, 5.0
SPREAD = 0.0005
ORDERS, COLLAR = 20_000, 0.05
ACCOUNTS = 5_000


def orders(stocks: Sequence[Stock], young: Panel, rng: np.random.Generator) -> dict[str, Job]:
    """Schedules of large orders, checks of many small ones, and the margin of accounts."""
    close = np.array([stock.close[-1] for stock in stocks])
    daily_volume = np.array([stock.volume[-TRADING_DAYS:].mean() for stock in stocks])
    return {
        "margin": _margin(stocks, young, rng),
        "schedules": _schedules(stocks, close, daily_volume),
        "pretrade": _pretrade(close, daily_volume, rng),
    }


def _schedules(stocks: Sequence[Stock], close: Floats, daily_volume: Floats) -> Job:
    """Impact as Almgren and Chriss assume it: 1 % of a day's volume costs a spread, 10 % move the price by one for good."""
    per_day = np.array([stock.volatility for stock in stocks]) / np.sqrt(TRADING_DAYS) * close
    columns = {
        "shares": 0.1 * daily_volume,
        "horizon": np.full(len(stocks), HORIZON),
        "volatility": per_day,
        "temporary_impact": SPREAD * close / (0.01 * daily_volume),
        "permanent_impact": SPREAD * close / (0.1 * daily_volume),
    }
    arguments = {name: np.repeat(column, len(AVERSIONS)) for name, column in columns.items()}
    return Job(
        "Execution",
        f"sell a tenth of each stock's real daily volume in {PERIODS} trades over {HORIZON:g} days; {len(AVERSIONS)} aversions to risk",
        "execution.almgren_chriss",
        {"orders": {**arguments, "risk_aversion": np.tile(AVERSIONS, len(stocks)), "num_periods": PERIODS}},
    )


def _pretrade(close: Floats, daily_volume: Floats, rng: np.random.Generator) -> Job:
    instrument = rng.integers(len(close), size=ORDERS)
    count = len(close)
    return Job(
        "Execution",
        f"{ORDERS:,} synthetic orders around the real closes, against limits and a collar of {COLLAR:.0%}",
        "execution.pretrade",
        {
            "orders": {
                "instrument": instrument,
                "side": rng.choice([-1, 1], ORDERS),
                "price": np.round(close[instrument] * (1.0 + 0.02 * rng.standard_normal(ORDERS)), 2),
                "quantity": 100.0 * rng.geometric(0.05, ORDERS),
                "reference_price": close,
                "max_quantity": np.full(count, 8_000.0),
                "max_notional": np.full(count, 2e6),
                "position": np.zeros(count),
                "open_buys": np.zeros(count),
                "open_sells": np.zeros(count),
                "position_limit": 0.1 * daily_volume,
                "price_collar": COLLAR,
            }
        },
    )


def _margin(stocks: Sequence[Stock], panel: Panel, rng: np.random.Generator) -> Job:
    """Real correlations within two buckets. The first accounts hold one stock each, so their margin is its weight."""
    count = len(stocks)
    sensitivities = 1e4 * rng.standard_normal((ACCOUNTS, count))
    sensitivities[:count] = 1e4 * np.eye(count)
    return Job(
        "Collateral",
        f"{ACCOUNTS:,} synthetic accounts of the {count} stocks; real volatilities as risk weights, real correlations",
        "collateral.margin_sba",
        {
            "accounts": {
                "sensitivities": sensitivities,
                "risk_weights": np.array([stock.volatility for stock in stocks]),
                "bucket": (np.arange(count) % 2).astype(np.int64),
                "rho": np.corrcoef(panel.returns.T),
                "gamma": np.array([[1.0, 0.15], [0.15, 1.0]]),
            }
        },
    )
