"""Whether anything grows: memory, descriptors and segments of the daemon and its workers, under mixed traffic.

Clients of several processes decide, run, allocate, cancel, leave and come again, while every process of the daemon is sampled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks._harness import Options, PrivateDaemon, quiet_machine
from benchmarks._report import Figure, publish
from routerd import aio
from routerd.client import Router
from routerd.errors import RouterdError

#: What memory may still grow by when the caches are full.
KIB_A_MINUTE = 64.0

#: What counts as no growth: clients come and go, and each has some descriptors at the moment of a sample.
DESCRIPTORS_A_MINUTE = 1.0

_SAMPLE_SECONDS = 2.0
_LEAST_SAMPLES = 15
_REHEARSAL_SECONDS = 3.0
_WARM_UP = 1.0 / 3.0  # of the run
_PROCESSES, _CONNECTIONS = 2, 6
_STEPS_PER_CONNECTION = 400  # then the client leaves, and another comes
_SETTLE_SECONDS = 10.0
_STAGED = 16_384  # float64 values: 128 KiB, which travel in a segment
_OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2}
_MIB, _KIB = 1024.0**2, 1024.0
_STEPS = {"decide": 60, "run": 20, "run_staged": 8, "run_in_place": 6, "cancel": 6}


@dataclass
class Track:
    """One process of the daemon over time: seconds, its own memory, open descriptors, and segments among them."""

    name: str
    process: psutil.Process
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    segments: list[float] = field(default_factory=list)

    def sample(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.memory.append(_private_bytes(self.process))
        self.descriptors.append(float(self.process.num_fds()))
        self.segments.append(float(_segments(self.process.pid)))


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The slope of a robust line: the median of the slopes between all pairs (Theil 1950, Sen 1968); 0 for one sample."""
    pairs = itertools.combinations(zip(times, values, strict=True), 2)
    return median([(later - earlier) / (end - start) for (start, earlier), (end, later) in pairs] or [0.0])


def soak(options: Options, seconds: float) -> None:
    """Run the traffic for so long, and publish what grew."""
    with PrivateDaemon(decisions_kept=10_000, calibration_run_seconds=0.002 if options.quick else 0.05) as daemon:
        daemon.start()
        daemon.calibrate("linalg.gemm", *(() if options.quick else ("options.monte_carlo_european",)))
        with quiet_machine(options) as conditions, daemon.connect("observer", table=False) as observer:
            _under_traffic(daemon.socket, [], min(_REHEARSAL_SECONDS, seconds))
            _settle(observer)  # what is opened once is open now
            tracks = _tracks(daemon, observer)
            for track in tracks:
                track.sample(0.0)
            done = _under_traffic(daemon.socket, tracks, seconds)
            _settle(observer)
            for track in tracks:
                track.sample(seconds + _SETTLE_SECONDS)
            restarts = sum(worker["restarts"] for worker in observer.call("status")["workers"])
    conditions["traffic"] = f"{seconds:g} s, {_PROCESSES * _CONNECTIONS} clients at a time: {_counted(done)}"
    conditions["growth"] = f"Theil–Sen slope of the memory that is a process's own, from {_WARM_UP * seconds:.0f} s on"
    if first := next((word for word in done if word.startswith("error: ")), ""):
        conditions["first error"] = first.removeprefix("error: ")
    errors = sum(count for word, count in done.items() if word.startswith("error: "))
    figures = [
        *itertools.chain.from_iterable(_figures(track, _WARM_UP * seconds) for track in tracks),
        Figure("workers that ended", restarts, "", target=0),
        Figure("errors", errors, "", target=0),
    ]
    publish("soak", figures, conditions, options)


def _tracks(daemon: PrivateDaemon, observer: Router) -> list[Track]:
    workers = observer.call("status")["workers"]
    return [
        Track("daemon", daemon.process),
        *(Track(f"worker {one['name']}", psutil.Process(one["pid"])) for one in workers if one["pid"]),
    ]


def _figures(track: Track, warm_up: float) -> Iterator[Figure]:
    warm = [at for at, seconds in enumerate(track.seconds[:-1]) if seconds >= warm_up]
    times = [track.seconds[at] for at in warm]
    memory = [track.memory[at] for at in warm]
    slope = 60.0 * theil_sen(times, memory)
    opened = 60.0 * theil_sen(times, [track.descriptors[at] for at in warm])
    yield Figure(f"{track.name}: memory of its own, median", median(memory) / _MIB, "MiB")
    yield Figure(f"{track.name}: growth", slope / _KIB, "KiB a minute", target=KIB_A_MINUTE)
    yield Figure(f"{track.name}: descriptors, median", median(track.descriptors[at] for at in warm), "")
    yield Figure(f"{track.name}: more descriptors a minute", opened, "", target=DESCRIPTORS_A_MINUTE)
    left = track.descriptors[-1] - track.descriptors[0]
    yield Figure(f"{track.name}: more descriptors after the traffic than before", left, "", target=0)
    yield Figure(f"{track.name}: segments at most", max(track.segments), "")
    yield Figure(f"{track.name}: segments left after the traffic", track.segments[-1] - track.segments[0], "", target=0)


def _under_traffic(path: Path, tracks: Sequence[Track], seconds: float) -> Counter[str]:
    """Sample while clients keep the daemon busy; returns how often they did what, and their errors."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(_PROCESSES):
        mine, theirs = spawn.Pipe(duplex=False)
        processes.append(spawn.Process(target=_client_process, args=(theirs, str(path), number, seconds), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(mine)
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        for track in tracks:
            track.sample(elapsed)
        time.sleep(min(_SAMPLE_SECONDS, seconds / _LEAST_SAMPLES, max(seconds - elapsed, 0.0)))
    done: Counter[str] = Counter()
    for pipe, process in zip(pipes, processes, strict=True):
        done.update(pipe.recv())
        process.join()
    return done


def _settle(observer: Router) -> None:
    """Until the daemon has noticed that its clients are gone."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while observer.call("status")["traffic"]["clients"] > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(4):  # a worker hears of segments that nobody needs with its next task
        observer.run("linalg.gemm", a=np.eye(4), b=np.eye(4), tolerance=1e-9)
    time.sleep(0.2)


def _private_bytes(process: psutil.Process) -> float:
    """Memory that nobody else has: on Linux written pages alone, as those of a library count while no other process has it."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return float(process.memory_full_info().uss)
    kilobytes = next(line.split()[1] for line in rollup.read_text().splitlines() if line.startswith("Private_Dirty:"))
    return float(kilobytes) * 1024.0


def _segments(pid: int) -> int:
    """Descriptors of shared-memory segments that a process holds; 0 where the system does not tell."""
    directory, count = Path(f"/proc/{pid}/fd"), 0
    for entry in directory.iterdir() if directory.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += "memfd:routerd" in str(entry.readlink())
    return count


def _counted(done: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in sorted(done.items()) if not word.startswith("error: "))


# -- the clients' processes ---------------------------------------------------------------------------------------------


def _client_process(pipe: Pipe, path: str, number: int, seconds: float) -> None:
    done: Counter[str] = Counter()
    asyncio.run(_clients(path, number, seconds, done))
    pipe.send(done)


async def _clients(path: str, number: int, seconds: float, done: Counter[str]) -> None:
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for one in range(_CONNECTIONS):
            group.create_task(_client(path, random.Random(1000 * number + one), end, done))


async def _client(path: str, source: random.Random, end: float, done: Counter[str]) -> None:
    """Connect, do a few hundred things, leave; until ``end``."""
    while time.monotonic() < end:
        async with aio.connect(path, name=f"soak-{source.randrange(4)}", table=source.random() < 0.25) as router:
            done["connections"] += 1
            for _ in range(source.randrange(_STEPS_PER_CONNECTION)):
                if time.monotonic() >= end:
                    return
                (kind,) = source.choices(list(_STEPS), weights=list(_STEPS.values()))
                try:
                    done[await _step(router, kind, source)] += 1
                except RouterdError as error:
                    done[f"error: {error.code}: {error.message}"] += 1


async def _step(router: Any, kind: str, source: random.Random) -> str:
    """One thing that clients do; returns what it was."""
    if kind == "decide":
        await router.decide("linalg.gemm", m=source.randrange(1, 300), k=64, n=64)
        return "decided"
    if kind == "run":
        await router.run("linalg.gemm", a=np.eye(8), b=np.eye(8), tolerance=1e-9)
        return "small runs"
    if kind == "run_staged":
        await router.run("linalg.gemm", a=np.ones((_STAGED, 1)), b=np.ones((1, 1)), tolerance=1e-9)
        return "runs by segment"
    if kind == "run_in_place":
        a = await router.empty((source.randrange(1, _STAGED), 1))
        a[:] = 1.0
        await router.run("linalg.gemm", a=a, b=np.ones((1, 1)), tolerance=1e-9)
        return "runs in place"
    long = router.run("options.monte_carlo_european", **_OPTION, num_simulations=100_000, tolerance=0.0)
    try:
        await asyncio.wait_for(long, source.random() * 0.005)
    except TimeoutError:
        return "cancelled"
    return "runs that were not cancelled in time"
