"""``bench``: how good the daemon is at what it does, measured on this machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from routerd import __version__
from routerd.cli import output
from routerd.cli.calibrate import Step, bring_up, progress
from routerd.cli.link import Link
from routerd.cli.options import Json, Socket, complete_workload
from routerd.errors import BadRequest

if TYPE_CHECKING:
    from rich.console import RenderableType

    from routerd.scoring.metrics import Score
    from routerd.scoring.report import Report
    from routerd.scoring.trials import Sample

_WORST = 5  # workloads that the text names
_LOOK_SECONDS, _MUCH_PERCENT = 0.5, 10.0

app = typer.Typer(no_args_is_help=True, help="Measure how good the daemon is at what it does.")


@app.callback()
def _group() -> None:
    """Keep ``routing`` a subcommand while it is the only one."""


@app.command()
def routing(
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", "-w", help="Repeat for more; all by default.", autocompletion=complete_workload),
    ] = None,
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=10_000, help="Tasks of each workload.")] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other tasks.")] = 0,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.svg", help="Draw reliability and comparison there.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE.json", help="Keep the timings as a world to simulate.")
    ] = None,
    world: Annotated[
        Path | None, typer.Option("--world", metavar="FILE.json", help="Score in a simulated world; nothing is run.")
    ] = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Run tasks on every backend that may take them, and score the daemon's choices beside those of others.

    Keep the machine quiet meanwhile. docs/scoring.md says what each figure means.
    """
    if record is not None and world is not None:
        raise BadRequest("--record keeps what is measured here, and in a --world nothing is; give one of them")
    for option, path in (("--picture", picture), ("--record", record)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise BadRequest(f"{option} {path}: name a file in a directory that exists")
    with progress(quiet=as_json) as step:
        if world is not None:
            scored = _simulated(world, workload or [], tasks, seed)
        else:
            with Link(socket) as link:
                scored = _measured(link, socket, workload or [], tasks, seed, step)
    if record is not None:
        _record(scored, record)
    if picture is not None:
        _draw(scored.report, picture)
    if as_json:
        output.write_json({**scored.report.to_dict(), "machine": scored.machine})
    else:
        output.show(*_view(scored.report))


class _Scored(NamedTuple):
    """A report, what it is about, and what was measured for it: single runs, and the way to each backend in seconds."""

    report: Report
    machine: dict[str, str]
    samples: Sequence[Sample] = ()
    ways: Mapping[str, float] = {}


def _simulated(path: Path, wanted: list[str], count: int, seed: int) -> _Scored:
    from routerd.scoring.baselines import priority_order
    from routerd.scoring.report import make_report
    from routerd.simulation.simulator import score_world
    from routerd.simulation.world import World

    world = World.load(path)
    for name in wanted:
        world.candidates(name)
    trials, samples = score_world(world, count, seed)
    if wanted:
        trials = [trial for trial in trials if trial.workload in wanted]
    order = priority_order([(one.name, one.device_kind, one.precision) for one in world.backends])
    about = {"world": world.name, "label": world.label, "source": world.source}
    return _Scored(make_report(trials, samples, order, seed=seed), about)


def _measured(link: Link, socket: Path | None, wanted: list[str], count: int, seed: int, step: Step) -> _Scored:
    from routerd.cli.examples import find_workload
    from routerd.cli.trial_runs import TrialRunner, declaration, draw_tasks, pairs_of, samples_of, ways_of
    from routerd.scoring.baselines import priority_order
    from routerd.scoring.report import make_report

    names = list(dict.fromkeys(wanted)) or [
        one["name"] for one in link.call("workloads") if find_workload(one["name"]) is not None
    ]
    bring_up(socket, link, names, step)  # which refuses names that nobody knows
    declared = [declaration(name) for name in names]
    runner = TrialRunner(link)
    runner.settle(step)
    used = _processor_share()
    runner.warm(names, step)
    decided = []
    step(0, count * len(declared), "deciding")
    for one in declared:
        decided += runner.decide(one.name, draw_tasks(one, count, seed))
    if not any(task.decision["fallbacks"] for task in decided):
        raise BadRequest(
            "nothing to score: no task has two backends that may take it; routerctl backends says what the others lack"
        )
    ways = ways_of(decided)
    backends = link.call("backends")
    ran = runner.run(decided, ways, step)
    for pair, reason in ran.failures.items():
        output.note(f"{pair} failed, and is left out: {reason}")
    samples = samples_of(pairs_of(backends, names), ways)
    order = priority_order([(one["name"], one["device_kind"], one["precision"]) for one in backends["backends"]])
    report = make_report(ran.trials, samples, order, seed=seed, skipped=ran.skipped)
    machine = _machine([one for one in backends["backends"] if one["name"] in ways])
    return _Scored(report, {**machine, "in use by others": used}, [*samples, *ran.runs], ways)


def _processor_share() -> str:
    """How much of the processor others use while the daemon is quiet; much of it is remarked upon."""
    import psutil

    percent = psutil.cpu_percent(_LOOK_SECONDS)
    if percent > _MUCH_PERCENT:
        output.note(
            f"{percent:.0f} % of the processor is in use by others: timings and predictions will differ for that"
        )
    return f"{percent:.0f} %"


def _machine(backends: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What was measured on, for readers; a backend's entry is its device kind and precision."""
    devices = dict.fromkeys(one["device"]["name"] for one in backends if one["device"])
    return {
        "devices": ", ".join(devices),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "routerd": __version__,
        "date": time.strftime("%Y-%m-%d"),
        **{one["name"]: f"{one['device_kind']} {one['precision']}" for one in backends},
    }


def _record(scored: _Scored, path: Path) -> None:
    from routerd.simulation.recording import record

    world = record(path, scored.report.trials, scored.samples, scored.machine, scored.ways)
    output.note(f"world of {len(world.backends)} backends and {len(world.workloads)} workloads written to {path}")


def _draw(report: Report, path: Path) -> None:
    from routerd.scoring.picture import picture_of

    try:
        path.write_text(picture_of(report))
    except OSError as error:
        raise BadRequest(f"--picture {path}: cannot be written: {error.strerror or error}") from error
    output.note(f"picture written to {path}")


def _view(report: Report) -> list[RenderableType]:
    score = report.score
    parts: list[RenderableType] = [_choosers(report), "", output.fields(_facts(report)), ""]
    parts += [output.styled("reliability", "bold"), _reliability(score), ""]
    costly = [one for one in score.workloads if one.mean_regret > 0.0][:_WORST]
    if costly:
        parts += [output.styled("where regret comes from", "bold"), _worst(costly)]
    return parts if costly else parts[:-1]


def _choosers(report: Report) -> RenderableType:
    from routerd.scoring.report import percent

    listed = output.table(
        ["chooser", "right choices", "mean regret", "p95 regret"], right=("right choices", "mean regret", "p95 regret")
    )
    for number, one in enumerate(report.choosers):
        judged = one.choices
        listed.add_row(
            output.styled(one.name, "bold green" if number == 0 else ""),
            percent(judged.right_rate),
            percent(judged.mean_regret),
            percent(judged.p95_regret),
        )
    return listed


def _facts(report: Report) -> list[tuple[str, str]]:
    from routerd.scoring.report import percent

    score = report.score
    alone = f"; {score.single_backend} more had one backend and count for nothing" if score.single_backend else ""
    skipped = ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())
    return [
        ("trials", f"{score.trials} of {len(score.workloads)} workloads, seed {report.seed}{alone}"),
        ("skipped", skipped),
        (
            "prediction error",
            "" if score.prediction_error is None else f"{percent(score.prediction_error)} on average",
        ),
        ("calibration error", f"{score.calibration_error:.3f}"),
    ]


def _reliability(score: Score) -> RenderableType:
    headers = ["confidence", "choices", "mean confidence", "were fastest", "95 % interval"]
    listed = output.table(headers, right=headers)
    for one in score.reliability:
        listed.add_row(
            f"{one.low:.1f} to {one.high:.1f}",
            str(one.count),
            f"{one.mean_confidence:.3f}",
            f"{one.best_rate:.3f}",
            f"{one.best_low:.2f} to {one.best_high:.2f}",
        )
    return listed


def _worst(costly: Sequence[Any]) -> RenderableType:
    from routerd.cli.formats import quantity
    from routerd.scoring.report import percent

    headers = ["workload", "trials", "right choices", "mean regret", "worst regret", "at work"]
    listed = output.table(headers, right=headers[1:])
    for one in costly:
        listed.add_row(
            one.workload,
            str(one.trials),
            percent(one.right_rate),
            percent(one.mean_regret),
            percent(one.worst_regret),
            quantity(one.worst_work),
        )
    return listed
