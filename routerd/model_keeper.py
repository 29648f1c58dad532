"""Watches the directory of models, has workers load what is new, has it proved, and lets go of what was removed."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from routerd.calibrator import Calibrator
from routerd.errors import RouterdError, TaskTimeout, Unavailable, WorkerCrashed
from routerd.logs import get_logger
from routerd.models.description import workload_of
from routerd.models.repository import ModelFile, Scan, Signature, scan
from routerd.releases import Release, Releases
from routerd.worker import messages
from routerd.worker.fleet import BackendState, Fleet, Pair
from routerd.worker.queue import FOREGROUND
from routerd.worker.supervisor import Worker

_log = get_logger("models")

_POLL_SECONDS = 1.0
_LOAD_SECONDS = 60.0  # a file that takes longer to load has hung its worker
_SECONDS_PER_BYTE = 1e-8  # what a load is expected to take
_CRASHES = 3  # of a worker while it loaded a file; then it is the file's fault


class ModelKeeper:
    """Brings the releases in line with the directory. Files are opened in workers alone; here they are only looked at."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        fleet: Fleet,
        releases: Releases,
        calibrator: Calibrator,
        on_change: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._fleet = fleet
        self._releases = releases
        self._calibrator = calibrator
        self._on_change = on_change
        self._unsettled: dict[tuple[str, int], Signature] = {}
        self._missing: set[tuple[str, int]] = set()
        self._unreadable = ""
        self._crashes: Counter[tuple[str, str]] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Look once, so that every model is known by name, then keep watching."""
        await self._look(settled=True)
        self._spawn(self._watch())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def backend_ready(self, backend: BackendState) -> None:
        """A backend came up: its worker may be a new process, which holds no model yet."""
        for release in self._releases.current():
            self._spawn(self._bring(release, backend.worker))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self._look()

    async def _look(self, *, settled: bool = False) -> None:
        try:
            found = await asyncio.to_thread(scan, self._directory)
        except OSError as error:  # what is loaded goes on serving: a directory that cannot be read says nothing
            if str(error) != self._unreadable:
                _log.error("models cannot be looked at", directory=str(self._directory), reason=str(error))
            self._unreadable = str(error)
            return
        self._unreadable = ""
        self.take(found, settled=settled)

    def take(self, found: Scan, *, settled: bool = False) -> None:
        """Compare with what is known.

        A file that is new must look the same twice (``settled``: once) before it is loaded, and one that is not there must
        be missed twice: somebody may be copying.
        """
        for refusal in set(found.refusals) - set(self._releases.refusals):
            _log.warning("not a model", path=refusal.path, reason=refusal.reason)
        self._releases.refusals = found.refusals
        files = {(file.model, file.version): file for file in found.files}
        newest: dict[tuple[str, int], Release] = {}
        missing: set[tuple[str, int]] = set()
        for release in self._releases.current():
            key = (release.file.model, release.file.version)
            newest.setdefault(key, release)
            if key in files:
                continue
            missing.add(key)
            if key in self._missing:
                _log.info("model removed", model=release.name)
                self._releases.retire(release)
                self._on_change()
        self._missing = missing
        unsettled: dict[tuple[str, int], Signature] = {}
        for key, file in files.items():
            if key in newest and newest[key].file.signature == file.signature:
                continue
            if settled or self._unsettled.get(key) == file.signature:
                self._add(file)
            else:
                unsettled[key] = file.signature
        self._unsettled = unsettled

    def _add(self, file: ModelFile) -> None:
        release = self._releases.add(file)
        _log.info("model found", model=release.name, file=file.file, bytes=file.nbytes)
        self._on_change()
        for worker in self._fleet.workers:
            if any(self._fleet.backends[spec.name].state == "ready" for spec in worker.specs):
                self._spawn(self._bring(release, worker))

    async def _bring(self, release: Release, worker: Worker) -> None:
        """Have a worker load a release, and its backends prove it. One at a time for each worker."""
        async with self._locks[worker.name]:
            if release.gone or not worker.up or self._crashes[release.name, worker.name] >= _CRASHES:
                return
            try:
                outcome = await self._adopt(release, worker)
            except RouterdError as error:
                self._not_loaded(release, worker, error)
            else:
                await self._adopted(release, worker, outcome)
        self._releases.retire_superseded()
        self._on_change()

    async def _adopt(self, release: Release, worker: Worker) -> messages.Adopted:
        file, description = release.file, release.description

        def make(number: int) -> tuple[messages.Adopt, tuple[int, ...]]:
            digest = None if description is None else description.digest
            job = messages.Adopt(
                number, release.name, str(self._directory), file.model, file.version, file.file, self._max_bytes, digest
            )
            return job, ()

        expected = 0.01 + _SECONDS_PER_BYTE * file.nbytes
        answer = await worker.ask(make, seconds=expected, priority=FOREGROUND, limit=_LOAD_SECONDS)
        outcome: messages.Adopted = answer.outcome
        return outcome

    async def _adopted(self, release: Release, worker: Worker, outcome: messages.Adopted) -> None:
        if release.gone:
            worker.tell(messages.Release(release.name))
            return
        release.supported |= outcome.supported
        release.problems.pop(worker.name, None)
        self._crashes.pop((release.name, worker.name), None)
        if outcome.description is not None and release.description is None:
            release.description = outcome.description
            self._fleet.add_workload(workload_of(release.name, release.model, outcome.description))
            _log.info("model loaded", model=release.name, digest=outcome.description.digest[:12])
        if release.description is None:
            return
        refused = {name: reason for name, reason in release.supported.items() if reason is not None}
        self._fleet.support(release.name, refused | outcome.supported)
        self._on_change()
        for name in outcome.supported:
            backend = self._fleet.backends[name]
            self._calibrator.restore(backend, only=release.name)
            pair = backend.pairs.get(release.name)  # a release may go while another backend proves it
            if pair is not None and _unproved(pair):
                await self._calibrator.prove(backend, pair)

    def _not_loaded(self, release: Release, worker: Worker, error: RouterdError) -> None:
        if isinstance(error, WorkerCrashed):
            self._crashes[release.name, worker.name] += 1
        elif isinstance(error, TaskTimeout):
            self._crashes[release.name, worker.name] = _CRASHES
        elif not worker.up:
            return
        if 0 < self._crashes[release.name, worker.name] < _CRASHES:
            return  # it is tried again when the worker is back
        release.problems[worker.name] = error.message
        if release.description is not None:  # another worker could: this one's backends cannot
            refused = {spec.name: error.message for spec in worker.specs}
            release.supported |= refused
            self._fleet.support(release.name, refused)
        level = _log.info if isinstance(error, Unavailable) else _log.warning
        level("model not loaded", model=release.name, worker=worker.name, reason=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # a defect here must not end the watch over the other models
            _log.exception("internal error")


def _unproved(pair: Pair) -> bool:
    return pair.unsupported is None and pair.error is None and pair.quarantine is None
