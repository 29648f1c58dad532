"""What reaches the terminal: JSON, tables, and errors. Colours and wrapping are for terminals; pipes get plain lines."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import typer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

#: Nothing is wrapped or cut in a pipe.
_PIPE_WIDTH = 20_000
_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


def fancy() -> bool:
    """Whether colours and moving progress bars are welcome."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(text: str) -> None:
    """Put text on standard output at once, so that a follower sees it. A reader that has left ends the command."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop()
        raise typer.Exit(_BROKEN_PIPE) from None


def drop() -> None:
    """Nobody takes what is left in the buffer; the interpreter would complain about that at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_json(value: Any, *, lines: bool = False) -> None:
    """Strict JSON: structs as objects, NaN and infinity as null. ``lines`` puts it on one line."""
    plain = finite(msgspec.to_builtins(value))
    write(json.dumps(plain, indent=None if lines else 2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same plain data with null for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def error(code: str, message: str, detail: dict[str, Any], *, as_json: bool = False) -> None:
    """An error in the form ``routerctl: CODE: message``; several lines start on a line of their own."""
    gap = "\n" if "\n" in message else " "
    print(f"routerctl: {code}:{gap}{message}", file=sys.stderr)
    if as_json:
        write_json({"error": {"code": code, "message": message, "detail": detail}})


def note(message: str) -> None:
    """A remark beside the answer, on standard error."""
    print(f"routerctl: {message}", file=sys.stderr)


def show(*parts: RenderableType) -> None:
    """Lay out rich renderables for this terminal or pipe and write them."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    colours = fancy()
    console = Console(
        file=io.StringIO(),
        force_terminal=colours,
        color_system="auto" if colours else None,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    screen = console.width
    for part in parts:
        if isinstance(part, Table):  # a key column that does not fit runs over the edge rather than being cut
            for column in part.columns:
                if column.no_wrap:
                    cells = [console.measure(cell).maximum for cell in (column.header, *column.cells)]
                    column.min_width = max(column.min_width or 0, *cells)
            wide = console.options.update_width(_PIPE_WIDTH)
            console.width = max(screen, Measurement.get(console, wide, part).minimum)
        console.print(part)
        console.width = screen
    assert isinstance(console.file, io.StringIO)
    write("".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines()))


def table(headers: Sequence[str], *, right: Collection[str] = (), wrap: Collection[str] = ()) -> Table:
    """An empty table. Columns in ``right`` hold numbers; those in ``wrap`` hold sentences, all others stay whole."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for header in headers:
        made.add_column(
            header,
            justify="right" if header in right else "left",
            no_wrap=header not in wrap,
            overflow="fold",
        )
    return made


def fields(rows: Sequence[tuple[str, str | Text]]) -> Table:
    """Names and their values in two columns, without a heading; empty values are left out."""
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, value)
    return made


def styled(text: str, style: str, rest: str = "") -> Text:
    """Text in a style, and what follows it in none."""
    from rich.text import Text

    return Text.assemble((text, style), rest)


_STATE_STYLES = {
    "ready": "green",
    "up": "green",
    "calibrated": "green",
    "proved": "green",
    "active": "green",
    "loaded": "green",
    "serving": "green",
    "standby": "green",
    "loading": "yellow",
    "proving": "yellow",
    "refused": "red",
    "starting": "yellow",
    "unproved": "yellow",
    "breaker_open": "red",
    "silent": "red",
    "down": "red",
    "failed": "red",
    "quarantined": "red",
    "unavailable": "yellow",
}


def state(name: str) -> Text:
    """A state in the colour that it always has."""
    return styled(name, _STATE_STYLES.get(name, "dim"))
