"""Every version of every user's model: which one a request gets, and why one is not served.

A *release* is one version with one content. A version whose files were replaced has two for a while: the older serves until
the newer is proved. A release that is gone stays in its workers until the last request that it was chosen for has ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from routerd.errors import Unavailable, UnknownModel, UnknownWorkload, suggest
from routerd.interfaces import ModelId, Workload
from routerd.models.description import Description
from routerd.models.repository import ModelFile, Refusal
from routerd.worker.fleet import Fleet, Pair
from routerd.workloads.ml import DEMO, MODEL

_RETRY_SECONDS = 1.0
_NAMED = re.compile(rf"{re.escape(MODEL)}/(?P<model>[a-z0-9_]+)(?:@(?P<version>\d+))?")


class Release:
    """One content of one version. ``edition`` counts the contents that the version had since the daemon started.

    ``supported`` holds what each backend said of it (``None``: it can run it), ``problems`` why workers could not load it.
    """

    def __init__(self, file: ModelFile, edition: int) -> None:
        self.file = file
        self.edition = edition
        self.name = f"{MODEL}/{file.model}@{file.version}" + (f".{edition}" if edition > 1 else "")
        self.description: Description | None = None
        self.supported: dict[str, str | None] = {}
        self.problems: dict[str, str] = {}
        self.gone = False
        self.users = 0

    @property
    def model(self) -> ModelId:
        return ModelId(self.file.model, self.file.version)


class Releases:
    """Answers for ``ml.model``. It changes when the keeper finds, loads or drops something."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._releases: dict[str, Release] = {}
        self._of_model: dict[str, list[Release]] = {}
        self._editions: dict[ModelId, int] = {}
        self.refusals: tuple[Refusal, ...] = ()

    # -- for requests ---------------------------------------------------------------------------------------------

    def resolve(self, params: Mapping[str, Any]) -> Workload:
        """The workload that ``ml.model`` means with these parameters. Raises ``UnknownModel``, or ``Unavailable``.

        What is no name or no version is left to the check of parameters, which knows the words for it.
        """
        model, version = params.get("model"), params.get("version")
        if not isinstance(model, str) or model == DEMO or isinstance(version, bool | str):
            return self._fleet.workloads[MODEL]
        return self._serving(model, version)

    def named(self, name: str) -> Workload:
        """The workload called ``ml.model/credit`` (the newest that is proved) or ``ml.model/credit@3``."""
        found = _NAMED.fullmatch(name)
        if found is None:
            raise UnknownWorkload(f"no workload {name}; a model is {MODEL}/name or {MODEL}/name@version", workload=name)
        return self._serving(found["model"], int(found["version"]) if found["version"] else None)

    @contextmanager
    def using(self, workload: str) -> Iterator[None]:
        """Keep a release loaded for the time of a request, even if its files are removed meanwhile."""
        release = self._releases.get(workload)
        if release is None:
            yield
            return
        release.users += 1
        try:
            yield
        finally:
            release.users -= 1
            self._drop_if_unused(release)

    def _serving(self, model: str, version: float | None) -> Workload:
        own = self._of_model.get(model)
        if not own:
            known = sorted({*self._of_model, DEMO})
            raise UnknownModel(
                f"no model {model}{suggest(model, known)}; routerctl workloads {MODEL} lists all", model=model
            )
        candidates = [one for one in own if version is None or one.file.version == version]
        if not candidates:
            versions = ", ".join(map(str, sorted({one.file.version for one in own})))
            raise UnknownModel(f"model {model} has no version {version:g}, it has {versions}", model=model)
        for release in candidates:
            if self.servable(release):
                return self._fleet.workloads[release.name]
        state, reason = self.state(candidates[0])
        what = f"model {model}@{candidates[0].file.version}"
        if state == "failed":
            raise Unavailable(f"{what} cannot be served: {reason}", model=model)
        raise Unavailable(
            f"{what} is not ready yet: {reason}; retry in {_RETRY_SECONDS:g} s",
            model=model,
            retry_after_seconds=_RETRY_SECONDS,
        )

    # -- for the keeper -------------------------------------------------------------------------------------------

    def current(self) -> list[Release]:
        """All that are not gone, by model, the newest version and content first."""
        return [release for model in sorted(self._of_model) for release in self._of_model[model]]

    def add(self, file: ModelFile) -> Release:
        """A content that was found now."""
        model = ModelId(file.model, file.version)
        self._editions[model] = self._editions.get(model, 0) + 1
        release = Release(file, self._editions[model])
        self._releases[release.name] = release
        own = self._of_model.setdefault(file.model, [])
        own.append(release)
        own.sort(key=lambda one: (-one.file.version, -one.edition))
        return release

    def retire(self, release: Release) -> None:
        """Serve it no more; it goes when nobody uses it."""
        release.gone = True
        own = self._of_model[release.file.model]
        own.remove(release)
        if not own:
            del self._of_model[release.file.model]
        self._drop_if_unused(release)

    def retire_superseded(self) -> None:
        """Of each version only the newest content stays once it can serve, and none that cannot beside a newer one."""
        newest: dict[ModelId, Release] = {}
        for release in self.current():
            newer = newest.setdefault(release.model, release)
            if newer is not release and (self.servable(newer) or not self.servable(release)):
                self.retire(release)

    def pairs(self, release: Release) -> dict[str, Pair]:
        """What is known of it on each backend."""
        backends = self._fleet.backends.items()
        return {name: backend.pairs[release.name] for name, backend in backends if release.name in backend.pairs}

    def servable(self, release: Release) -> bool:
        """Whether some backend has proved it, whether or not that backend is there at this moment."""
        workload = self._fleet.workloads.get(release.name)
        return workload is not None and any(_proved(pair, workload) for pair in self.pairs(release).values())

    def _drop_if_unused(self, release: Release) -> None:
        if release.gone and release.users == 0 and self._releases.pop(release.name, None) is not None:
            self._fleet.remove_workload(release.name)

    # -- for people -----------------------------------------------------------------------------------------------

    def state(self, release: Release) -> tuple[str, str]:
        """``loading``, ``proving``, ``proved`` or ``failed``, and the reason where it is not proved."""
        if self.servable(release):
            return "proved", ""
        awaited = sorted(
            name
            for name, backend in self._fleet.backends.items()
            if backend.state in ("starting", "ready", "down")
            and name not in release.supported
            and backend.worker.name not in release.problems
        )
        if release.description is None:
            if release.problems:
                return "failed", "; ".join(dict.fromkeys(release.problems.values()))
            if awaited:
                return "loading", f"it is being loaded for {', '.join(awaited)}"
            return "failed", _none_can(release.supported)
        workload, pairs = self._fleet.workloads[release.name], self.pairs(release)
        unproved = [name for name, pair in pairs.items() if pair.unsupported is None and pair.error is None]
        if unproved:
            return "proving", f"it is being proved on {', '.join(unproved)}"
        tried = {name: pair for name, pair in pairs.items() if pair.unsupported is None}
        reasons = [f"{name} {_shortfall(pair, workload)}" for name, pair in tried.items()]
        return "failed", "; ".join(reasons) or _none_can(release.supported)

    def report(self) -> list[dict[str, Any]]:
        """One entry for each release and for each thing in the directory that is no model."""
        entries, served = [], set[str]()
        for release in self.current():
            state, reason = self.state(release)
            if state == "proved":
                state = "standby" if release.file.model in served else "serving"
                served.add(release.file.model)
            entries.append({**_facts(release), "state": state, "reason": reason, "backends": self._states(release)})
        return entries + [
            {"path": refusal.path, "state": "refused", "reason": refusal.reason} for refusal in self.refusals
        ]

    def _states(self, release: Release) -> dict[str, str]:
        """Why each backend may not take it; an empty reason where it may."""
        if release.description is None:
            return {name: reason or "" for name, reason in release.supported.items()}
        return {name: pair.objection() or "" for name, pair in self.pairs(release).items()}


def _proved(pair: Pair, workload: Workload) -> bool:
    return (
        pair.unsupported is None
        and pair.quarantine is None
        and pair.error is not None
        and pair.error <= workload.tolerance
    )


def _shortfall(pair: Pair, workload: Workload) -> str:
    return pair.objection() or f"has error {pair.error or 0.0:.1e}, its tolerance is {workload.tolerance:.0e}"


def _none_can(supported: Mapping[str, str | None]) -> str:
    return "; ".join(dict.fromkeys(reason for reason in supported.values() if reason)) or "no backend can run it"


def _facts(release: Release) -> dict[str, Any]:
    file, description = release.file, release.description
    facts: dict[str, Any] = {
        "model": file.model,
        "version": file.version,
        "workload": release.name,
        "file": file.file,
        "bytes": file.nbytes,
        "users": release.users,
    }
    if description is not None:
        facts["digest"] = description.digest
        facts["operations"] = description.operations
        facts["contract"] = (
            f"{'torch' if file.suffix != '.safetensors' else 'NumPy'} in {description.contract_precision}"
        )
        facts["inputs"] = msgspec.to_builtins(description.inputs)
        facts["outputs"] = msgspec.to_builtins(description.outputs)
    return facts
