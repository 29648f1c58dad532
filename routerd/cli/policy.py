"""``policy``: check files without a daemon; see, explain and change the policy that is in force."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routerd.cli import arguments, output
from routerd.cli.link import Link
from routerd.cli.options import InputList, Json, ParamList, ShapeList, Socket, WorkloadName

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True, help="Check, show, explain and change the policy.")


@app.command()
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Files or directories; the configured ones when none is named."),
    ] = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Check policy files; needs no daemon (--socket is ignored).

    Each problem is one line, FILE:LINE:COLUMN: what is wrong. Errors end with exit code 3, warnings do not.
    """
    import os

    from routerd.errors import InvalidPolicy
    from routerd.flags import load_flags
    from routerd.plugins import load_plugins
    from routerd.policy import load_policy
    from routerd.settings import load_settings
    from routerd.vocabulary import vocabulary

    settings = load_settings()
    registry = load_plugins(settings)
    files = [path.expanduser() for path in paths] if paths else list(settings.policy_paths)
    try:
        policy = load_policy(files, vocabulary(registry), load_flags(os.environ).as_mapping())
    except InvalidPolicy as error:
        problems = error.detail["problems"]
        _print_problems(problems, "error", as_json=as_json)
        output.note(f"{error.code}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}")
        raise typer.Exit(error.exit_code) from None
    warnings = [{name: getattr(one, name) for name in ("file", "line", "column", "message")} for one in policy.warnings]
    _print_problems(warnings, "warning", as_json=as_json)
    if not as_json:
        clauses = f"{len(policy.constraints)} constraints, {len(policy.rules)} rules"
        output.write(f"policy {policy.name} is valid: {clauses}, digest {policy.digest[:12]}\n")


def _print_problems(found: list[dict[str, Any]], severity: str, *, as_json: bool) -> None:
    if as_json:
        output.write_json([{"severity": severity, **one} for one in found])
        return
    label = "" if severity == "error" else f"{severity}: "
    for one in found:
        output.write(f"{one['file']}:{one['line']}:{one['column']}: {label}{one['message']}\n")


@app.command()
def show(
    effective: Annotated[
        bool,
        typer.Option("--effective", help="Print the policy itself, merged and resolved, as YAML that loads again."),
    ] = False,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Show the policy in force, and whether the files still agree."""
    with Link(socket) as link:
        found = link.call("policy.show")
    if as_json:
        output.write_json(found["effective"] if effective else found)
    elif effective:
        import yaml

        output.write(f"# policy {found['name']}, digest {found['digest']}, generation {found['generation']}\n")
        output.write(yaml.safe_dump(found["effective"], sort_keys=False, allow_unicode=True, width=120))
    else:
        output.show(*_shown(found))


def _shown(found: Mapping[str, Any]) -> list[RenderableType]:
    from routerd.cli.formats import moment

    if found["disk_problem"]:
        disk = output.styled(f"cannot be loaded:\n{found['disk_problem']}", "red")
    elif found["differs_from_disk"]:
        disk = output.styled("differ from what is in force; routerctl policy apply puts them in force", "yellow")
    else:
        disk = output.styled("same as in force", "green")
    effective = found["effective"]
    return [
        output.fields(
            [
                ("policy", output.styled(found["name"], "bold")),
                ("digest", found["digest"]),
                ("generation", f"{found['generation']}, active since {moment(found['activated_at'])}"),
                (
                    "clauses",
                    f"{len(effective['constraints'])} constraints, {len(effective['rules'])} rules, the default",
                ),
                ("files", "\n".join(found["files"])),
                ("on disk", disk),
                ("", "a restart returns to the configured files" if found["until_restart"] else ""),
                ("failure", output.styled(found["failure"], "bold red") if found["failure"] else ""),
                ("warnings", output.styled("\n".join(found["warnings"]), "yellow") if found["warnings"] else ""),
            ]
        )
    ]


@app.command("eval")
def evaluate(
    workload: WorkloadName,
    param: ParamList = None,
    inputs: InputList = None,
    shape: ShapeList = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Take a task through the policy, clause by clause.

    Every constraint and rule, matched or not, and on which fact. Nothing is recorded or run.
    """
    ask = arguments.ask(workload, param or [], shape or [], inputs or [])
    with Link(socket) as link:
        found = link.call("policy.eval", ask)
    if as_json:
        output.write_json(found)
        return
    from routerd.cli.decision_view import decision_view, trace_view

    if found["decision"] is None:
        output.show(*trace_view(found["trace"]), "", f"refused: {found['refusal']['message']}")
    else:
        output.show(*trace_view(found["trace"]), "", *decision_view(found["decision"]))


@app.command()
def explain(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="As decide, run and decisions tail print it.")],
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Take a recorded decision through the policy again.

    The facts are those recorded with it; the policy is the one in force now.
    """
    with Link(socket) as link:
        found = link.call("policy.explain", {"decision_id": decision_id})
    if as_json:
        output.write_json(found)
        return
    from routerd.cli.decision_view import decision_view, trace_view

    decision = found["record"]["decision"]
    if not found["same_policy"]:
        output.note(
            f"decided under policy {decision['policy_digest'][:12]}, which is no longer in force; "
            "the trace is of the policy that is"
        )
    output.show(*trace_view(found["trace"]), "", *decision_view(decision))


@app.command("apply")
def apply_(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Files or directories; the configured ones when none is named."),
    ] = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Put a policy in force, whole or not at all.

    Returns once it is in force; a broken one leaves the last good one there.
    """
    absolute = [str(path.expanduser().absolute()) for path in paths or []]
    with Link(socket) as link:
        found = link.call("policy.apply", {"paths": absolute})
    if as_json:
        output.write_json(found)
        return
    for warning in found["warnings"]:
        output.write(f"{warning.partition(': ')[0]}: warning: {warning.partition(': ')[2]}\n")
    change = f"was {found['previous_digest'][:12]}" if found["changed"] else "unchanged"
    output.write(f"generation {found['generation']} is in force, digest {found['digest'][:12]} ({change})\n")


@app.command()
def history(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many of the newest.")] = 20,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """List the policies that were in force, the newest first."""
    with Link(socket) as link:
        found = link.call("policy.history", {"limit": limit})
    if as_json:
        import json

        output.write_json([{**one, "content": json.loads(one["content"])} for one in found])
        return
    from routerd.cli.formats import moment

    listed = output.table(["generation", "digest", "since", "author", "reason"], right=("generation",))
    for one in found:
        author = _user(one["author_uid"])
        listed.add_row(str(one["generation"]), one["digest"][:12], moment(one["time"]), author, one["reason"])
    output.show(listed)


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
