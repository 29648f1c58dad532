"""The few SVG elements that pictures here are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, MUTED, GRID, PAPER = "#1b1f24", "#6a737d", "#e4e7eb", "#ffffff"
_FONT = "font-family='Inter, Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif'"


def document(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A whole picture of ``width`` × ``height`` pixels as SVG text."""
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"{_FONT} font-size='13' fill='{INK}'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='{PAPER}'/>",
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 13,
    colour: str = INK,
    anchor: str = "start",
    weight: int = 400,
    turn: int = 0,
) -> str:
    """A line of text whose baseline begins, ends or is centred (``anchor``) at a point; ``turn`` is in degrees."""
    rotation = f" transform='rotate({turn} {x:.1f} {y:.1f})'" if turn else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' fill='{colour}' "
        f"text-anchor='{anchor}'{rotation}>{escape(words)}</text>"
    )


def line(x0: float, y0: float, x1: float, y1: float, colour: str, *, width: float = 1, dashes: str = "") -> str:
    """A straight line; a thick one has round ends."""
    dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
    cap = " stroke-linecap='round'" if width > 2 else ""
    return (
        f"<line x1='{x0:.1f}' y1='{y0:.1f}' x2='{x1:.1f}' y2='{y1:.1f}' stroke='{colour}' stroke-width='{width:g}'"
        f"{dashed}{cap}/>"
    )


def bar(left: float, top: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f"<rect x='{left:.1f}' y='{top:.1f}' width='{width:.1f}' height='{height:.1f}' rx='2' fill='{colour}'/>"
