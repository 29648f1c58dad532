"""A scoring as one SVG picture: the reliability curve, and routerd beside the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from routerd.scoring.metrics import Bin
from routerd.scoring.report import ChooserScore, Report, percent
from routerd.scoring.svg import GRID, MUTED, PAPER, bar, document, line, text

_WIDTH, _HEIGHT = 1080, 500
_OURS, _OTHERS, _BAND = "#1760d6", "#b3bcc7", "#cfe0fb"

_CURVE_LEFT, _CURVE_TOP, _CURVE_SIDE = 78, 92, 270
_COUNTS_TOP, _COUNTS_HEIGHT = _CURVE_TOP + _CURVE_SIDE + 14, 50
_NAMES_RIGHT, _BARS_TOP, _ROW = 590, 112, 52
_REGRET_LEFT, _RIGHT_LEFT, _BAR_WIDTH = 604, 850, 150


def picture_of(report: Report) -> str:
    """The picture as SVG text."""
    title = f"Routing quality: {report.score.trials} tasks on {len(report.score.workloads)} workloads"
    parts = [*_reliability(report), *_comparison(report.choosers), *_key()]
    return document(_WIDTH, _HEIGHT, title, parts)


def _reliability(report: Report) -> list[str]:
    """Share of choices that were the fastest over confidence, with the diagonal, intervals, and counts below."""
    score = report.score
    left, right, top, bottom = _CURVE_LEFT, _CURVE_LEFT + _CURVE_SIDE, _CURVE_TOP, _CURVE_TOP + _CURVE_SIDE
    parts = [
        text(left, 40, "Is confidence true?", size=18, weight=600),
        text(
            left,
            62,
            f"{score.trials} decisions, expected calibration error {score.calibration_error:.3f}",
            colour=MUTED,
        ),
    ]
    for step in range(6):
        share = step / 5
        parts += [
            line(left, _y(share), right, _y(share), GRID),
            text(left - 10, _y(share) + 4, f"{share:g}", colour=MUTED, anchor="end"),
            line(_x(share), top, _x(share), bottom, GRID),
            text(_x(share), _COUNTS_TOP + _COUNTS_HEIGHT + 20, f"{share:g}", colour=MUTED, anchor="middle"),
        ]
    parts.append(line(_x(0.0), _y(0.0), _x(1.0), _y(1.0), MUTED, dashes="5 4"))
    parts += [line(_x(one.mean_confidence), _y(one.best_low), _x(one.mean_confidence), _y(one.best_high), _BAND, width=7)
              for one in score.reliability]  # fmt: skip
    path = " ".join(f"{_x(one.mean_confidence):.1f},{_y(one.best_rate):.1f}" for one in score.reliability)
    parts.append(f"<polyline points='{path}' fill='none' stroke='{_OURS}' stroke-width='2' stroke-linejoin='round'/>")
    parts += [
        f"<circle cx='{_x(one.mean_confidence):.1f}' cy='{_y(one.best_rate):.1f}' r='4.5' fill='{_OURS}' "
        f"stroke='{PAPER}' stroke-width='1.5'/>"
        for one in score.reliability
    ]
    middle = 0.5 * (top + bottom)
    parts += [
        text(26, middle, "share that was fastest", anchor="middle", turn=-90),
        text(0.5 * (left + right), _HEIGHT - 24, "confidence of the decision", anchor="middle"),
        text(26, _COUNTS_TOP + 0.5 * _COUNTS_HEIGHT, "choices", colour=MUTED, anchor="middle", turn=-90),
        *_counts(score.reliability),
    ]
    return parts


def _counts(bins: Sequence[Bin]) -> list[str]:
    """A bar for each bin, its height the square root of the count, so that few choices are still seen beside many."""
    bottom = _COUNTS_TOP + _COUNTS_HEIGHT
    most = max(one.count for one in bins)
    parts = [line(_x(0.0), bottom, _x(1.0), bottom, GRID)]
    for one in bins:
        height = max((_COUNTS_HEIGHT - 14) * math.sqrt(one.count / most), 1.5)
        left, width = _x(one.low) + 2, _x(one.high) - _x(one.low) - 4
        parts += [
            bar(left, bottom - height, width, height, _OTHERS),
            text(left + width / 2, bottom - height - 3, str(one.count), colour=MUTED, size=10, anchor="middle"),
        ]
    return parts


def _comparison(choosers: Sequence[ChooserScore]) -> list[str]:
    """Two bars for each chooser: mean regret, where less is better, and the share of right choices."""
    worst = max(one.choices.mean_regret for one in choosers) or 1.0
    parts = [
        text(_NAMES_RIGHT - 150, 40, "Against other ways to choose, on the same tasks", size=18, weight=600),
        text(_REGRET_LEFT, 78, "mean regret", weight=600),
        text(_REGRET_LEFT, 95, "less is better; square-root scale", colour=MUTED, size=11),
        text(_RIGHT_LEFT, 78, "right choices", weight=600),
        text(_RIGHT_LEFT, 95, "within 5 % of the fastest", colour=MUTED, size=11),
    ]
    for row, one in enumerate(choosers):
        top = _BARS_TOP + row * _ROW
        colour, weight = (_OURS, 600) if row == 0 else (_OTHERS, 400)
        regret = _BAR_WIDTH * math.sqrt(one.choices.mean_regret / worst)
        share = _BAR_WIDTH * one.choices.right_rate
        middle = top + 19
        parts += [
            text(_NAMES_RIGHT, middle, one.name, anchor="end", weight=weight),
            bar(_REGRET_LEFT, top, max(regret, 1.5), 28, colour),
            text(_REGRET_LEFT + max(regret, 1.5) + 8, middle, percent(one.choices.mean_regret), weight=weight),
            bar(_RIGHT_LEFT, top, _BAR_WIDTH, 28, GRID),
            bar(_RIGHT_LEFT, top, max(share, 1.5), 28, colour),
            text(_RIGHT_LEFT + _BAR_WIDTH + 8, middle, percent(one.choices.right_rate), weight=weight),
        ]
    return parts


def _key() -> list[str]:
    """What the marks on the left mean."""
    left, top = _NAMES_RIGHT - 150, _HEIGHT - 60
    return [
        f"<circle cx='{left + 12}' cy='{top}' r='4.5' fill='{_OURS}'/>",
        text(left + 32, top + 4, "decisions of like confidence", colour=MUTED, size=12),
        line(left + 242, top, left + 262, top, _BAND, width=7),
        text(left + 274, top + 4, "95 % interval of their share", colour=MUTED, size=12),
        line(left, top + 24, left + 24, top + 24, MUTED, dashes="5 4"),
        text(left + 32, top + 28, "confidence that is exactly true", colour=MUTED, size=12),
    ]


def _x(confidence: float) -> float:
    return _CURVE_LEFT + _CURVE_SIDE * confidence


def _y(share: float) -> float:
    return _CURVE_TOP + _CURVE_SIDE * (1.0 - share)
