"""A worker with a real process, what it reported, and jobs for it."""

from __future__ import annotations

import asyncio
import contextlib

from routerd.interfaces import BackendSpec
from routerd.testing import null_backend_spec
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.launch import WorkerSettings
from routerd.worker.supervisor import Worker

SETTINGS = WorkerSettings(threads=1, inline_bytes=8192, task_timeout_seconds=30.0, start_seconds=30.0)


class Watched:
    """A worker and what it reported. ``pulses`` are the words of its silences, ``""`` where it answers again."""

    def __init__(self, specs: list[BackendSpec], settings: WorkerSettings = SETTINGS, **options) -> None:
        self.loaded: list[tuple[str, messages.Loaded | messages.Failed]] = []
        self.ended: list[str] = []
        self.busy: list[bool] = []
        self.pulses: list[str] = []
        self._news = asyncio.Event()
        self.worker = Worker(
            "cpu/test", specs, settings, self._loaded, self._down, self.busy.append, self._pulse, **options
        )

    def _loaded(self, spec, outcome):
        self.loaded.append((spec.name, outcome))
        self._news.set()

    def _down(self, _worker, reason):
        self.ended.append(reason)
        self._news.set()

    def _pulse(self, _worker, silence):
        self.pulses.append(silence)
        self._news.set()

    async def until(self, condition):
        async with asyncio.timeout(20.0):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def restarted(self, times=1):
        await self.until(lambda: len(self.loaded) == (times + 1) * len(self.worker.specs))


@contextlib.asynccontextmanager
async def running(*specs, settings=SETTINGS, **options):
    watched = Watched(list(specs) or [null_backend_spec("null.one")], settings, **options)
    watched.worker.start()
    try:
        await watched.until(lambda: len(watched.loaded) == len(watched.worker.specs))
        yield watched
    finally:
        await watched.worker.stop(2.0)


def measure(backend="null.one", work=1e4):
    """A job that takes about a millisecond."""
    return lambda number: (messages.Measure(number, backend, "linalg.gemm", work, 0.001), ())


def product(backend="null.one", client=1, made=None):
    """A client's task of one execution; ``made`` gets its number when it is handed to the process."""
    one = ArrayRef((1, 1), "float64", data=bytes(8))

    def make(number):
        if made is not None:
            made.append(number)
        dims = {"m": 1, "k": 1, "n": 1}
        return messages.Execute(number, backend, "linalg.gemm", {}, {"a": one, "b": one}, dims, client, "d"), ()

    return make
