"""What a daemon that many depend on does under load: thousands of clients, small tasks beside others, a greedy client.

``python -m benchmarks.load [--clients N] [--soak SECONDS] [--quick] [--awake] [--json FILE] [--markdown] [--update FILE]``

``--soak`` measures something else instead: whether memory and descriptors stay as they are under mixed traffic.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks._crowd import Batch, Crowd, Drive, Joined, Outcome, batches_of, merged
from benchmarks._descriptors import SPARE, advice, raise_limit
from benchmarks._harness import MILLISECOND, Options, PrivateDaemon, percentile, quiet_machine, timed
from benchmarks._report import Figure, publish
from benchmarks._soak import soak
from routerd.client import Router
from routerd.protocol import Ask, Run
from routerd.types import ArrayRef

CLIENTS, RATE = 15_000, 50_000.0
FAIR_RATIO = 2.0

_PROCESSES = 2
_TOGETHER = 8  # decide requests that a client sends at a time
_QUESTIONS = [Ask("linalg.gemm", {"m": 64, "k": 64, "n": 8 * number}) for number in range(1, 65)]
_BATCHES = 256
_WAITING = 64  # batches in flight, in each process, where nothing but the daemon limits the rate
_BUSY = (1, 8, 64)
_GREEDY = 64  # requests that the greedy client has in flight
_FOREVER = 1e9
_SMALL_SIDE, _SMALL_TOLERANCE = 8, 1e-9  # float64 only: cpu.numpy takes it
_SMALL_NAME = f"{_SMALL_SIDE}×{_SMALL_SIDE}"
_LARGE = {
    "spot_price": 100.0,
    "strike_price": 110.0,
    "volatility": 0.2,
    "num_simulations": 100_000,
    "tolerance": 0.0,
}  # a kernel of a few milliseconds


def main() -> None:
    options = Options(str(__doc__), add=_arguments)
    if options.own.soak:
        soak(options, options.own.soak)
        return
    seconds = 0.1 if options.quick else 5.0
    clients = min(options.own.clients, 200) if options.quick else options.own.clients
    conditions: dict[str, str] = {}
    clients = _possible(clients, conditions)
    run_seconds = 0.002 if options.quick else 0.05
    with PrivateDaemon(
        max_connections=clients + SPARE, decisions_kept=1000, calibration_run_seconds=run_seconds
    ) as daemon:
        daemon.start()
        daemon.calibrate("linalg.gemm", *(() if options.quick else ("options.monte_carlo_european",)))
        with quiet_machine(options) as machine:
            figures = [
                *_many_clients(daemon, clients, 2 * seconds, conditions),
                *_beside_others(daemon, seconds, conditions),
                *_fair_shares(daemon, seconds, conditions),
            ]
    publish("load", figures, {**machine, **conditions}, options)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N", help=f"connected clients ({CLIENTS:,})")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="SECONDS", help="measure growth over so long instead"
    )


def _possible(clients: int, conditions: dict[str, str]) -> int:
    """As many clients as the limit on descriptors lets the daemon have. Says what to do where it is fewer."""
    limit = raise_limit()
    if clients + SPARE <= limit:
        return clients
    print(advice(clients, limit), end="\n\n")
    conditions["fewer clients"] = f"{clients:,} wanted, the limit on descriptors is {limit:,}"
    return limit - SPARE


# -- many clients -------------------------------------------------------------------------------------------------------


def _many_clients(daemon: PrivateDaemon, clients: int, seconds: float, conditions: dict[str, str]) -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        crowds = [stack.enter_context(Crowd(daemon.socket, f"engine-{number}")) for number in range(_PROCESSES)]
        for crowd in crowds:
            crowd.join(1)  # its process has started and imported
        observer = stack.enter_context(daemon.connect("observer", table=False))
        before = daemon.process.memory_info().rss
        shares = [clients // len(crowds)] * (len(crowds) - 1)
        joined = _join(crowds, [*shares, clients - sum(shares)])
        grown = daemon.process.memory_info().rss - before
        connected = sum(one.clients for one in joined)
        problem = next((one.problem for one in joined if one.problem), "")
        if problem:
            conditions["clients that could not connect"] = f"{clients - connected:,}: {problem}"
        yield Figure("clients connected", connected, "", target=clients, at_least=True)
        yield Figure("connecting, with hello", connected / max(one.seconds for one in joined), "/s", at_least=True)
        yield Figure("daemon's memory per client, resident", grown / connected / 1024.0, "KiB")
        batches = batches_of("decide", _QUESTIONS, together=_TOGETHER, count=_BATCHES)
        interval = _TOGETHER * len(crowds) / RATE
        offered, busy = _drive(daemon, crowds, Drive(batches, seconds, connected, interval))
        yield from _rate_figures(f"decide, {RATE:,.0f} a second offered", offered, busy, conditions, RATE * 0.99)
        status = timed(lambda: observer.call("status"))(20)
        yield Figure("status while all are connected, p50", percentile(status, 0.5) * MILLISECOND, "ms")
        pressed, busy = _drive(daemon, crowds, Drive(batches, seconds / 2.0, _WAITING))
        yield from _rate_figures("decide, as fast as they are answered", pressed, busy, conditions)
        conditions["decide"] = (
            f"{_TOGETHER} requests at a time from a client drawn at random, {len(_QUESTIONS)} questions"
        )


def _join(crowds: Sequence[Crowd], counts: Sequence[int]) -> list[Joined]:
    for crowd, count in zip(crowds, counts, strict=True):
        crowd.start_joining(count - 1)  # the first came before
    return [crowd.finish() for crowd in crowds]


def _drive(daemon: PrivateDaemon, crowds: Sequence[Crowd], drive: Drive) -> tuple[Outcome, float]:
    """All crowds at once; what came of it, and the share of a core that the daemon took."""
    used = _processor_seconds(daemon.process)
    for crowd in crowds:
        crowd.start(drive)
    outcome = merged([crowd.finish() for crowd in crowds])
    return outcome, (_processor_seconds(daemon.process) - used) / outcome.seconds


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rate_figures(
    name: str, outcome: Outcome, busy: float, conditions: dict[str, str], target: float | None = None
) -> Iterator[Figure]:
    yield Figure(f"{name}, answered", outcome.answered / outcome.seconds, "/s", target, at_least=True)
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        yield Figure(f"{name}, {label} of {_TOGETHER}", percentile(outcome.latencies, share) * MILLISECOND, "ms")
    yield Figure(f"{name}, daemon's processor", 100.0 * busy, "% of a core")
    yield _error_figure(name, outcome, conditions)


# -- small tasks beside others ------------------------------------------------------------------------------------------


def _beside_others(daemon: PrivateDaemon, seconds: float, conditions: dict[str, str]) -> Iterator[Figure]:
    """A small ``run`` of one client while others, each with one request at a time, keep the worker busy."""
    kernels, outcomes = [], []
    with daemon.connect("measured", table=False) as router, Crowd(daemon.socket, "busy") as crowd:
        alone = _samples(router, seconds)
        yield from _latency(f"run, {_SMALL_NAME}, alone", alone)
        connected = 0
        for others in _BUSY:
            connected = _connect(crowd, others - connected)
            for kind, batches in _kinds():
                with crowd.driving(Drive(batches, _FOREVER, others)) as outcome:
                    found = _samples(router, seconds)
                    kernels += [_large_kernel_seconds(router)]
                outcomes.append(outcome)
                yield from _latency(f"run, {_SMALL_NAME}, beside {others} with tasks {kind}", found, alone)
    conditions["tasks of milliseconds"] = f"{percentile(kernels, 0.5) * MILLISECOND:.2g} ms each"
    yield _error_figure("run beside others", merged(outcomes), conditions)


def _fair_shares(daemon: PrivateDaemon, seconds: float, conditions: dict[str, str]) -> Iterator[Figure]:
    """One task at a time, beside another client that does the same and beside one that has many in flight."""
    outcomes = []
    with daemon.connect("polite", table=False) as router, Crowd(daemon.socket, "other") as crowd:
        _connect(crowd, 1)
        for kind, batches in _kinds():
            found = {}
            for flight in (1, _GREEDY):
                with crowd.driving(Drive(batches, _FOREVER, flight, per_client=flight)) as outcome:
                    found[flight] = percentile(_samples(router, seconds), 0.99)
                outcomes.append(outcome)
            name = f"fair share: p99 of a run beside a client with {_GREEDY} tasks {kind} in flight"
            yield Figure(name, found[_GREEDY] * MILLISECOND, "ms", floor=found[1] * MILLISECOND)
            yield Figure(f"{name}, to beside one with 1", found[_GREEDY] / found[1], "×", target=FAIR_RATIO)
    yield _error_figure("fair share", merged(outcomes), conditions)


def _connect(crowd: Crowd, more: int) -> int:
    """That many more clients; returns how many there are."""
    joined = crowd.join(more)
    if joined.problem:
        raise SystemExit(f"{more} clients cannot connect: {joined.problem}")
    return joined.clients


def _error_figure(name: str, outcome: Outcome, conditions: dict[str, str]) -> Figure:
    if outcome.first_refusal:
        conditions[f"first error of {name}"] = outcome.first_refusal
    return Figure(f"{name}, errors", outcome.errors, "", target=0)


def _kinds() -> list[tuple[str, list[Batch]]]:
    return [("the same", _small_runs()), ("of milliseconds", _large_runs())]


def _samples(router: Router, seconds: float) -> list[float]:
    small, samples = np.eye(_SMALL_SIDE), []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        router.run("linalg.gemm", a=small, b=small, tolerance=_SMALL_TOLERANCE)
        samples.append(time.perf_counter() - started)
    return samples[len(samples) // 10 :]  # the first warm up


def _large_kernel_seconds(router: Router) -> float:
    return router.run("options.monte_carlo_european", **_LARGE).timing.kernel_seconds


def _small_runs() -> list[Batch]:
    data = np.eye(_SMALL_SIDE).tobytes()
    ref = ArrayRef((_SMALL_SIDE, _SMALL_SIDE), "float64", data=data)
    run = Run("linalg.gemm", {"tolerance": _SMALL_TOLERANCE}, {"a": ref, "b": ref})
    return batches_of("run", [run], together=1, count=_BATCHES)


def _large_runs() -> list[Batch]:
    params: dict[str, Any] = dict(_LARGE)
    return batches_of("run", [Run("options.monte_carlo_european", params)], together=1, count=_BATCHES)


def _latency(name: str, samples: Sequence[float], floor: Sequence[float] | None = None) -> Iterator[Figure]:
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        least = None if floor is None else percentile(floor, share) * MILLISECOND
        yield Figure(f"{name}, {label}", percentile(samples, share) * MILLISECOND, "ms", floor=least)


if __name__ == "__main__":
    main()
