"""Options and arguments that several commands share, and what the shell completes them with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from routerd.interfaces import Workload


def complete_workload(incomplete: str) -> list[tuple[str, str]]:
    """Workloads of the built-in catalogue; no daemon is asked."""
    from routerd.workloads import builtin_workloads

    return [(one.name, one.summary) for one in builtin_workloads() if one.name.startswith(incomplete)]


def complete_param(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """``name=`` for each parameter of the workload on the command line; the whole pair where choices are few."""
    found: list[tuple[str, str]] = []
    for workload in _workloads_on(ctx):
        for parameter in workload.parameters:
            found += [(f"{parameter.name}={choice}", parameter.doc) for choice in parameter.choices or ("",)]
    return [item for item in found if item[0].startswith(incomplete)]


def complete_array(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """``name=`` for each input array of the workload on the command line."""
    found = [(f"{array.name}=", array.doc) for workload in _workloads_on(ctx) for array in workload.inputs]
    return [item for item in found if item[0].startswith(incomplete)]


def _workloads_on(ctx: typer.Context) -> list[Workload]:
    """The workload that the unfinished command line names; it is left among ``args`` where an option has no value yet."""
    from routerd.workloads import builtin_workloads

    words = {ctx.params.get("workload"), *ctx.args}
    return [workload for workload in builtin_workloads() if workload.name in words]


Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Socket: TypeAlias = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The daemon's socket [default: $ROUTERD_SOCKET, else this user's]."),
]
WorkloadName: TypeAlias = Annotated[str, typer.Argument(help="Such as linalg.gemm.", autocompletion=complete_workload)]
ParamList: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="NAME=VALUE", help="A parameter; repeat for more.", autocompletion=complete_param
    ),
]
InputList: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--input", "-i", metavar="NAME=FILE.npy", help="An input array; repeat for more.", autocompletion=complete_array
    ),
]
ShapeList: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1250x20",
        help="An array by its shape alone; add :float32 for a dtype other than float64.",
        autocompletion=complete_array,
    ),
]


def defaults_for(command: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A click ``default_map`` that gives ``values`` to a command and to every command below it."""
    below = getattr(command, "commands", {})
    return {**values, **{name: defaults_for(member, values) for name, member in below.items()}}
