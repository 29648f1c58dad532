"""``decisions``: what was decided, for whom, and how it turned out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routerd.cli import output
from routerd.cli.link import Link
from routerd.cli.options import Json, Socket, complete_workload

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEADERS = ("time", "decision", "client", "method", "workload", "work", "backend", "predicted", "measured", "rule")
_FOLLOW_SECONDS = 0.5
_FOLLOW_LIMIT = 1000

app = typer.Typer(no_args_is_help=True, help="Look at recorded decisions.")


@app.command()
def tail(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many of the newest.")] = 20,
    workload: Annotated[
        str | None, typer.Option("--workload", help="Only of this workload.", autocompletion=complete_workload)
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="SPAN", help="Only this recent, such as 10m.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with those that come; end with Ctrl-C.")
    ] = False,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """List the newest decisions, the last one at the bottom.

    With --follow, JSON comes one object to a line.
    """
    from routerd.cli.formats import seconds_of

    start = None if since is None else time.time() - seconds_of(since)
    with Link(socket) as link:
        records = _newest(link, limit, workload, start)
        if not follow:
            if as_json:
                output.write_json(records)
            else:
                output.show(_table(records, {}, header=True))
            return
        widths: dict[str, int] = {}
        _print(records, widths, as_json=as_json, header=True)
        seen = {record["decision_id"]: record["time"] for record in records}
        while True:
            time.sleep(_FOLLOW_SECONDS)
            latest = max(seen.values(), default=start or 0.0)
            fresh = [one for one in _newest(link, _FOLLOW_LIMIT, workload, latest) if one["decision_id"] not in seen]
            _print(fresh, widths, as_json=as_json, header=False)
            seen = {name: at for name, at in seen.items() if at >= latest}
            seen |= {record["decision_id"]: record["time"] for record in fresh}


@app.command()
def get(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="As decide, run and tail print it.")],
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Show one decision, its task and facts, and how the run went."""
    with Link(socket) as link:
        record = link.call("decisions.get", {"decision_id": decision_id})
    if as_json:
        output.write_json(record)
    else:
        output.show(*_one(record))


def _newest(link: Link, limit: int, workload: str | None, since: float | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = link.call("decisions.tail", {"limit": limit, "workload": workload, "since": since})
    return found[::-1]


def _print(records: list[dict[str, Any]], widths: dict[str, int], *, as_json: bool, header: bool) -> None:
    if as_json:
        for record in records:
            output.write_json(record, lines=True)
    elif records or header:
        output.show(_table(records, widths, header=header))


def _table(records: list[dict[str, Any]], widths: dict[str, int], *, header: bool) -> RenderableType:
    """Rows of decisions. ``widths`` keeps the columns of one batch under those of the last."""
    listed = output.table(_HEADERS, right=("work", "predicted", "measured"))
    listed.show_header = header
    rows = [_row(record) for record in records]
    for index, name in enumerate(_HEADERS):
        widths[name] = max([widths.get(name, len(name)), *(len(row[index]) for row in rows)])
        listed.columns[index].min_width = widths[name]
    for row in rows:
        listed.add_row(*row)
    return listed


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    from routerd.cli.formats import NONE, clock, quantity, when

    decision, timing = record["decision"], record["timing"]
    planned, ran_on = decision["backend"], record["ran_on"]
    measured = record["error_code"] or when(None if timing is None else timing["total_seconds"])
    return (
        clock(record["time"]),
        record["decision_id"],
        record["client"] or NONE,
        record["method"],
        record["workload"],
        quantity(record["work"]),
        planned if ran_on in (None, planned) else f"{planned} → {ran_on}",
        when(decision["predicted_seconds"]),
        measured,
        decision["rule"],
    )


def _one(record: Mapping[str, Any]) -> list[RenderableType]:
    from routerd.cli.decision_view import decision_view, facts_view, run_view
    from routerd.cli.formats import byte_size, moment, number

    given = [f"{name}={number(value)}" for name, value in {**record["params"], **record["dims"]}.items()]
    asked = output.fields(
        [
            ("asked", f"{record['method']} by {_asker(record)} at {moment(record['time'])}"),
            ("task", " ".join(given)),
            ("data", f"{byte_size(record['nbytes'])}, tolerance {record['tolerance']:g}"),
            ("ran on", record["ran_on"] or ""),
            ("failed", output.styled(record["error_code"], "red") if record["error_code"] else ""),
            *run_view(record),
        ]
    )
    facts = facts_view(record["facts"])
    return [asked, "", *decision_view(record["decision"]), "", output.styled("facts", "bold"), facts]


def _asker(record: Mapping[str, Any]) -> str:
    """The client and its user, as far as the policy lets them be recorded."""
    user = "redacted" if record["uid"] < 0 else str(record["uid"])
    return f"{record['client'] or 'a client (name redacted)'} (uid {user})"
