"""Independent calculations, in plain NumPy, of what the jobs computed; each gives the sentence that reports the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from engines.checks.histories import atr, features, sweep, vpin
from engines.checks.market import bars, factor_returns, fanout
from engines.checks.orders import margin, pretrade, schedules
from engines.checks.portfolio import cardinality, decomposition, markowitz
from engines.checks.risk import histogram_risk, simulated_risk
from engines.jobs.job import Outcome

#: A check of each job that has one, by the name of the job.
CHECKS: Mapping[str, Callable[[Outcome], str]] = {
    check.__name__: check
    for check in (
        simulated_risk, histogram_risk, markowitz, cardinality, decomposition, factor_returns, atr, sweep, features, vpin,
        bars, fanout, margin, schedules, pretrade,
    )
}  # fmt: skip


def verified(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """A line for each job that has a check. Raises ``WrongResult`` where a result contradicts it."""
    for name, check in CHECKS.items():
        yield f"{outcomes[name].job.workload}: {check(outcomes[name])}"
