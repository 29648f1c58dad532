"""What joining requests gains: one sample at a time through a large network, from many clients at once and from one.

Two daemons, one with ``batching`` and one without, are asked in turn by the same clients.

``python -m benchmarks.batching [--quick] [--awake] [--json FILE] [--markdown] [--update FILE]``
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks._harness import MILLISECOND, Options, PrivateDaemon, over_blocks, quiet_machine
from benchmarks._report import Figure, publish
from routerd import aio
from routerd.aio import AsyncRouter
from routerd.costs.batching import MOST_DELAY_SECONDS

CLIENTS, GAIN = 64, 5.0

_WIDTHS = (1024, 1024, 512, 1)
_PROCESSES = 2
_WORKLOAD = "ml.mlp_inference"
_SAYS = {True: "batching", False: "no batching"}


def main() -> None:
    options = Options(str(__doc__))
    blocks, seconds = (1, 0.5) if options.quick else (5, 3.0)
    with contextlib.ExitStack() as stack:
        daemons = {on: stack.enter_context(PrivateDaemon(batching=str(on).lower())) for on in (True, False)}
        for daemon in daemons.values():
            daemon.start()
            daemon.calibrate(_WORKLOAD)
        many, one = {}, {}
        for on, daemon in daemons.items():
            many[on] = stack.enter_context(_clients(daemon.socket, [CLIENTS // _PROCESSES] * _PROCESSES))
            one[on] = stack.enter_context(_clients(daemon.socket, [1]))
        with quiet_machine(options) as conditions:
            together = _interleaved(many, blocks, seconds)
            alone = _interleaved(one, blocks, seconds)
    conditions["network"] = " → ".join(map(str, _WIDTHS)) + ", constants of every client's own, one row a request"
    conditions["blocks"] = f"{blocks} of {seconds:g} s"
    publish("batching", [*_figures(together, alone)], conditions, options)


@dataclass(frozen=True)
class _Block:
    """The seconds of every request, and those from the first to the last answer."""

    samples: list[float]
    seconds: float


_Blocks = Mapping[bool, Sequence[_Block]]


def _interleaved(pipes: Mapping[bool, Sequence[Pipe]], blocks: int, seconds: float) -> _Blocks:
    """Blocks with and without batching in turn; the first of each only warms up."""
    found: dict[bool, list[_Block]] = {True: [], False: []}
    for number in range(blocks + 1):
        for on in (True, False) if number % 2 else (False, True):
            for pipe in pipes[on]:
                pipe.send(seconds)
            parts = [pipe.recv() for pipe in pipes[on]]
            if number > 0:
                samples = [sample for part in parts for sample in part.samples]
                found[on].append(_Block(samples, max(part.seconds for part in parts)))
    return found


def _figures(together: _Blocks, alone: _Blocks) -> Iterator[Figure]:
    rates = {on: median(len(block.samples) / block.seconds for block in blocks) for on, blocks in together.items()}
    yield Figure(f"{CLIENTS} clients, gain by batching", rates[True] / rates[False], "×", GAIN, at_least=True)
    for on, name in _SAYS.items():
        yield Figure(f"{CLIENTS} clients, {name}", rates[on], "/s", at_least=True, floor=rates[False] if on else None)
    for clients, found in ((f"{CLIENTS} clients", together), ("1 client", alone)):
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            least, joined = _milliseconds(found[False], share), _milliseconds(found[True], share)
            yield Figure(f"{clients}, batching, {label}", joined, "ms", floor=least)
            yield Figure(f"{clients}, no batching, {label}", least, "ms")
    later = _milliseconds(alone[True], 0.5) - _milliseconds(alone[False], 0.5)
    yield Figure("1 client, p50 later by batching", later, "ms", target=MOST_DELAY_SECONDS * MILLISECOND)


def _milliseconds(blocks: Sequence[_Block], share: float) -> float:
    return over_blocks([block.samples for block in blocks], share) * MILLISECOND


# -- the clients' processes ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _clients(path: Path, counts: Sequence[int]) -> Iterator[list[Pipe]]:
    """A process for each count, with so many connected clients. It is sent seconds and answers with samples."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for count in counts:
        mine, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=_process, args=(theirs, str(path), count), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(mine)
    try:
        for pipe in pipes:
            pipe.recv()  # all are connected, and the first answer was right
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join(10.0)
            process.kill()


def _process(pipe: Pipe, path: str, count: int) -> None:
    with contextlib.suppress(EOFError):
        asyncio.run(_serve(pipe, path, count))


async def _serve(pipe: Pipe, path: str, count: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        routers = [
            await stack.enter_async_context(aio.connect(path, name="engine", timeout=60.0, table=False))
            for _ in range(count)
        ]
        weights = _weights()
        shared = [{name: await router.constant(array) for name, array in weights.items()} for router in routers]
        await _check(routers[0], shared[0], weights)
        pipe.send("ready")
        while True:
            seconds = pipe.recv()
            started = time.perf_counter()
            end = started + seconds
            pairs = zip(routers, shared, strict=True)
            found = await asyncio.gather(*(_ask_until(end, router, constants) for router, constants in pairs))
            elapsed = time.perf_counter() - started
            pipe.send(_Block([sample for samples in found for sample in samples], elapsed))


async def _ask_until(end: float, router: AsyncRouter, constants: Mapping[str, Any]) -> list[float]:
    """Ask about one row after the other; the seconds of each."""
    row, clock, samples = np.random.default_rng().standard_normal((1, _WIDTHS[0])), time.perf_counter, []
    while (started := clock()) < end:
        await router.run(_WORKLOAD, x=row, **constants)
        samples.append(clock() - started)
    return samples


async def _check(router: AsyncRouter, constants: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Raises ``SystemExit`` unless the daemon computes what numpy does."""
    row = np.random.default_rng(1).standard_normal((1, _WIDTHS[0]))
    found = await router.run(_WORKLOAD, x=row, **constants)
    expected = row
    for layer in (1, 2, 3):
        expected = expected @ weights[f"w{layer}"] + weights[f"b{layer}"]
        expected = expected if layer == 3 else np.maximum(expected, 0.0)
    if not np.allclose(found["y"], expected, rtol=1e-3, atol=1e-3):
        raise SystemExit(f"the network's output is {found['y']}, not {expected}")


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    """He's initialisation, the same in every process."""
    source, arrays = np.random.default_rng(0), {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(_WIDTHS), start=1):
        arrays[f"w{layer}"] = source.standard_normal((fan_in, fan_out)) * np.sqrt(2.0 / fan_in)
        arrays[f"b{layer}"] = 0.1 * source.standard_normal(fan_out)
    return arrays


if __name__ == "__main__":
    main()
