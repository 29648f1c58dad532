"""Every backend that the installed plugins give, on every workload, at several sizes: which is fastest where, and does routerd know?

A daemon of its own proves and times each pair, decides about each size, and then has its workers run the same tasks in turns.

``python -m benchmarks.backends [--workloads NAME …] [--sizes N] [--quick] [--awake] [--json FILE] [--markdown] [--update FILE]``

With ``--update docs/benchmarks.md`` the picture is written beside the page, to ``docs/backends.svg``.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks._crossover_picture import picture_of
from benchmarks._crossovers import NOISE, Size, with_changes
from benchmarks._harness import Options, PrivateDaemon, machine, quiet_machine
from benchmarks._report import publish
from routerd.cli.calibrate import bring_up
from routerd.cli.examples import find_workload
from routerd.cli.link import Link
from routerd.cli.trial_runs import TaskDraw, TrialRunner, declaration, pairs_of, ways_of
from routerd.errors import ExecutionError, Unavailable
from routerd.interfaces import CONTRACT_BACKEND, Workload
from routerd.protocol import MeasureTask

_MUCH_SLOWER = 3.0  # than the best backend is likely to be: a long run then tells nothing that matters
_POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: backends-benchmark}
default: {objective: {latency: 1.0}, split: never}
"""


@dataclass(frozen=True)
class Effort:
    """How much time measuring takes: sizes of each workload, rounds over all backends of a size, and limits that keep slow ones within bounds.

    A backend gets no further round at a size once it has had ``cell_seconds`` there. It is not run at all where it would take
    more than ``longest_seconds``, and much more than another, if time grew in proportion to work from a size that is known.
    No workload is begun after ``total_seconds``.
    """

    sizes: int
    rounds: int
    block_seconds: float
    cell_seconds: float
    longest_seconds: float
    total_seconds: float


_FULL = Effort(sizes=5, rounds=5, block_seconds=0.05, cell_seconds=0.8, longest_seconds=2.0, total_seconds=600.0)
_QUICK = Effort(sizes=2, rounds=1, block_seconds=0.005, cell_seconds=0.1, longest_seconds=0.5, total_seconds=300.0)


class Timed(NamedTuple):
    """A backend's seconds at one work."""

    work: float
    seconds: float


#: Seconds of each run of a backend at a work; raises what the daemon refuses or reports.
Measure = Callable[[str, float], Sequence[float]]


def main() -> None:
    options = Options(str(__doc__), add=_arguments)
    effort, settings = (_QUICK, {"calibration_run_seconds": 0.005}) if options.quick else (_FULL, {})
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(PrivateDaemon(in_process_seconds=0.0, **settings))
        policy = daemon.directory / "policy.yaml"
        policy.write_text(_POLICY)
        daemon.set("policy_paths", policy)
        daemon.start()
        daemon.connect().close()
        link = stack.enter_context(Link(daemon.socket))
        _wait_until_started(link)
        workloads = _workloads(link, options.own.workloads)
        conditions = stack.enter_context(quiet_machine(options))
        deadline = time.monotonic() + effort.total_seconds
        sizes: list[Size] = []
        for name in workloads:
            if time.monotonic() > deadline:
                late = workloads[workloads.index(name) :]
                conditions["not reached"] = f"{', '.join(late)} (time was up after {effort.total_seconds:g} s)"
                break
            _say(f"{name} …")
            bring_up(daemon.socket, link, [name], lambda _done, _total, _what: None)
            sizes += with_changes(list(_sizes(link, declaration(name), options.own.sizes or effort.sizes, effort)))
        known = link.call("backends")["backends"]
        flags = {one["name"]: one["value"] for one in link.call("flags") if one["source"] != "default"}
    if not sizes:
        raise SystemExit("\n".join(["nothing was measured", *missing_parts(known, workloads).values()]))
    conditions |= _about(known, sizes, workloads, effort)
    if flags:
        conditions["flags"] = ", ".join(f"{name}={value}" for name, value in flags.items())
    publish("backends", sizes, conditions, options)
    if options.update is not None:
        picture = options.update.with_name("backends.svg")
        picture.write_text(picture_of(sizes, _caption(known, options)), encoding="utf-8")
        _say(f"picture written to {picture}")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workloads", nargs="+", default=[], metavar="NAME", help="only these (all)")
    parser.add_argument(
        "--sizes",
        type=_count,
        metavar="N",
        help=f"sizes of each workload ({_FULL.sizes}; {_QUICK.sizes} in a quick run)",
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return count


def _wait_until_started(link: Link) -> None:
    """Until each backend has come up or said why not."""
    deadline = time.monotonic() + 120.0
    while "starting" in link.call("status")["backends"].values():
        if time.monotonic() > deadline:
            raise SystemExit("a backend does not start within two minutes")
        time.sleep(0.05)


def _workloads(link: Link, wanted: Sequence[str]) -> list[str]:
    """The workloads to measure. One of the catalogue that has no examples here, as a user's model, is left out."""
    known = [one["name"] for one in link.call("workloads") if find_workload(one["name"]) is not None]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"no workload {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(wanted)) or known


def _sizes(link: Link, workload: Workload, count: int, effort: Effort) -> Iterator[Size]:
    """One workload at ``count`` sizes, equally far apart in logarithms, small to large.

    All are decided about before the first is run; what is measured teaches the daemon nothing.
    """
    pairs = [pair for pair in pairs_of(link.call("backends"), [workload.name]) if pair.able]
    errors = _errors(link, workload.name)
    runner = TrialRunner(link)
    runner.warm([workload.name], lambda _done, _total, _what: None)
    low, high = workload.work_range
    draws = [TaskDraw(float(np.clip(work, low, high)), 0) for work in np.geomspace(low, high, count)]
    decided = {task.draw: task for task in runner.decide(workload.name, draws)}
    ways = ways_of(decided.values())
    usual = median(ways.values()) if ways else 0.0
    known = {pair.backend: [Timed(*point) for point in pair.points] for pair in pairs}
    works: set[float] = set()
    for draw in draws:
        measured: dict[str, float] = {}

        def measure(backend: str, budget: float, draw: TaskDraw = draw, measured: dict[str, float] = measured) -> Any:
            task = MeasureTask(workload.name, draw.work, backend, draw.seed, budget)
            answer = link.call("measure", task)
            measured["work"] = answer["work"]
            return answer["seconds"]

        chosen = decided[draw].decision["backend"] if draw in decided else ""
        seconds, unmeasured = timed_in_turn(list(known), draw.work, measure, known, effort, chosen)
        work = measured.get("work", draw.work)
        if work in works:
            continue
        works.add(work)
        yield Size(
            workload=workload.name,
            work=work,
            tolerance=workload.tolerance,
            seconds=seconds,
            errors=errors,
            unmeasured=unmeasured,
            ways={backend: ways.get(backend, usual) for backend in seconds},
            chosen=chosen,
        )


def timed_in_turn(
    backends: Sequence[str],
    work: float,
    measure: Measure,
    known: Mapping[str, list[Timed]],
    effort: Effort,
    chosen: str = "",
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each backend, the median over its rounds of each round's median; and why those without were not timed.

    Backends take turns, forwards and backwards, so that the machine's drift meets all alike. ``known`` holds what each one was
    timed at, from which it follows what this size may take; its quickest run here is added. The ``chosen`` one and the
    contract are timed however long they take: the one is judged by that, the other is what all are compared with.
    """
    rounds: dict[str, list[float]] = {name: [] for name in backends}
    quickest = dict.fromkeys(backends, math.inf)
    spent = dict.fromkeys(backends, 0.0)
    unmeasured: dict[str, str] = {}
    expected = {
        name: min((one.seconds * max(work / one.work, 1.0) for one in known[name]), default=0.0) for name in backends
    }
    limit = max(effort.longest_seconds, _MUCH_SLOWER * min(expected.values(), default=0.0))
    for name, likely in expected.items():
        if likely > limit and name not in (chosen, CONTRACT_BACKEND):
            unmeasured[name] = f"not run (about {likely:.2g} s)"
    for number in range(effort.rounds):
        for name in backends if number % 2 == 0 else reversed(backends):
            if name in unmeasured or spent[name] > effort.cell_seconds:
                continue
            started = time.monotonic()
            try:
                runs = measure(name, effort.block_seconds)
                rounds[name].append(median(runs))
                quickest[name] = min(quickest[name], *runs)
            except (ExecutionError, Unavailable) as error:
                unmeasured[name] = f"failed ({error.message})"
            spent[name] += time.monotonic() - started
    seconds = {name: median(taken) for name, taken in rounds.items() if name not in unmeasured}
    for name in seconds:
        known[name].append(Timed(work, quickest[name]))
    return seconds, unmeasured


def _errors(link: Link, workload: str) -> dict[str, float]:
    return {
        backend["name"]: pair["error"]
        for backend in link.call("backends")["backends"]
        for pair in backend["workloads"]
        if pair["workload"] == workload and pair["error"] is not None
    }


def _about(
    backends: Sequence[Mapping[str, Any]], sizes: Sequence[Size], workloads: Sequence[str], effort: Effort
) -> dict[str, str]:
    """What the figures depend on, and what is missing from them."""
    judged = [size.verdict for size in sizes if size.verdict]
    return {
        "devices": _devices(backends),
        **missing_parts(backends, workloads),
        "rounds": f"up to {effort.rounds} of {effort.block_seconds:g} s for each backend and size, fewer where a run is slow",
        "right choices": f"{judged.count('right')} of {len(judged)}, within {100 * NOISE:.0f} % of the best",
    }


def missing_parts(backends: Sequence[Mapping[str, Any]], workloads: Sequence[str]) -> dict[str, str]:
    """Backends that are not there and pairs that gave a wrong answer, with the reasons, and how many workloads each one takes."""
    ready = [backend for backend in backends if backend["state"] == "ready"]
    states = {
        backend["name"]: [pair["state"] for pair in backend["workloads"] if pair["workload"] in workloads]
        for backend in ready
    }
    quarantined = [
        f"{pair['workload']} on {backend['name']}: {pair['reason']}"
        for backend in ready
        for pair in backend["workloads"]
        if pair["workload"] in workloads and pair["state"] == "quarantined"
    ]
    said = {
        "unavailable": "; ".join(f"{one['name']}: {one['reason']}" for one in backends if one["state"] != "ready"),
        "workloads": ", ".join(
            f"{name} takes {sum(one not in ('unsupported', 'quarantined') for one in found)} of {len(workloads)}"
            for name, found in states.items()
        ),
        "quarantined": "; ".join(quarantined),
    }
    return {name: words for name, words in said.items() if words}


def _devices(backends: Sequence[Mapping[str, Any]]) -> str:
    """Each device with what its backends tell of it: versions, drivers, cores."""
    details: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {}
    for backend in backends:
        if backend["device"] is not None:
            device = f"{backend['device']['name']} ({backend['device_kind']})"
            details.setdefault(device, {}).update(backend["device"]["detail"])
            names.setdefault(device, []).append(f"{backend['name']} {backend['precision']}")
    return "; ".join(
        f"{device}: {', '.join(names[device])}; "
        + ", ".join(f"{key} {value}" for key, value in detail.items() if value != "")
        for device, detail in details.items()
    )


def _caption(backends: Sequence[Mapping[str, Any]], options: Options) -> list[str]:
    about = machine()
    missing = [one["name"] for one in backends if one["state"] != "ready"]
    lines = [f"{about['processor']}, {about['system']}, {about['date']}"]
    lines += [f"unavailable here: {', '.join(missing)}"] if missing else []
    lines += ["a quick run, which says nothing about speed"] if options.quick else []
    return lines


def _say(words: str) -> None:
    print(f"  {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
