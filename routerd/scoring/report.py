"""One scoring as plain data: routerd beside every baseline, on the same trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from routerd.interfaces import CONTRACT_BACKEND
from routerd.scoring.baselines import AlwaysOne, Chooser, FixedPriority, PowerRegression, RandomChoice, SizeHistory
from routerd.scoring.metrics import ChoiceScore, Score, contested, score, score_choices
from routerd.scoring.trials import Sample, Trial

OURS = "routerd"


class ChooserScore(Struct, frozen=True):
    """A chooser's name and what its choices were worth."""

    name: str
    choices: ChoiceScore


class Report(Struct, frozen=True):
    """A scoring of ``trials``. ``choosers`` starts with routerd; ``skipped`` counts tasks that gave no trial, by reason."""

    score: Score
    choosers: tuple[ChooserScore, ...]
    trials: tuple[Trial, ...]
    seed: int
    skipped: Mapping[str, int] = {}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def make_report(
    trials: Sequence[Trial],
    samples: Sequence[Sample],
    priority: Sequence[str],
    *,
    seed: int,
    skipped: Mapping[str, int] | None = None,
) -> Report:
    """Score routerd and the baselines, which learn from ``samples``; ``priority`` is the fixed order of one of them.

    Raises ``BadRequest`` if no trial had two backends to choose from.
    """
    own = score(trials)
    contests = contested(trials)
    return Report(
        score=own,
        choosers=(
            ChooserScore(OURS, own.choices),
            *(_judge(one, contests) for one in baselines(samples, priority, seed)),
        ),
        trials=tuple(trials),
        seed=seed,
        skipped=dict(skipped or {}),
    )


def baselines(samples: Sequence[Sample], priority: Sequence[str], seed: int) -> list[Chooser]:
    """Every baseline, taught by ``samples``."""
    return [
        PowerRegression(samples),
        SizeHistory(samples),
        FixedPriority(priority),
        AlwaysOne(CONTRACT_BACKEND),
        RandomChoice(seed),
    ]


def percent(share: float) -> str:
    """A share with as many digits as tell something: ``0.42 %``, ``97.3 %``, ``210 %``."""
    value = 100.0 * share
    return f"{value:.2f} %" if 0.0 < value < 1.0 else f"{value:.1f} %" if value < 100.0 else f"{value:.0f} %"


def _judge(chooser: Chooser, trials: Sequence[Trial]) -> ChooserScore:
    choices = [chooser.choose(trial.workload, trial.work, list(trial.seconds)) for trial in trials]
    return ChooserScore(chooser.name, score_choices(trials, choices))
