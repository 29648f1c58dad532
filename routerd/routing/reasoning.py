"""The sentence that a person can check: what was predicted, against what, and on which grounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from routerd.costs.choice import Choice
from routerd.costs.curve import ENOUGH_SIZES, Curve
from routerd.interfaces import CONTRACT_BACKEND, IN_PROCESS_BACKEND
from routerd.types import Candidate


def explain(
    work: float,
    tolerance: float,
    choice: Choice,
    contract_seconds: float | None,
    *,
    rule: str,
    doubts: Sequence[str] = (),
) -> str:
    """Why the first of ``choice`` is first. ``doubts`` says of which backends a prediction rests on little."""
    chosen, others = choice.ranking[0], choice.ranking[1:]
    parts = [f"{_label(chosen)}: {duration(chosen.predicted_seconds)} predicted"]
    rival = next((one for one in others if one.backend == CONTRACT_BACKEND), others[0] if others else None)
    if rival is not None:
        parts[0] += f" against {duration(rival.predicted_seconds)} on {rival.backend}"
    elif chosen.backend != CONTRACT_BACKEND and contract_seconds is not None:
        parts[0] += f" against {duration(contract_seconds)} on {CONTRACT_BACKEND}, which may not take it"
    parts[0] += f" for work {quantity(work)}"
    if chosen.queue_seconds > 0.0:
        parts.append(f"{duration(chosen.queue_seconds)} of it in the queue")
    if chosen.cold_seconds > 0.0:
        parts.append(f"{duration(chosen.cold_seconds)} of it because this is its first task since its start")
    parts += doubts
    parts.append(_error_words(chosen, tolerance))
    parts.append(f"rule {rule}: {choice.because if others else 'it is the only candidate'}")
    return "; ".join(parts)


def doubts_about(curves: Mapping[str, Curve], work: float) -> list[str]:
    """What a prediction for this much work rests on where that is little, by backend."""
    guessed, few, beyond = [], [], []
    for backend, curve in sorted(curves.items()):
        if not curve.timed:
            guessed.append(backend)
        elif len(curve.knots) < ENOUGH_SIZES:
            few.append(backend)
        if curve.timed and not curve.reaches(work):
            beyond.append(backend)
    said = (
        ("not yet timed here", guessed),
        ("timed at few sizes", few),
        ("extrapolated beyond what was timed", beyond),
    )
    return [f"{words}: {', '.join(backends)}" for words, backends in said if backends]


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best, three significant digits."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def quantity(number: float) -> str:
    """A large number in few characters: 1.7e10."""
    return f"{number:.2g}".replace("e+0", "e").replace("e+", "e") if number >= 1e6 else f"{number:g}"


def _label(chosen: Candidate) -> str:
    return f"{chosen.backend} ({' + '.join(chosen.members)})" if chosen.members else chosen.backend


def _error_words(chosen: Candidate, tolerance: float) -> str:
    if chosen.backend in (CONTRACT_BACKEND, IN_PROCESS_BACKEND):
        return "it is the float64 contract"
    return f"error {chosen.error:.1e} within tolerance {tolerance:.0e}"
