"""How soon a daemon serves after its start, and what it takes while nobody asks anything.

``python -m benchmarks.startup [--quick] [--json FILE] [--markdown]``
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks._harness import MILLISECOND, Options, PrivateDaemon, quiet_machine
from benchmarks._report import Figure, publish

READY_SECONDS, IDLE_MEGABYTES, IDLE_CORE_PERCENT = 0.6, 80.0, 0.5

_WORKLOAD = "linalg.gemm"
_LIBRARIES = "pydantic_settings, structlog, msgspec, uvloop, yaml, pluggy, psutil"


def main() -> None:
    options = Options(str(__doc__))
    runs, idle_seconds = (1, 0.5) if options.quick else (7, 5.0)
    with quiet_machine(options) as conditions, PrivateDaemon() as kept:
        kept.start()
        if options.quick:
            kept.connect().close()
            kept.kill()
        else:
            kept.calibrate(_WORKLOAD)
            kept.stop()
        fresh: list[tuple[float, float]] = []
        warm: list[tuple[float, float]] = []
        bare: list[float] = []
        libraries: list[float] = []
        for _ in range(runs):
            bare.append(_python("pass"))
            libraries.append(_python(f"import {_LIBRARIES}"))
            with PrivateDaemon() as daemon:
                fresh.append(_start(daemon))
            warm.append(_start(kept))
            kept.kill()  # or its other workers would go on loading beside the next start
        _start(kept)
        idle = _idle_figures(kept, idle_seconds, calibrated=not options.quick)
    floor = median(libraries)
    figures = [
        Figure("ready (hello and ping), fresh state", median(one[0] for one in fresh), "s", READY_SECONDS, floor=floor),
        Figure("ready (hello and ping), kept state", median(one[0] for one in warm), "s", READY_SECONDS, floor=floor),
        Figure("first run answered, fresh state", median(one[1] for one in fresh), "s", floor=floor),
        Figure("first run answered, kept state", median(one[1] for one in warm), "s", floor=floor),
        Figure("peer: Python that does nothing", median(bare) * MILLISECOND, "ms"),
        Figure("floor: Python that imports the daemon's libraries", floor, "s"),
        *idle,
    ]
    publish("startup", figures, {**conditions, "starts": str(runs)}, options)


def _start(daemon: PrivateDaemon) -> tuple[float, float]:
    """Seconds from the start of the process to the answered ping, and to the answered first run."""
    started = daemon.start()
    with daemon.connect() as router:
        router.call("ping")
        ready = time.perf_counter() - started
        result = router.run(_WORKLOAD, a=np.eye(8), b=np.eye(8), tolerance=1e-9)
        first = time.perf_counter() - started
    if result.ran_on.backend != "cpu.numpy":
        raise SystemExit(f"the first run was to be on cpu.numpy, it was on {result.ran_on.backend}")
    return ready, first


def _python(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def _idle_figures(daemon: PrivateDaemon, seconds: float, *, calibrated: bool) -> list[Figure]:
    """Memory and processor time of the daemon, and of the workers beside it, while nobody asks anything."""
    with daemon.connect() as router:
        if calibrated:  # else the first run has just made it wanted, and it is being timed
            router.call("calibrate", {"workloads": [_WORKLOAD]})
    process = daemon.process
    workers = process.children()
    before = [_cpu_seconds(one) for one in (process, *workers)]
    time.sleep(seconds)
    used = [_cpu_seconds(one) - start for one, start in zip((process, *workers), before, strict=True)]
    unique, resident = _megabytes(process)
    return [
        Figure("idle daemon, resident", resident, "MB", IDLE_MEGABYTES),
        Figure("idle daemon, share of shared pages counted (PSS)", unique, "MB"),
        Figure("idle daemon, processor", 100.0 * used[0] / seconds, "% of a core", IDLE_CORE_PERCENT),
        Figure("idle workers together, resident", sum(_megabytes(one)[1] for one in workers), "MB"),
        Figure("idle workers together, processor", 100.0 * sum(used[1:]) / seconds, "% of a core"),
    ]


def _megabytes(process: psutil.Process) -> tuple[float, float]:
    """Proportional (where the system tells it, else unique) and resident size."""
    full = process.memory_full_info()
    return getattr(full, "pss", full.uss) / 1e6, full.rss / 1e6


def _cpu_seconds(process: psutil.Process) -> float:
    """Processor time of all threads; Linux tells it in nanoseconds, elsewhere ticks of the clock must do."""
    tasks = Path(f"/proc/{process.pid}/task")
    if tasks.exists():
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) * 1e-9
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
