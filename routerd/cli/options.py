"""Options and arguments that several commands share, and what the shell completes them with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer


def complete_workload(incomplete: str) -> list[tuple[str, str]]:
    """Workloads of the built-in catalogue; no daemon is asked."""
    from routerd.workloads import builtin_workloads

    return [(one.name, one.summary) for one in builtin_workloads() if one.name.startswith(incomplete)]


def complete_param(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """``name=`` for each parameter of the workload on the command line, and then its choices."""
    from routerd.workloads import builtin_workloads

    found: list[tuple[str, str]] = []
    for workload in builtin_workloads():
        if workload.name == ctx.params.get("workload"):
            for parameter in workload.parameters:
                found += [(f"{parameter.name}={choice}", parameter.doc) for choice in parameter.choices]
                if not parameter.choices:
                    found.append((f"{parameter.name}=", parameter.doc))
    return [item for item in found if item[0].startswith(incomplete)]


def complete_array(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """``name=`` for each input array of the workload on the command line."""
    from routerd.workloads import builtin_workloads

    return [
        (f"{array.name}=", array.doc)
        for workload in builtin_workloads()
        if workload.name == ctx.params.get("workload")
        for array in workload.inputs
        if f"{array.name}=".startswith(incomplete)
    ]


Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Socket: TypeAlias = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The daemon's socket [default: $ROUTERD_SOCKET, else this user's]."),
]
WorkloadName: TypeAlias = Annotated[
    str, typer.Argument(help="Such as linalg.gemm.", autocompletion=complete_workload)
]
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
