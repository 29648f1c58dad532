"""``workloads``: what can be asked for, and a command that asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routerd.cli import output
from routerd.cli.examples import example_commands, find_workload
from routerd.cli.link import Link
from routerd.cli.models import models_view
from routerd.cli.options import Json, Socket, complete_workload

if TYPE_CHECKING:
    from rich.console import RenderableType

_PROVED = ("proved", "calibrated")


def workloads(
    name: Annotated[
        str | None, typer.Argument(help="Show everything about this one.", autocompletion=complete_workload)
    ] = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """List the workloads, or show all about one, with an example."""
    with Link(socket) as link:
        found = link.call("workloads", {"name": name})
    if as_json:
        output.write_json(found if name is None else {**found[0], "examples": _examples(name)})
    elif name is None:
        output.show(*_list(found))
    else:
        output.show(*_one(found[0]))


def _list(found: list[dict[str, Any]]) -> list[RenderableType]:
    listed = output.table(["workload", "engines", "proved on", "summary"], wrap=("engines", "proved on", "summary"))
    for workload in found:
        proved = [name for name, pair in workload["backends"].items() if pair["state"] in _PROVED]
        listed.add_row(workload["name"], ", ".join(workload["engines"]), ", ".join(proved), workload["summary"])
    return [listed]


def _one(workload: Mapping[str, Any]) -> list[RenderableType]:
    from routerd.cli.formats import when

    parts: list[RenderableType] = [
        output.styled(workload["name"], "bold"),
        workload["summary"],
        "",
        output.fields(
            [
                ("engines", ", ".join(workload["engines"])),
                ("source", workload["source"]),
                ("work", f"counted in {workload['work_unit']}; calibrated from {_range(workload['work_range'])}"),
                ("tolerance", f"{workload['tolerance']:g} relative to the float64 contract"),
                ("needs", _needs(workload)),
                ("splits", "into parts that run side by side" if workload["splits"] else "not"),
            ]
        ),
    ]
    for title, key in (("parameters", "parameters"), ("options of every task", "options")):
        if workload[key]:
            parts += ["", output.styled(title, "bold"), _parameters(workload[key], required=key == "parameters")]
    for title in ("inputs", "outputs"):
        if workload[title]:
            parts += ["", output.styled(title, "bold"), _arrays(workload[title])]
    proofs = output.table(
        ["backend", "state", "error", "first call", "runs", "reason"], right=("runs",), wrap=("reason",)
    )
    for name, pair in workload["backends"].items():
        error = "–" if pair["error"] is None else f"{pair['error']:.1e}"
        cold = when(pair["cold_seconds"])
        proofs.add_row(name, output.state(pair["state"]), error, cold, str(pair["executions"]), pair["reason"])
    parts += ["", output.styled("proof on this machine", "bold"), proofs]
    parts += models_view(workload)
    commands = _examples(workload["name"])
    if commands:
        parts += ["", output.styled("examples", "bold"), *commands]
    return parts


def _examples(name: str) -> list[str]:
    """None where the plugin that declares the workload is not installed beside this command."""
    workload = find_workload(name)
    return [] if workload is None else example_commands(workload)


def _range(work_range: Sequence[float]) -> str:
    low, high = work_range
    return f"{low:g} to {high:g}"


def _needs(workload: Mapping[str, Any]) -> str:
    if workload["cpu_only"]:
        return "NumPy on the processor: nothing is gained elsewhere"
    return "; ".join(workload["needs"].values()) or "what every backend has"


def _parameters(parameters: list[dict[str, Any]], *, required: bool) -> RenderableType:
    from routerd.cli.formats import number

    listed = output.table(["name", "type", "default", "bounds", "unit", "meaning"], wrap=("bounds", "meaning"))
    for one in parameters:
        must = required and not one["optional"]
        absent = output.styled("required", "yellow") if must else output.styled("none", "dim")
        default = absent if one["default"] is None else number(one["default"])
        listed.add_row(one["name"], one["type"], default, _bounds(one), one["unit"], one["doc"])
    return listed


def _bounds(parameter: Mapping[str, Any]) -> str:
    if parameter["choices"]:
        return " | ".join(parameter["choices"])
    low, high = parameter["minimum"], parameter["maximum"]
    sign = ">" if parameter["above_minimum"] else "≥"
    bounds = [f"{mark} {bound:.16g}" for mark, bound in ((sign, low), ("≤", high)) if bound is not None]
    return ", ".join(bounds)


def _values(array: Mapping[str, Any]) -> str:
    """What an element may be: bounds, and whether NaN is refused where there could be one."""
    bounds = _bounds({"choices": (), **array})
    if not array["dtype"].startswith("float"):
        return bounds
    finite = "finite" if array["finite"] else "may be NaN"
    return f"{finite}, {bounds}" if bounds else finite


def _arrays(arrays: list[dict[str, Any]]) -> RenderableType:
    listed = output.table(["name", "shape", "dtype", "values", "unit", "meaning"], wrap=("unit", "meaning"))
    for one in arrays:
        shape = "×".join(map(str, one["shape"])) or "number"
        listed.add_row(one["name"], shape, one["dtype"], _values(one), one["unit"], one["doc"])
    return listed
