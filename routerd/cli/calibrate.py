"""``calibrate``: prove and time what is not yet known, and show how far it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from routerd.cli import output
from routerd.cli.link import ANSWER_SECONDS, Link
from routerd.cli.options import Json, Socket, complete_workload

if TYPE_CHECKING:
    from rich.console import RenderableType

_POLL_SECONDS = 0.2

#: Hears how many steps are done, how many there are, and what is being done.
Step: TypeAlias = Callable[[int, int, str], None]


def calibrate(
    workloads: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORKLOAD]...", help="All when none is named.", autocompletion=complete_workload),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Forget what was measured, and measure it anew.")] = False,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Prove and time the backends; return when nothing is left."""
    with Link(socket) as watcher:
        with progress(quiet=as_json) as step:
            answer = bring_up(socket, watcher, workloads or [], step, again=again)
        pairs = _outcome(watcher.call("backends"), answer["workloads"])
    if as_json:
        output.write_json({**answer, "pairs": pairs})
    else:
        output.show(*_view(pairs))


def bring_up(
    socket: Path | None, watcher: Link, names: list[str], step: Step, *, again: bool = False
) -> dict[str, Any]:
    """Have the daemon prove and time these workloads (all when none is named), and tell ``step`` how far it is."""
    with Link(socket) as worker:
        worker.send("calibrate", {"workloads": names, "again": again})
        total = 0
        while not worker.answered(_POLL_SECONDS):
            pending = watcher.call("calibrate.pending", {"workloads": names})
            left = len(pending["pairs"])
            total = max(total, left)
            step(total - left, total, _doing(pending))
        answer: dict[str, Any] = worker.wait(ANSWER_SECONDS)
    step(total, total, "done" if total else "everything was known")
    return answer


def _doing(pending: Mapping[str, Any]) -> str:
    if pending["starting"]:
        return f"starting {', '.join(pending['starting'])}"
    first = pending["pairs"][0] if pending["pairs"] else None
    return "finishing" if first is None else f"{first['backend']} {first['workload']}"


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Step]:
    """A bar on a terminal, a line for each step in a pipe, nothing beside JSON. Progress goes to standard error."""
    if quiet:
        yield lambda _done, _total, _what: None
        return
    if not (output.fancy() and sys.stderr.isatty()):
        last = ""

        def line(done: int, total: int, what: str) -> None:
            nonlocal last
            text = f"{done}/{total} {what}"
            if text != last:
                output.note(text)
            last = text

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total or None, description=what)


def _outcome(report: Mapping[str, Any], names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "backend": backend["name"],
            "workload": pair["workload"],
            "state": pair["state"],
            "error": pair["error"],
            "reason": pair["reason"],
        }
        for backend in report["backends"]
        for pair in backend["workloads"]
        if pair["workload"] in names and pair["state"] != "unsupported"
    ]


def _view(pairs: list[dict[str, Any]]) -> list[RenderableType]:
    listed = output.table(["backend", "workload", "state", "error", "reason"], wrap=("reason",))
    for pair in pairs:
        error = "–" if pair["error"] is None else f"{pair['error']:.1e}"
        listed.add_row(pair["backend"], pair["workload"], output.state(pair["state"]), error, pair["reason"])
    return [listed]
