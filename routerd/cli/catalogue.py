"""``workloads``: what can be asked for, and a command that asks for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routerd.cli import output
from routerd.cli.link import Link
from routerd.cli.options import Json, Socket, complete_workload

if TYPE_CHECKING:
    from rich.console import RenderableType

_PROVED = ("proved", "calibrated")
_FLOATS = (100.0, 10.0, 1.0, 0.2, 0.05, 0.01)
_INTS = (100_000, 1000, 100, 10, 2, 1)
_FIRST_LENGTH, _OTHER_LENGTH = 1250, 20


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
        output.write_json(found if name is None else {**found[0], "example": example_command(found[0])})
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
                ("work", f"counted in {workload['work_unit']}"),
                ("tolerance", f"{workload['tolerance']:g} relative to the float64 contract"),
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
    parts += ["", output.styled("example", "bold"), example_command(workload)]
    return parts


def _parameters(parameters: list[dict[str, Any]], *, required: bool) -> RenderableType:
    from routerd.cli.formats import number

    listed = output.table(["name", "type", "default", "bounds", "unit", "meaning"], wrap=("bounds", "meaning"))
    for one in parameters:
        absent = output.styled("required", "yellow") if required else output.styled("none", "dim")
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


def _arrays(arrays: list[dict[str, Any]]) -> RenderableType:
    listed = output.table(["name", "shape", "dtype", "unit", "meaning"], wrap=("meaning",))
    for one in arrays:
        shape = "×".join(map(str, one["shape"])) or "number"
        listed.add_row(one["name"], shape, one["dtype"], one["unit"], one["doc"])
    return listed


def example_command(workload: Mapping[str, Any]) -> str:
    """A command that works as it stands: ``run`` where scalars suffice, else ``decide`` by shapes."""
    given = [f"--param {one['name']}={_example_value(one)}" for one in workload["parameters"] if one["default"] is None]
    lengths: dict[str, int] = {}
    for array in workload["inputs"]:
        shape = [
            lengths.setdefault(dim, _OTHER_LENGTH if lengths else _FIRST_LENGTH) if isinstance(dim, str) else dim
            for dim in array["shape"]
        ]
        dtype = "" if array["dtype"] == "float64" else f":{array['dtype']}"
        given.append(f"--shape {array['name']}={'x'.join(map(str, shape))}{dtype}")
    return " ".join(["routerctl", "decide" if workload["inputs"] else "run", workload["name"], *given])


def _example_value(parameter: Mapping[str, Any]) -> str:
    """A usual value, well inside the bounds where there is room."""
    kind, choices = parameter["type"], parameter["choices"]
    if kind == "bool":
        return "true"
    if kind == "str":
        return shlex.quote(choices[0] if choices else "text")
    low = parameter["minimum"] if parameter["minimum"] is not None else -1e300
    high = parameter["maximum"] if parameter["maximum"] is not None else 1e300
    ladder: tuple[float, ...] = _FLOATS if kind == "float" else _INTS
    for room in (10.0, 1.0):
        for value in ladder:
            if low < value <= high / room:
                return f"{value:g}" if kind == "float" else str(value)
    middle = (low + high) / 2.0
    return f"{middle:.12g}" if kind == "float" else str(int(high))
