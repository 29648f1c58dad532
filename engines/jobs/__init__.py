"""What the demo asks of routerd: each job is one workload with one or more tasks.

They are built from the real prices; what daily prices do not give is seeded synthetic input around them, and a title says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.jobs.histories import histories
from engines.jobs.job import Job
from engines.jobs.learning import learning
from engines.jobs.market import market
from engines.jobs.options import SEED, options
from engines.jobs.orders import orders
from engines.jobs.portfolio import portfolio
from engines.jobs.risk import risk
from engines.prices import Stock, align, by_history


def build_jobs(stocks: Sequence[Stock]) -> dict[str, Job]:
    """The jobs for these stocks by name, those of an engine together. Every run asks the same."""
    rng = np.random.default_rng(SEED)
    young, old = align(stocks), align(_quoted_longest(stocks))
    return {
        **options(stocks, rng),
        **risk(stocks, young, old, rng),
        **portfolio(young, old, rng),
        **histories(stocks, by_history(stocks), young, old),
        **market(stocks, old, rng),
        **learning(stocks, rng),
        **orders(stocks, young, rng),
    }


def _quoted_longest(stocks: Sequence[Stock]) -> list[Stock]:
    """All but the youngest, which would cut the common history short."""
    youngest = max(stocks, key=lambda stock: stock.dates[0])
    return [stock for stock in stocks if stock is not youngest]
