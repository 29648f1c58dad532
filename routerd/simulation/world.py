"""A world: what work costs on each backend of one machine, recorded there or made from published figures.

Its curves are the truth that routing is judged against, so they are finer than what calibration gets to see.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from routerd.errors import BadRequest, ConfigurationError, UnknownBackend, UnknownWorkload, suggest
from routerd.interfaces import DEVICE_KINDS

_EDGE = 1e-9  # a size computed to be the end of a curve may differ from it by rounding


class WorldBackend(Struct, frozen=True, forbid_unknown_fields=True):
    """A backend of the world. ``overhead_seconds`` is the way to it and back, which is not part of its curves."""

    name: str
    device_kind: str
    precision: str
    overhead_seconds: float


class WorldCurve(Struct, frozen=True, forbid_unknown_fields=True):
    """Service time of one backend on one workload: (work, seconds) in ascending work, at least two."""

    backend: str
    workload: str
    points: tuple[tuple[float, float], ...]


class _Known(NamedTuple):
    """What a curve is known for, and its points as logarithms."""

    low: float
    high: float
    log_works: list[float]
    log_seconds: list[float]


class World(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """One machine as seen by routing.

    ``label`` says whether the curves were measured on it (``recorded``) or derived from figures that others published
    (``synthetic``), ``source`` where and when, or from what. ``noise_log_sigma`` is the standard deviation of the natural
    logarithm of one run around its usual time; ``bias_log_sigma`` that of a task's usual time around the curve, because
    tasks of the same work differ in shape. Raises ``ConfigurationError`` for a world that cannot be.
    """

    name: str
    label: Literal["recorded", "synthetic"]
    source: str
    backends: tuple[WorldBackend, ...]
    curves: tuple[WorldCurve, ...]
    noise_log_sigma: float
    bias_log_sigma: float = 0.0

    def __post_init__(self) -> None:
        for field in ("name", "source"):
            if not getattr(self, field).strip():
                raise _wrong(field, "is empty; say what machine this is and where its figures come from")
        for field in ("noise_log_sigma", "bias_log_sigma"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise _wrong(field, f"is {getattr(self, field)}; a standard deviation is zero or positive, and finite")
        self._check_backends()
        self._check_curves()

    @classmethod
    def load(cls, path: Path) -> World:
        """Read a world. Raises ``ConfigurationError`` that names the file, the field, and what is wrong with it."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigurationError(f"the world {path} cannot be read: {error.strerror}", path=str(path)) from error
        except msgspec.MsgspecError as error:
            raise ConfigurationError(f"{path} is no world: {error}; see docs/worlds.md", path=str(path)) from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error.message}", path=str(path), **error.detail) from error

    def save(self, path: Path) -> None:
        """Write the world as JSON, one backend or curve to a line. Raises ``ConfigurationError`` where that fails."""
        head = msgspec.to_builtins(self)
        lists = {field: head.pop(field) for field in ("backends", "curves")}
        members = [f'  "{field}": {_json(value)}' for field, value in head.items()]
        members += [
            f'  "{field}": [\n' + ",\n".join(f"    {_json(value)}" for value in values) + "\n  ]"
            for field, values in lists.items()
        ]
        try:
            path.write_text("{\n" + ",\n".join(members) + "\n}\n")
        except OSError as error:
            raise ConfigurationError(f"the world {path} cannot be written: {error.strerror}", path=str(path)) from error

    @property
    def workloads(self) -> tuple[str, ...]:
        """Names of the workloads that some backend of this world can run, in order."""
        return tuple(sorted({curve.workload for curve in self.curves}))

    def candidates(self, workload: str) -> tuple[WorldBackend, ...]:
        """The backends that can run the workload, in the world's order. Raises ``UnknownWorkload`` where there is none."""
        able = tuple(backend for backend in self.backends if (backend.name, workload) in self._known)
        if not able:
            raise UnknownWorkload(
                f"the world {self.name} knows no {workload}{suggest(workload, self.workloads)}", workload=workload
            )
        return able

    def work_range(self, workload: str) -> tuple[float, float]:
        """The least and greatest work for which every backend that can run the workload has a time."""
        ranges = [self.curve_range(backend.name, workload) for backend in self.candidates(workload)]
        return max(low for low, _high in ranges), min(high for _low, high in ranges)

    def curve_range(self, backend: str, workload: str) -> tuple[float, float]:
        """The least and greatest work for which the backend has a time."""
        known = self._find(backend, workload)
        return known.low, known.high

    def seconds(self, backend: str, workload: str, work: float) -> float:
        """The usual service time, interpolated in log-log space between the points.

        Raises ``BadRequest`` for work outside the curve, where nobody knows, and its subclasses for a name not in the world.
        """
        known = self._find(backend, workload)
        if not known.low * (1.0 - _EDGE) <= work <= known.high * (1.0 + _EDGE):
            raise BadRequest(
                f"in the world {self.name}, {backend} is known on {workload} from {known.low:g} to {known.high:g} of work, "
                f"not at {work:g}"
            )
        x, xs, ys = math.log(work), known.log_works, known.log_seconds
        right = min(max(bisect_left(xs, x), 1), len(xs) - 1)
        share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
        return math.exp(ys[right - 1] + share * (ys[right] - ys[right - 1]))

    def _find(self, backend: str, workload: str) -> _Known:
        known = self._known.get((backend, workload))
        if known is None:
            able = [one.name for one in self.candidates(workload)]
            raise UnknownBackend(
                f"in the world {self.name}, {backend} has no curve for {workload}; those that have are {', '.join(able)}",
                backend=backend,
            )
        return known

    @cached_property
    def _known(self) -> dict[tuple[str, str], _Known]:
        return {
            (curve.backend, curve.workload): _Known(
                curve.points[0][0],
                curve.points[-1][0],
                [math.log(work) for work, _seconds in curve.points],
                [math.log(seconds) for _work, seconds in curve.points],
            )
            for curve in self.curves
        }

    def _check_backends(self) -> None:
        if not self.backends:
            raise _wrong("backends", "is empty; a world has at least one")
        with_curves = {curve.backend for curve in self.curves}
        seen: set[str] = set()
        for index, backend in enumerate(self.backends):
            where = f"backends[{index}]"
            if backend.name in seen:
                raise _wrong(f"{where}.name", f"says {backend.name} a second time")
            if backend.device_kind not in DEVICE_KINDS:
                raise _wrong(
                    f"{where}.device_kind",
                    f"says {backend.device_kind!r}{suggest(backend.device_kind, DEVICE_KINDS)}; "
                    f"kinds are {', '.join(DEVICE_KINDS)}",
                )
            if not 0.0 <= backend.overhead_seconds < math.inf:
                raise _wrong(
                    f"{where}.overhead_seconds", f"is {backend.overhead_seconds}; it is zero or positive, finite"
                )
            if backend.name not in with_curves:
                raise _wrong(where, f"has no curve: {backend.name} can run nothing; give it one or leave it out")
            seen.add(backend.name)

    def _check_curves(self) -> None:
        names = [backend.name for backend in self.backends]
        seen: set[tuple[str, str]] = set()
        for index, curve in enumerate(self.curves):
            where = f"curves[{index}]"
            if curve.backend not in names:
                raise _wrong(
                    f"{where}.backend", f"says {curve.backend}, which is not among backends: {', '.join(names)}"
                )
            if (curve.backend, curve.workload) in seen:
                raise _wrong(where, f"is a second one of {curve.backend} on {curve.workload}")
            seen.add((curve.backend, curve.workload))
            if len(curve.points) < 2:
                raise _wrong(f"{where}.points", f"has {len(curve.points)}; a curve needs at least two")
            for number, (work, seconds) in enumerate(curve.points):
                if not (0.0 < work < math.inf and 0.0 < seconds < math.inf):
                    raise _wrong(
                        f"{where}.points[{number}]", f"is ({work}, {seconds}); work and seconds are positive and finite"
                    )
            for number, ((before, _), (after, _)) in enumerate(pairwise(curve.points), start=1):
                if after <= before:
                    raise _wrong(f"{where}.points[{number}]", f"has work {after:g} after {before:g}; sort them by work")

        for workload in self.workloads:
            low, high = self.work_range(workload)
            if low >= high:
                raise _wrong("curves", f"of {workload} have no work in common, so no task of it can be compared")


def _wrong(field: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{field} {problem}", field=field)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
