"""``decide`` and ``run``: ask where a task should run, or have it run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from routerd.cli import arguments, output
from routerd.cli.examples import with_example
from routerd.cli.link import CLIENT_NAME, WAIT_SECONDS, Link, socket_path
from routerd.cli.models import declared_name
from routerd.cli.options import InputList, Json, ParamList, ShapeList, Socket, WorkloadName
from routerd.errors import BadRequest, UnknownParameter, suggest

if TYPE_CHECKING:
    from rich.console import RenderableType

    from routerd.client import TaskResult

_LISTED_ELEMENTS = 1000
_FIRST_VALUES = 6


def decide(
    workload: WorkloadName,
    param: ParamList = None,
    inputs: InputList = None,
    shape: ShapeList = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Say where a task should run, and why. Nothing is run; arrays may be given by their shape."""
    ask = arguments.ask(workload, param or [], shape or [], inputs or [])
    with Link(socket) as link:
        decision = link.call("decide", ask)
    if as_json:
        output.write_json(decision)
        return
    from routerd.cli.decision_view import decision_view

    output.show(*decision_view(decision))


def run(
    workload: WorkloadName,
    param: ParamList = None,
    inputs: InputList = None,
    example: Annotated[
        float | None,
        typer.Option(
            "--example", metavar="WORK", help="Start from the workload's own example of about this much work."
        ),
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|NAME=FILE.npy",
            help="Save all arrays to a directory, or one output to a file.",
        ),
    ] = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Run a task where the daemon chooses; print or save its outputs."""
    params, arrays = with_example(
        workload, example, arguments.parse_params(param or []), arguments.load_arrays(inputs or [])
    )
    for name in params.keys() & (arrays.keys() | {"self", "workload"}):  # the client's own argument names
        raise UnknownParameter(f"--param {name}: {workload} has no such parameter", parameter=name)

    from routerd.client import connect

    # Without the table: what it prints can be looked up by its decision, and says where the daemon sends such a task.
    with connect(socket_path(socket), name=CLIENT_NAME, timeout=WAIT_SECONDS, table=False) as router:
        (declared,) = router.call("workloads", {"name": declared_name(workload, params)})
        targets = _targets(save or [], declared)
        result = router.run(workload, **params, **arrays)
        saved = {name: str(_save(path, result[name])) for name, path in targets.items()}
        if as_json:
            output.write_json(_as_data(workload, result, saved))
        else:
            output.show(*_view(declared, result, saved))


def _targets(save: list[str], declared: Mapping[str, Any]) -> dict[str, Path]:
    """Where each output goes. Known before the task runs, so that no result is lost to a slip."""
    names = [one["name"] for one in declared["outputs"]]
    targets: dict[str, Path] = {}
    for text in save:
        name, equals, file = text.partition("=")
        if equals and name.isidentifier():
            if name not in names:
                raise BadRequest(
                    f"--output {text}: {declared['name']} has no output {name}{suggest(name, names)}; "
                    f"it gives {', '.join(names)}"
                )
            targets[name] = Path(file).expanduser()
        else:
            directory = Path(text).expanduser()
            arrays = [one["name"] for one in declared["outputs"] if one["shape"]]
            targets = {one: directory / f"{one}.npy" for one in arrays} | targets
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadRequest(f"--output {text}: cannot be a directory: {error.strerror or error}") from error
    for name, path in targets.items():
        if path.is_dir() or not path.parent.is_dir():
            raise BadRequest(f"--output {name}={path}: name a file in a directory that exists")
    return targets


def _save(path: Path, value: Any) -> Path:
    import numpy as np

    try:
        with path.open("wb") as file:  # numpy.save would add a suffix to a name
            np.save(file, np.asarray(value), allow_pickle=False)
    except OSError as error:
        raise BadRequest(f"--output {path}: cannot be written: {error.strerror or error}") from error
    return path.absolute()


def _as_data(workload: str, result: TaskResult, saved: Mapping[str, str]) -> dict[str, Any]:
    return {
        "workload": workload,
        "outputs": {name: _value(value, saved.get(name)) for name, value in result.items()},
        "saved": saved,
        **_facts(result),
    }


def _facts(result: TaskResult) -> dict[str, Any]:
    plain = msgspec.to_builtins([result.decision, result.requested, result.planned, result.ran_on, result.timing])
    named = dict(zip(("decision", "requested", "planned", "ran_on", "timing"), plain, strict=True))
    return {**named, "fallback_reason": result.fallback_reason}


def _value(value: Any, saved: str | None) -> Any:
    if not hasattr(value, "shape"):
        return value
    if value.size <= _LISTED_ELEMENTS:
        return value.tolist()
    return {"shape": list(value.shape), "dtype": str(value.dtype), "saved": saved}


def _view(declared: Mapping[str, Any], result: TaskResult, saved: Mapping[str, str]) -> list[RenderableType]:
    from routerd.cli.decision_view import run_view
    from routerd.cli.formats import duration

    facts = _facts(result)
    units = {one["name"]: one["unit"] for one in declared["outputs"]}
    outputs = output.table(["output", "value", "unit", "saved to"], wrap=("value",))
    for name, value in result.items():
        text = _summary(value) if hasattr(value, "shape") else repr(value)
        outputs.add_row(output.styled(name, "bold"), text, units.get(name, ""), saved.get(name, ""))
    place = f" on {facts['ran_on']['device_kind']}"
    if facts["planned"]["backend"] != facts["ran_on"]["backend"]:
        place += f" (planned: {facts['planned']['backend']})"
    ran_on = output.styled(facts["ran_on"]["backend"], "bold green", place)
    decision = facts["decision"]
    rows = [
        ("ran on", ran_on),
        *[("", f"{part.share:.0%} on {part.backend}, {duration(part.seconds)}") for part in result.ran_on.parts],
        *run_view(facts),
        ("why", decision["reasoning"]),
        ("decision", f"{decision['decision_id']}, rule {decision['rule']}"),
    ]
    return [outputs, "", output.fields(rows)]


def _summary(array: Any) -> str:
    first = ", ".join(f"{value!r}" for value in array.reshape(-1)[:_FIRST_VALUES].tolist())
    more = ", …" if array.size > _FIRST_VALUES else ""
    shape = "×".join(map(str, array.shape)) or "scalar"
    return f"{shape} {array.dtype}: {first}{more}"
