"""Making a world of what a benchmark of routing measured on a machine."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from routerd.costs.model import MAD_TO_SIGMA
from routerd.errors import BadRequest
from routerd.scoring.trials import Sample, Trial
from routerd.simulation.world import World, WorldBackend, WorldCurve

_POINTS = 25
_DIGITS = 5
_SIGMA_DECIMALS = 4  # below that is what rounding the points does
_LEAST_SECONDS = 1e-6  # the way varies; what is left of a short task without it must stay a time

_KINDS = {
    "cpu": "cpu",
    "metal": "metal_gpu",
    "ane": "neural_engine",
    "cuda": "cuda_gpu",
    "quantum_annealer": "quantum_annealer",
    "in_process": "in_process",
}
#: Service seconds of one pair at each work.
_Runs: TypeAlias = dict[float, list[float]]

_NO_OVERHEADS: Mapping[str, float] = MappingProxyType({})


def record(
    path: Path,
    trials: Sequence[Trial],
    samples: Sequence[Sample],
    machine: Mapping[str, str],
    overheads: Mapping[str, float] = _NO_OVERHEADS,
) -> World:
    """Write the world of this machine to ``path`` and return it; it is named after the file.

    ``machine`` describes the machine for readers (processor, system, versions, date). An entry named like a backend gives
    that backend's device kind and precision, ``"cpu.torch": "cpu float32"``; the kind is else read from the backend's name.
    Seconds of trials and samples are from request to result; ``overheads`` says how many of them are the way to each backend
    and back, which the world keeps apart. Without it the way is part of the curves.

    Raises ``BadRequest`` where the measurements make no world, and ``ConfigurationError`` where it cannot be written.
    """
    if not machine:
        raise BadRequest("a recorded world says what machine it was recorded on: processor, system, versions, date")
    runs = _runs(trials, samples, overheads)
    curves = tuple(_curve(workload, backend, pair) for (workload, backend), pair in sorted(runs.items()))
    backends = dict.fromkeys(curve.backend for curve in curves)
    world = World(
        name=path.stem,
        label="recorded",
        source="; ".join(f"{key}: {value}" for key, value in machine.items() if key not in backends),
        backends=tuple(_backend(name, machine, overheads) for name in backends),
        curves=curves,
        noise_log_sigma=round(_noise(samples, runs.values(), overheads), _SIGMA_DECIMALS),
    )
    bias = round(_bias(world, trials, overheads), _SIGMA_DECIMALS)
    world = msgspec.structs.replace(world, bias_log_sigma=bias)
    world.save(path)
    return world


def _runs(
    trials: Iterable[Trial], samples: Iterable[Sample], overheads: Mapping[str, float]
) -> dict[tuple[str, str], _Runs]:
    """What each (workload, backend) took."""
    runs: dict[tuple[str, str], _Runs] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        for backend, seconds in trial.seconds.items():
            runs[trial.workload, backend][trial.work].append(_service(seconds, backend, overheads))
    for sample in samples:
        seconds = _service(sample.seconds, sample.backend, overheads)
        runs[sample.workload, sample.backend][sample.work].append(seconds)
    if not runs:
        raise BadRequest("there is nothing to record: neither a trial nor a sample was given")
    return runs


def _medians(runs: _Runs) -> list[tuple[float, float]]:
    return [(work, median(runs[work])) for work in sorted(runs)]


def _curve(workload: str, backend: str, runs: _Runs) -> WorldCurve:
    """The medians at each size; where there are too many sizes, those of sizes close to each other."""
    points = _medians(runs)
    if len(points) < 2:
        raise BadRequest(
            f"{backend} was measured on {workload} at one size only, {points[0][0]:g}; a curve needs two, so run more tasks",
            workload=workload,
            backend=backend,
        )
    if len(points) > _POINTS:
        points = _thinned(points)
    return WorldCurve(backend, workload, tuple((work, _rounded(seconds)) for work, seconds in points))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most as many points as a curve has, each the median of those in one of equal intervals of log work.

    The least and the greatest work stay, with the time of their interval, so that the curve reaches as far as was measured.
    """
    low, high = points[0][0], points[-1][0]
    width = math.log(high / low) / _POINTS
    intervals: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for work, seconds in points:
        intervals[min(int(math.log(work / low) / width), _POINTS - 1)].append((work, seconds))
    thinned = [
        (math.exp(median(math.log(work) for work, _ in near)), median(seconds for _, seconds in near))
        for _, near in sorted(intervals.items())
    ]
    thinned[0], thinned[-1] = (low, thinned[0][1]), (high, thinned[-1][1])
    return thinned


def _noise(samples: Iterable[Sample], runs: Iterable[_Runs], overheads: Mapping[str, float]) -> float:
    """How much one run varies: from successive samples of one size, so that neither drift nor a spike counts.

    Where every size was sampled once (as medians are), it is how far sizes lie from the line between their neighbours, which
    counts their shapes too. Raises ``BadRequest`` where there is neither.
    """
    repeated: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for sample in samples:
        seconds = _service(sample.seconds, sample.backend, overheads)
        repeated[sample.workload, sample.backend, sample.work].append(math.log(seconds))
    deviations = [
        abs(after - before) / math.sqrt(2.0) for logs in repeated.values() for before, after in pairwise(logs)
    ] or [deviation for pair in runs for deviation in _between_neighbours(_medians(pair))]
    if not deviations:
        raise BadRequest("how much runs vary cannot be told: no size was timed twice, and no pair at three sizes")
    return MAD_TO_SIGMA * median(deviations)


def _between_neighbours(points: Sequence[tuple[float, float]]) -> list[float]:
    """How far each inner point is (log) from the line between its neighbours, in units of one point's deviation."""
    logs = [(math.log(work), math.log(seconds)) for work, seconds in points]
    distances = []
    for (x0, y0), (x1, y1), (x2, y2) in zip(logs, logs[1:], logs[2:], strict=False):
        share = (x1 - x0) / (x2 - x0)
        line = y0 + share * (y2 - y0)
        distances.append(abs(y1 - line) / math.sqrt(1.0 + share**2 + (1.0 - share) ** 2))
    return distances


def _bias(world: World, trials: Iterable[Trial], overheads: Mapping[str, float]) -> float:
    """How far tasks lie from the curve: what thinning lost."""
    distances = [
        abs(math.log(_service(seconds, backend, overheads) / world.seconds(backend, trial.workload, trial.work)))
        for trial in trials
        for backend, seconds in trial.seconds.items()
    ]
    return MAD_TO_SIGMA * median(distances) if distances else 0.0


def _backend(name: str, machine: Mapping[str, str], overheads: Mapping[str, float]) -> WorldBackend:
    described = machine.get(name)
    if described is None and name.partition(".")[0] not in _KINDS:
        raise BadRequest(f'of what kind {name} is cannot be told from its name; say machine["{name}"] = "cpu float32"')
    kind, _, precision = (described or _KINDS[name.partition(".")[0]]).partition(" ")
    return WorldBackend(name, kind, precision or "unknown", overheads.get(name, 0.0))


def _service(seconds: float, backend: str, overheads: Mapping[str, float]) -> float:
    return max(seconds - overheads.get(backend, 0.0), _LEAST_SECONDS)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
