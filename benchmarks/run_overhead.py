"""What ``run`` adds to the kernel it runs: 4 MB in and 4 MB out, and a product so small that nothing else is left.

The small product is run by a worker, because its tolerance is the task's own, and once more wherever routerd places it.

``python -m benchmarks.run_overhead [--quick] [--awake] [--json FILE] [--markdown]``
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks._harness import MICROSECOND, Options, PrivateDaemon, Subject, interleave, over_blocks, quiet_machine
from benchmarks._peers import ask_relay, product, relay
from benchmarks._report import Figure, publish
from benchmarks.peers import Missing
from benchmarks.peers.services import Service, all_services
from routerd.client import Router

MEDIAN_MICROSECONDS = 40.0

_ROWS = 524_288  # of one float64: 4 MiB
_SMALL = 8
_REQUEST_BYTES, _REPLY_BYTES = 192, 1024  # about what run sends and gets back
_TOLERANCE = 1e-9  # float64 only: cpu.numpy takes it


def main() -> None:
    options = Options(str(__doc__))
    blocks, calls = (1, 3) if options.quick else (12, 25)
    spawn = multiprocessing.get_context("spawn")
    with PrivateDaemon() as daemon:
        daemon.start()
        if not options.quick:
            daemon.calibrate("linalg.gemm")
        with (
            daemon.connect() as router,
            relay(_ROWS, _REQUEST_BYTES, _REPLY_BYTES) as (large_relay, relayed),
            relay(1, _REQUEST_BYTES, _REPLY_BYTES) as (small_relay, _one),
            spawn.Pool(1) as pool,
            ProcessPoolExecutor(1, mp_context=spawn) as executor,
            all_services() as found_services,
        ):
            a, b, small = router.empty((_ROWS, 1)), np.full((1, 1), 2.0), np.eye(_SMALL)
            a[:] = relayed[:] = 1.5
            request = bytes(_REQUEST_BYTES)
            subjects: dict[str, Subject] = {
                "run, large": _beyond(lambda: _run(router, a, b)),
                "relay, large": _beyond(lambda: ask_relay(large_relay, request, _REPLY_BYTES)),
                "pool, large": _beyond(lambda: pool.apply(product, (a, b))[1]),
                "executor, large": _beyond(lambda: executor.submit(product, a, b).result()[1]),
                "run, small": _beyond(lambda: _run(router, small, small)),
                "placed, small": _beyond(lambda: _run_anywhere(router, small)),
                "relay, small": _beyond(lambda: ask_relay(small_relay, request, _REPLY_BYTES)),
                "pool, small": _beyond(lambda: pool.apply(product, (small, small))[1]),
                "executor, small": _beyond(lambda: executor.submit(product, small, small).result()[1]),
            }
            services = [one for one in found_services if isinstance(one, Service)]
            for service in services:
                subjects[f"{service.name}, large"] = _beyond(partial(_multiply, service, a, b))
                subjects[f"{service.name}, small"] = _beyond(partial(_multiply, service, small, small))
            interleave(subjects, blocks=0, calls=1)  # the pools' processes start and import with their first call
            with quiet_machine(options) as conditions:
                found = interleave(subjects, blocks=blocks, calls=calls)
            placed = router.run("linalg.gemm", a=small, b=small).ran_on.backend
    figures = [
        *_figures("run, 4 MB in and out", found["run, large"], found["relay, large"], MEDIAN_MICROSECONDS),
        *_figures("peer: multiprocessing.Pool.apply, 4 MB", found["pool, large"], found["relay, large"]),
        *_figures("peer: ProcessPoolExecutor, 4 MB", found["executor, large"], found["relay, large"]),
        *_service_figures(services, "large", "4 MB", found),
        *_figures("floor: bare relay, 4 MB", found["relay, large"]),
        *_figures(f"run, {_SMALL}×{_SMALL}", found["run, small"], found["relay, small"]),
        *_figures(f"run where it is placed, {_SMALL}×{_SMALL}", found["placed, small"], found["relay, small"]),
        *_figures(f"peer: multiprocessing.Pool.apply, {_SMALL}×{_SMALL}", found["pool, small"], found["relay, small"]),
        *_figures(f"peer: ProcessPoolExecutor, {_SMALL}×{_SMALL}", found["executor, small"], found["relay, small"]),
        *_service_figures(services, "small", f"{_SMALL}×{_SMALL}", found),
        *_figures("floor: bare relay, 1×1", found["relay, small"]),
    ]
    conditions |= {"blocks": f"{blocks} of {calls} calls", "placed on": placed}
    conditions["peers"] = ", ".join(service.software for service in services) or "none installed"
    conditions |= {f"{one.name} not measured": one.reason for one in found_services if isinstance(one, Missing)}
    publish("run_overhead", figures, conditions, options)


def _run(router: Router, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    result = router.run("linalg.gemm", a=a, b=b, tolerance=_TOLERANCE)
    return result.timing.kernel_seconds


def _run_anywhere(router: Router, small: np.ndarray[Any, Any]) -> float:
    """As a user would ask."""
    return router.run("linalg.gemm", a=small, b=small).timing.kernel_seconds


def _multiply(service: Service, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return service.multiply(a, b)[1]


def _service_figures(
    services: Sequence[Service], size: str, words: str, found: Mapping[str, list[list[float]]]
) -> Iterator[Figure]:
    for service in services:
        yield from _figures(f"peer: {service.name}, {words}", found[f"{service.name}, {size}"], found[f"relay, {size}"])


def _beyond(call: Callable[[], float]) -> Subject:
    """A subject that is the wall time of ``call`` less the kernel's own seconds, which ``call`` returns."""

    def measure(count: int) -> list[float]:
        samples = []
        for _ in range(count):
            started = time.perf_counter()
            kernel_seconds = call()
            samples.append(time.perf_counter() - started - kernel_seconds)
        return samples

    return measure


def _figures(
    name: str, blocks: list[list[float]], floor: list[list[float]] | None = None, target: float | None = None
) -> Iterator[Figure]:
    pooled = [[sample for block in blocks for sample in block]]  # a block alone is too short for its 99th percentile
    for label, share, found in (("p50", 0.5, blocks), ("p99", 0.99, pooled)):
        below = None if floor is None else floor if share == 0.5 else [[one for block in floor for one in block]]
        yield Figure(
            f"{name}, {label}",
            over_blocks(found, share) * MICROSECOND,
            "µs",
            target if label == "p50" else None,
            floor=None if below is None else over_blocks(below, share) * MICROSECOND,
        )


if __name__ == "__main__":
    main()
