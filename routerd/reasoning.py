"""The sentence that a person can check: what was predicted, against what, and on which grounds."""

from __future__ import annotations

from routerd.costs.choice import Choice
from routerd.interfaces import CONTRACT_BACKEND
from routerd.types import Candidate, Task


def explain(
    task: Task,
    choice: Choice,
    contract_seconds: float | None,
    *,
    rule: str,
    priors: frozenset[str],
    beyond: frozenset[str] = frozenset(),
) -> str:
    """Why the first of ``choice`` is first.

    ``priors`` names backends whose prediction was never measured here, ``beyond`` those that were not measured at any size
    near this one.
    """
    chosen, others = choice.ranking[0], choice.ranking[1:]
    parts = [f"{chosen.backend}: {duration(chosen.predicted_seconds)} predicted"]
    rival = next((one for one in others if one.backend == CONTRACT_BACKEND), others[0] if others else None)
    if rival is not None:
        parts[0] += f" against {duration(rival.predicted_seconds)} on {rival.backend}"
    elif chosen.backend != CONTRACT_BACKEND and contract_seconds is not None:
        parts[0] += f" against {duration(contract_seconds)} on {CONTRACT_BACKEND}, which may not take it"
    parts[0] += f" for work {quantity(task.work)}"
    if chosen.queue_seconds > 0.0:
        parts.append(f"{duration(chosen.queue_seconds)} of it in the queue")
    guessed = sorted(priors & {candidate.backend for candidate in choice.ranking})
    if guessed:
        parts.append(f"not yet timed here: {', '.join(guessed)}")
    if beyond:
        parts.append(f"extrapolated beyond what was timed: {', '.join(sorted(beyond))}")
    parts.append(_error_words(chosen, task.tolerance))
    parts.append(f"rule {rule}: {choice.because if others else 'it is the only candidate'}")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best, three significant digits."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def quantity(number: float) -> str:
    """A large number in few characters: 1.7e10."""
    return f"{number:.2g}".replace("e+0", "e").replace("e+", "e") if number >= 1e6 else f"{number:g}"


def _error_words(chosen: Candidate, tolerance: float) -> str:
    if chosen.backend == CONTRACT_BACKEND:
        return "it is the float64 contract"
    return f"error {chosen.error:.1e} within tolerance {tolerance:.0e}"
