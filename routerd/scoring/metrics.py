"""Figures of merit of a chooser: how often it is right, what its mistakes cost, and whether its confidence is true.

Regret is what the choice took divided by what the best backend took, less one: 0.03 is three per cent too long. A trial that
only one backend ran has nothing to choose, so it would flatter: it is counted, and left out of every rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from msgspec import Struct

from routerd.errors import BadRequest
from routerd.scoring.trials import Trial

#: A choice is right when it took at most this much longer than the best: less is within what repetitions differ by.
CLOSE = 0.05
BINS = 10

_Z_95 = 1.959964


class ChoiceScore(Struct, frozen=True):
    """What a series of choices was worth: the share that was right, and the mean and 95th percentile of regret."""

    right_rate: float
    mean_regret: float
    p95_regret: float


class WorkloadScore(Struct, frozen=True):
    """The same for the trials of one workload, with its greatest regret and the work at which that arose."""

    workload: str
    trials: int
    right_rate: float
    mean_regret: float
    worst_regret: float
    worst_work: float


class Bin(Struct, frozen=True):
    """Choices whose confidence lies in ``(low, high]``: how many, how sure on average, and how many were the best.

    ``best_low`` to ``best_high`` is the 95 % interval of the last figure (Wilson, J. Am. Stat. Assoc. 22, 1927): with few
    choices in a bin it is wide, and a distance from the diagonal then means little.
    """

    low: float
    high: float
    count: int
    mean_confidence: float
    best_rate: float
    best_low: float
    best_high: float


class Score(Struct, frozen=True):
    """How well decisions stood up to measurement.

    ``trials`` counts those with a choice to make, ``single_backend`` the others. ``prediction_error`` is the mean of
    ``|predicted/measured − 1|`` over every backend of every trial, or ``None`` if nothing was predicted. ``workloads`` starts
    with the one whose mean regret is greatest.
    """

    trials: int
    single_backend: int
    choices: ChoiceScore
    prediction_error: float | None
    calibration_error: float
    reliability: tuple[Bin, ...]
    workloads: tuple[WorkloadScore, ...]


def score(trials: Sequence[Trial]) -> Score:
    """Judge the decisions of ``trials``. Raises ``BadRequest`` if none of them had two backends to choose from."""
    contests = contested(trials)
    return Score(
        trials=len(contests),
        single_backend=len(trials) - len(contests),
        choices=score_choices(contests, [trial.chosen for trial in contests]),
        prediction_error=prediction_error(trials),
        calibration_error=calibration_error(contests),
        reliability=reliability(contests),
        workloads=_by_workload(contests),
    )


def contested(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that more than one backend ran. Raises ``BadRequest`` if there are none."""
    found = [trial for trial in trials if len(trial.seconds) > 1]
    if not found:
        raise BadRequest(
            "nothing to score: no task was run on two backends; name workloads that several backends take here "
            "(routerctl workloads NAME lists them)"
        )
    return found


def regret(trial: Trial, choice: str) -> float:
    """What ``choice`` took over what the best took, less one. Raises ``BadRequest`` for a backend that the trial did not run."""
    taken = trial.seconds.get(choice)
    if taken is None:
        raise BadRequest(
            f"a trial of {trial.workload} chose {choice}, but was run on {', '.join(sorted(trial.seconds))}"
        )
    return taken / trial.best_seconds - 1.0


def score_choices(trials: Sequence[Trial], choices: Sequence[str]) -> ChoiceScore:
    """What ``choices`` would have been worth, one for each of ``trials`` (at least one)."""
    regrets = [regret(trial, choice) for trial, choice in zip(trials, choices, strict=True)]
    return ChoiceScore(_right_rate(regrets), fmean(regrets), percentile(regrets, 0.95))


def prediction_error(trials: Iterable[Trial]) -> float | None:
    """Mean absolute percentage error of the predictions, as a fraction of what was measured."""
    errors = [
        abs(predicted / trial.seconds[backend] - 1.0)
        for trial in trials
        for backend, predicted in trial.predicted.items()
        if backend in trial.seconds
    ]
    return fmean(errors) if errors else None


def reliability(trials: Sequence[Trial], bins: int = BINS) -> tuple[Bin, ...]:
    """The reliability curve: choices by confidence in ``bins`` bins of equal width, empty ones left out.

    Confidence is the probability that the choice is the fastest, so here a choice counts only if no other backend was faster
    by however little (an exact tie counts). Bins are those of Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern
    Neural Networks" (ICML 2017), section 2.
    """
    members: dict[int, list[Trial]] = {}
    for trial in trials:
        index = min(max(math.ceil(trial.confidence * bins) - 1, 0), bins - 1)
        members.setdefault(index, []).append(trial)
    return tuple(_bin(index / bins, (index + 1) / bins, members[index]) for index in sorted(members))


def calibration_error(trials: Sequence[Trial], bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of confidence from the share of best choices, over all choices.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (AAAI 2015); Guo et al.
    (ICML 2017), equation 3. From few trials it comes out too high, because each bin's share varies by chance.
    """
    curve = reliability(trials, bins)
    return sum(one.count * abs(one.best_rate - one.mean_confidence) for one in curve) / len(trials)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` (at least one) lie, linear between the two nearest of them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _bin(low: float, high: float, trials: Sequence[Trial]) -> Bin:
    best = sum(regret(trial, trial.chosen) <= 0.0 for trial in trials)
    return Bin(
        low,
        high,
        len(trials),
        fmean(trial.confidence for trial in trials),
        best / len(trials),
        *_wilson(best, len(trials)),
    )


def _wilson(successes: int, count: int) -> tuple[float, float]:
    share, z = successes / count, _Z_95
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _by_workload(trials: Sequence[Trial]) -> tuple[WorkloadScore, ...]:
    names = sorted({trial.workload for trial in trials})
    scores = [_workload(name, [trial for trial in trials if trial.workload == name]) for name in names]
    return tuple(sorted(scores, key=lambda one: -one.mean_regret))


def _workload(name: str, trials: Sequence[Trial]) -> WorkloadScore:
    regrets = [regret(trial, trial.chosen) for trial in trials]
    worst = max(range(len(trials)), key=regrets.__getitem__)
    return WorkloadScore(name, len(trials), _right_rate(regrets), fmean(regrets), regrets[worst], trials[worst].work)


def _right_rate(regrets: Sequence[float]) -> float:
    return sum(value <= CLOSE for value in regrets) / len(regrets)
