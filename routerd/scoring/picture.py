"""A scoring as one SVG picture: the reliability curve, and routerd beside the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from routerd.scoring.metrics import Bin
from routerd.scoring.report import ChooserScore, Report, percent

_WIDTH, _HEIGHT = 1080, 500
_INK, _MUTED, _GRID, _PAPER = "#1b1f24", "#6a737d", "#e4e7eb", "#ffffff"
_OURS, _OTHERS, _BAND = "#1760d6", "#b3bcc7", "#cfe0fb"
_FONT = "font-family='Inter, Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif'"

_CURVE_LEFT, _CURVE_TOP, _CURVE_SIDE = 78, 92, 270
_COUNTS_TOP, _COUNTS_HEIGHT = _CURVE_TOP + _CURVE_SIDE + 14, 50
_NAMES_RIGHT, _BARS_TOP, _ROW = 590, 112, 52
_REGRET_LEFT, _RIGHT_LEFT, _BAR_WIDTH = 604, 850, 150


def picture_of(report: Report) -> str:
    """The picture as SVG text."""
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' "
        f"{_FONT} font-size='13' fill='{_INK}'>",
        f"<title>Routing quality: {report.score.trials} tasks on {len(report.score.workloads)} workloads</title>",
        f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='{_PAPER}'/>",
        *_reliability(report),
        *_comparison(report.choosers),
        *_key(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _reliability(report: Report) -> list[str]:
    """Share of choices that were the fastest over confidence, with the diagonal, intervals, and counts below."""
    score = report.score
    left, right, top, bottom = _CURVE_LEFT, _CURVE_LEFT + _CURVE_SIDE, _CURVE_TOP, _CURVE_TOP + _CURVE_SIDE
    parts = [
        _text(left, 40, "Is confidence true?", size=18, weight=600),
        _text(
            left,
            62,
            f"{score.trials} decisions, expected calibration error {score.calibration_error:.3f}",
            colour=_MUTED,
        ),
    ]
    for step in range(6):
        share = step / 5
        parts += [
            _line(left, _y(share), right, _y(share), _GRID),
            _text(left - 10, _y(share) + 4, f"{share:g}", colour=_MUTED, anchor="end"),
            _line(_x(share), top, _x(share), bottom, _GRID),
            _text(_x(share), _COUNTS_TOP + _COUNTS_HEIGHT + 20, f"{share:g}", colour=_MUTED, anchor="middle"),
        ]
    parts.append(_line(_x(0.0), _y(0.0), _x(1.0), _y(1.0), _MUTED, dashes="5 4"))
    parts += [_line(_x(one.mean_confidence), _y(one.best_low), _x(one.mean_confidence), _y(one.best_high), _BAND, width=7)
              for one in score.reliability]  # fmt: skip
    path = " ".join(f"{_x(one.mean_confidence):.1f},{_y(one.best_rate):.1f}" for one in score.reliability)
    parts.append(f"<polyline points='{path}' fill='none' stroke='{_OURS}' stroke-width='2' stroke-linejoin='round'/>")
    parts += [
        f"<circle cx='{_x(one.mean_confidence):.1f}' cy='{_y(one.best_rate):.1f}' r='4.5' fill='{_OURS}' "
        f"stroke='{_PAPER}' stroke-width='1.5'/>"
        for one in score.reliability
    ]
    middle = 0.5 * (top + bottom)
    parts += [
        _text(26, middle, "share that was fastest", anchor="middle", turn=-90),
        _text(0.5 * (left + right), _HEIGHT - 24, "confidence of the decision", anchor="middle"),
        _text(26, _COUNTS_TOP + 0.5 * _COUNTS_HEIGHT, "choices", colour=_MUTED, anchor="middle", turn=-90),
        *_counts(score.reliability),
    ]
    return parts


def _counts(bins: Sequence[Bin]) -> list[str]:
    """A bar for each bin, its height the square root of the count, so that few choices are still seen beside many."""
    bottom = _COUNTS_TOP + _COUNTS_HEIGHT
    most = max(one.count for one in bins)
    parts = [_line(_x(0.0), bottom, _x(1.0), bottom, _GRID)]
    for one in bins:
        height = max((_COUNTS_HEIGHT - 14) * math.sqrt(one.count / most), 1.5)
        left, width = _x(one.low) + 2, _x(one.high) - _x(one.low) - 4
        parts += [
            _bar(left, bottom - height, width, height, _OTHERS),
            _text(left + width / 2, bottom - height - 3, str(one.count), colour=_MUTED, size=10, anchor="middle"),
        ]
    return parts


def _comparison(choosers: Sequence[ChooserScore]) -> list[str]:
    """Two bars for each chooser: mean regret, where less is better, and the share of right choices."""
    worst = max(one.choices.mean_regret for one in choosers) or 1.0
    parts = [
        _text(_NAMES_RIGHT - 150, 40, "Against other ways to choose, on the same tasks", size=18, weight=600),
        _text(_REGRET_LEFT, 78, "mean regret", weight=600),
        _text(_REGRET_LEFT, 95, "less is better; square-root scale", colour=_MUTED, size=11),
        _text(_RIGHT_LEFT, 78, "right choices", weight=600),
        _text(_RIGHT_LEFT, 95, "within 5 % of the fastest", colour=_MUTED, size=11),
    ]
    for row, one in enumerate(choosers):
        top = _BARS_TOP + row * _ROW
        colour, weight = (_OURS, 600) if row == 0 else (_OTHERS, 400)
        regret = _BAR_WIDTH * math.sqrt(one.choices.mean_regret / worst)
        share = _BAR_WIDTH * one.choices.right_rate
        middle = top + 19
        parts += [
            _text(_NAMES_RIGHT, middle, one.name, anchor="end", weight=weight),
            _bar(_REGRET_LEFT, top, max(regret, 1.5), 28, colour),
            _text(_REGRET_LEFT + max(regret, 1.5) + 8, middle, percent(one.choices.mean_regret), weight=weight),
            _bar(_RIGHT_LEFT, top, _BAR_WIDTH, 28, _GRID),
            _bar(_RIGHT_LEFT, top, max(share, 1.5), 28, colour),
            _text(_RIGHT_LEFT + _BAR_WIDTH + 8, middle, percent(one.choices.right_rate), weight=weight),
        ]
    return parts


def _key() -> list[str]:
    """What the marks on the left mean."""
    left, top = _NAMES_RIGHT - 150, _HEIGHT - 60
    return [
        f"<circle cx='{left + 12}' cy='{top}' r='4.5' fill='{_OURS}'/>",
        _text(left + 32, top + 4, "decisions of like confidence", colour=_MUTED, size=12),
        _line(left + 242, top, left + 262, top, _BAND, width=7),
        _text(left + 274, top + 4, "95 % interval of their share", colour=_MUTED, size=12),
        _line(left, top + 24, left + 24, top + 24, _MUTED, dashes="5 4"),
        _text(left + 32, top + 28, "confidence that is exactly true", colour=_MUTED, size=12),
    ]


def _x(confidence: float) -> float:
    return _CURVE_LEFT + _CURVE_SIDE * confidence


def _y(share: float) -> float:
    return _CURVE_TOP + _CURVE_SIDE * (1.0 - share)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    colour: str = _INK,
    anchor: str = "start",
    weight: int = 400,
    turn: int = 0,
) -> str:
    rotation = f" transform='rotate({turn} {x:.1f} {y:.1f})'" if turn else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' fill='{colour}' "
        f"text-anchor='{anchor}'{rotation}>{escape(text)}</text>"
    )


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, *, width: float = 1, dashes: str = "") -> str:
    dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
    cap = " stroke-linecap='round'" if width > 2 else ""
    return (
        f"<line x1='{x0:.1f}' y1='{y0:.1f}' x2='{x1:.1f}' y2='{y1:.1f}' stroke='{colour}' stroke-width='{width:g}'"
        f"{dashed}{cap}/>"
    )


def _bar(left: float, top: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{left:.1f}' y='{top:.1f}' width='{width:.1f}' height='{height:.1f}' rx='2' fill='{colour}'/>"
