"""Choosers to compare with, each made from its published description and from the samples that routerd learnt from."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, Protocol

from routerd.scoring.trials import Sample

_SCAN_DECADES, _SCAN_STEPS = 6, 60
_REFINEMENTS = 40
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

#: Device kinds as a fixed list ranks them: graphics processors, other accelerators, the processor.
DEVICE_ORDER = ("cuda_gpu", "metal_gpu", "neural_engine", "quantum_annealer", "hybrid", "cluster", "cpu", "in_process")


class Chooser(Protocol):
    """Picks a backend for a task. It knows no policy: ``backends`` (at least one) are those that may take the task."""

    name: str

    def choose(self, workload: str, work: float, backends: Sequence[str]) -> str:
        """The backend that is to run this much work of ``workload``."""


class FixedPriority:
    """A fixed order of devices, whatever the task: the first of ``order`` that supports it.

    OpenVINO's AUTO takes "the highest-priority device capable of supporting the given model" from a fixed table with
    accelerators before the processor (OpenVINO documentation, "Automatic Device Selection"); ONNX Runtime assigns work to its
    execution providers in the order in which they are registered, the processor as the last resort (ONNX Runtime
    documentation, "Execution Providers"). Backends that ``order`` does not name come last.
    """

    name = "fixed priority"

    def __init__(self, order: Sequence[str]) -> None:
        self._rank = {backend: rank for rank, backend in enumerate(order)}

    def choose(self, workload: str, work: float, backends: Sequence[str]) -> str:
        return min(backends, key=lambda backend: self._rank.get(backend, len(self._rank)))


class SizeHistory:
    """The mean time of each backend at exactly this size, from past executions.

    StarPU's ``STARPU_HISTORY_BASED`` model keeps one mean for each footprint (a hash of the sizes of a task's data; here the
    work), which "assumes that for a given set of data input/output sizes, the performance will always be about the same";
    where a backend has no history of a footprint, the ``dm`` schedulers turn greedy and run the task there to get one,
    spreading such tasks evenly (StarPU handbook, "Performance Model Example" and "Performance Model Calibration"; Augonnet,
    Thibault, Namyst and Wacrenier, Concurrency and Computation 23, 2011). Within a series of trials nothing is learnt from
    such a try.
    """

    name = "history (StarPU)"

    def __init__(self, samples: Iterable[Sample]) -> None:
        seen: dict[tuple[str, str, float], list[float]] = {}
        for sample in samples:
            seen.setdefault((sample.workload, sample.backend, sample.work), []).append(sample.seconds)
        self._means = {size: fmean(seconds) for size, seconds in seen.items()}
        self._tried: Counter[str] = Counter()

    def choose(self, workload: str, work: float, backends: Sequence[str]) -> str:
        means = {backend: self._means.get((workload, backend, work)) for backend in backends}
        return _fastest_or_untried(means, self._tried)


class PowerRegression:
    """The least of ``a·work**b + c``, fitted for each backend and workload.

    StarPU's ``STARPU_NL_REGRESSION_BASED`` model (StarPU handbook, "Performance Model Example"). StarPU turns greedy outside
    the range of sizes that it has seen; here the curve is followed there too, which is kinder to it.
    """

    name = "regression (StarPU)"

    def __init__(self, samples: Iterable[Sample]) -> None:
        points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for sample in samples:
            points.setdefault((sample.workload, sample.backend), []).append((sample.work, sample.seconds))
        self._laws = {pair: fit_power_law(known) for pair, known in points.items()}
        self._tried: Counter[str] = Counter()

    def choose(self, workload: str, work: float, backends: Sequence[str]) -> str:
        laws = {backend: self._laws.get((workload, backend)) for backend in backends}
        seconds = {backend: None if law is None else law.seconds(work) for backend, law in laws.items()}
        return _fastest_or_untried(seconds, self._tried)


class AlwaysOne:
    """One backend for everything, as a program that never heard of another device."""

    def __init__(self, backend: str) -> None:
        self.name = f"always {backend}"
        self._backend = backend

    def choose(self, workload: str, work: float, backends: Sequence[str]) -> str:
        return self._backend if self._backend in backends else backends[0]


class RandomChoice:
    """Any backend, each as likely."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, workload: str, work: float, backends: Sequence[str]) -> str:
        return self._random.choice(backends)


class PowerLaw(NamedTuple):
    """Seconds as ``a·work**b + c``."""

    a: float
    b: float
    c: float

    def seconds(self, work: float) -> float:
        return self.a * math.pow(work, self.b) + self.c


def fit_power_law(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Fit ``a·work**b + c`` to ``(work, seconds)``, all positive; ``None`` if there are fewer than two sizes.

    For a given ``c`` the logarithm of ``seconds − c`` is linear in that of work, and weighted least squares give ``a`` and
    ``b``. ``c`` is searched from 0 to just below the least time for the curve whose logarithm differs least from that of the
    times. StarPU's own search maximises a correlation instead, which noise in small times misleads.
    """
    if len({work for work, _seconds in points}) < 2:
        return None
    least = min(seconds for _work, seconds in points)

    def at(decades: float) -> PowerLaw:
        """The law whose constant leaves ``10**−decades`` of the least time to the power."""
        return _with_constant(points, least * (1.0 - 10.0**-decades))

    def misfit(decades: float) -> float:
        law = at(decades)
        return sum((math.log(law.seconds(work)) - math.log(seconds)) ** 2 for work, seconds in points)

    step = _SCAN_DECADES / _SCAN_STEPS
    scanned = [(misfit(index * step), index * step) for index in range(_SCAN_STEPS + 1)]
    _least, centre = min(scanned)
    low, high = max(centre - step, 0.0), min(centre + step, float(_SCAN_DECADES))
    for _ in range(_REFINEMENTS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if misfit(left) <= misfit(right) else (left, high)
    return at(min((centre, 0.5 * (low + high)), key=misfit))


def priority_order(backends: Sequence[tuple[str, str, str]]) -> list[str]:
    """Backends, given as ``(name, device kind, precision)``, as a fixed list would rank them.

    Accelerators come before the processor and, on one device, the less precise (the faster, as such lists assume) before the
    more precise; beyond that the order given stays.
    """
    kinds = {kind: rank for rank, kind in enumerate(DEVICE_ORDER)}
    ranked = sorted(backends, key=lambda one: (kinds.get(one[1], len(kinds)), _bits(one[2])))
    return [name for name, _kind, _precision in ranked]


def _bits(precision: str) -> int:
    digits = "".join(letter for letter in precision if letter.isdigit())
    return int(digits) if digits else 64


def _fastest_or_untried(seconds: Mapping[str, float | None], tried: Counter[str]) -> str:
    """The fastest; but while some are unknown, the one of those that was handed the fewest tasks, which this notes down."""
    known = {backend: value for backend, value in seconds.items() if value is not None}
    if len(known) == len(seconds):
        return min(known, key=known.__getitem__)
    unknown = min((backend for backend in seconds if backend not in known), key=tried.__getitem__)
    tried[unknown] += 1
    return unknown


def _with_constant(points: Sequence[tuple[float, float]], constant: float) -> PowerLaw:
    """Weighted least squares: an error of ``log(seconds)`` shows in ``log(seconds − c)`` enlarged by ``seconds/(seconds − c)``."""
    logs = [(math.log(work), math.log(seconds - constant)) for work, seconds in points]
    weights = [(1.0 - constant / seconds) ** 2 for _work, seconds in points]
    total = sum(weights)
    mean_x = sum(weight * x for weight, (x, _y) in zip(weights, logs, strict=True)) / total
    mean_y = sum(weight * y for weight, (_x, y) in zip(weights, logs, strict=True)) / total
    spread = sum(weight * (x - mean_x) ** 2 for weight, (x, _y) in zip(weights, logs, strict=True))
    slope = sum(weight * (x - mean_x) * (y - mean_y) for weight, (x, y) in zip(weights, logs, strict=True)) / spread
    return PowerLaw(math.exp(mean_y - slope * mean_x), slope, constant)
