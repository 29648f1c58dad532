"""What the jobs computed, as a risk manager reads it, and the checks that it makes sense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from engines.checks import verified
from engines.checks.require import WrongResult
from engines.jobs.histories import ATR_DAYS, RSI_DAYS, SMA_DAYS
from engines.jobs.job import Outcome
from engines.jobs.learning import LAYERS, ROWS
from engines.jobs.options import RATE
from engines.jobs.risk import HORIZON_DAYS
from engines.prices import Floats, Stock
from routerd.client import TaskResult

_SAMPLED_ROWS = 64
_STANDARD_ERRORS = 5.0
_GREEKS = ("price", "delta", "gamma", "vega", "theta", "rho")
_STATISTICS = ("sharpe", "sortino", "max_drawdown", "calmar", "volatility")


class Findings:
    """The results of all jobs. Building it checks them; raises ``WrongResult``."""

    def __init__(self, stocks: Sequence[Stock], outcomes: Mapping[str, Outcome]) -> None:
        self._stocks = stocks
        self._outcomes = outcomes
        grid = outcomes["greeks"].results["grid"]["greeks"]
        self._greeks = {
            stock.ticker: dict(zip(_GREEKS, map(float, grid[row]), strict=True)) for row, stock in enumerate(stocks)
        }
        self._check_options()
        self._verified = list(verified(outcomes))
        self._product_errors = {name: self._product_error(name) for name in ("product", "loose_product")}

    def options(self) -> Table:
        """Each stock with its call by three methods, and the call on its average."""
        table = _table(
            f"A year's at-the-money call, rate {RATE:.0%}; volatility realised over the last year",
            "stock", "close", "volatility", "1 M paths", "± std. error", "4 096 points", "± std. error",
            "Black–Scholes", "delta", "vega", "on the average",
        )  # fmt: skip
        for stock in self._stocks:
            paths, points = self._priced("pseudo_random", stock), self._priced("quasi_random", stock)
            exact = self._greeks[stock.ticker]
            table.add_row(
                stock.ticker,
                f"{stock.close[-1]:.2f}",
                f"{stock.volatility:.1%}",
                f"{paths['price']:.4f}",
                f"{paths['standard_error']:.1e}",
                f"{points['price']:.6f}",
                f"{points['standard_error']:.1e}",
                f"{exact['price']:.6f}",
                f"{exact['delta']:.4f}",
                f"{exact['vega']:.3f}",
                f"{self._priced('asian', stock)['price']:.4f}",
            )
        return table

    def histories(self) -> Table:
        """Each series' statistics and each stock's indicators on the last day."""
        table = _table(
            "Whole histories, closes adjusted for splits and dividends; indicators on the last day",
            "series", "Sharpe", "Sortino", "max drawdown", "volatility",
            "last", f"SMA {SMA_DAYS}", f"RSI {RSI_DAYS}", f"ATR {ATR_DAYS}",
        )  # fmt: skip
        statistics = self._statistics()
        last = {name: self._last(name) for name in ("sma", "rsi", "atr")}
        prices = {stock.ticker: float(stock.adjusted[-1]) for stock in self._stocks}
        for name in [*prices, *(name for name in statistics if name not in prices)]:
            found = statistics[name]
            table.add_row(
                name,
                f"{found['sharpe']:.2f}",
                f"{found['sortino']:.2f}",
                f"{found['max_drawdown']:.1%}",
                f"{found['volatility']:.1%}",
                f"{prices[name]:.2f}" if name in prices else "",
                *(f"{last[indicator][name]:.2f}" if name in prices else "" for indicator in last),
            )
        return table

    def risk(self) -> Table:
        """Value at risk and expected shortfall of the equal-weight books."""
        table = _table(
            "Equal-weight book of 1,000,000, confidence 99 %", "scenarios", "horizon", "VaR", "expected shortfall"
        )
        for job, horizon in (("one_day_risk", "1 day"), ("ten_day_risk", f"{HORIZON_DAYS} days")):
            for name, result in self._outcomes[job].results.items():
                table.add_row(name, horizon, f"{result['value_at_risk']:,.0f}", f"{result['expected_shortfall']:,.0f}")
        return table

    def remarks(self) -> Iterator[str]:
        """The rest, a line each."""
        yield from self._verified
        outputs = self._outcomes["inference"].results["windows"]["y"]
        yield (
            f"ml.mlp_inference: {ROWS:,} outputs of an untrained {'-'.join(map(str, LAYERS))} network, mean {outputs.mean():+.3f}, "
            f"deviation {outputs.std():.3f}; no forecast"
        )
        for name, error in self._product_errors.items():
            result = self._outcomes[name].results["product"]
            tolerance = self._outcomes[name].job.tasks["product"]["tolerance"]
            yield (
                f"linalg.gemm on {result.ran_on.backend}: error {error:.1e} against float64 on {_SAMPLED_ROWS} of its rows, "
                f"tolerance {tolerance:.0e}"
            )

    def _priced(self, name: str, stock: Stock) -> TaskResult:
        return self._outcomes[name].results[stock.ticker]

    def _statistics(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for names, result in self._outcomes["performance"].results.items():
            for series, row in zip(names.split(", "), result["statistics"], strict=True):
                found[series] = dict(zip(_STATISTICS, map(float, row), strict=True))
        return found

    def _last(self, indicator: str) -> dict[str, float]:
        """The indicator's last value for each stock."""
        found: dict[str, float] = {}
        for names, result in self._outcomes[indicator].results.items():
            found.update(zip(names.split(", "), map(float, result[indicator][-1]), strict=True))
        return found

    def _check_options(self) -> None:
        """Simulated prices against the closed form that the greeks job gave for the same calls."""
        for name in ("pseudo_random", "quasi_random"):
            for stock in self._stocks:
                result, exact = self._priced(name, stock), self._greeks[stock.ticker]["price"]
                # Both sides may also be off by their tolerance of 1e-5.
                allowed = _STANDARD_ERRORS * result["standard_error"] + 2e-5 * exact
                if not abs(result["price"] - exact) <= allowed:
                    raise WrongResult(
                        f"the {name} price of {stock.ticker} is {result['price']:.6f} ± {result['standard_error']:.1e}, "
                        f"Black–Scholes gives {exact:.6f}"
                    )
        for stock in self._stocks:
            average, exact = self._priced("asian", stock)["price"], self._greeks[stock.ticker]["price"]
            # An average over equal steps has a bit more than a third of the variance, and its drift is a half.
            if not exact / 3.0 < average < exact:
                raise WrongResult(
                    f"the call on the average of {stock.ticker} costs {average:.4f}, that on the close {exact:.4f}"
                )

    def _product_error(self, name: str) -> float:
        """Relative error (Frobenius) of some rows of the product against float64 computed here; checks it."""
        arguments: Mapping[str, Any] = self._outcomes[name].job.tasks["product"]
        result = self._outcomes[name].results["product"]
        rows = np.linspace(0, arguments["a"].shape[0] - 1, _SAMPLED_ROWS).astype(int)
        expected: Floats = arguments["a"][rows] @ arguments["b"]
        error = float(np.linalg.norm(result["c"][rows] - expected) / np.linalg.norm(expected))
        if not error <= arguments["tolerance"] or math.isnan(error):
            raise WrongResult(
                f"linalg.gemm on {result.ran_on.backend} has error {error:.1e}, asked for {arguments['tolerance']:.0e}"
            )
        return error


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", header_style="dim", overflow="fold")
    return table
