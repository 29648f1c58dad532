"""What can happen to a task on its way, for tests over stand-in workers."""

from __future__ import annotations

import asyncio

from routerd.errors import WorkerCrashed
from routerd.protocol import Ask
from routerd.worker.dispatcher import Displaced

OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 10_000_000}
MONTE_CARLO = Ask("options.monte_carlo_european", OPTION)
ONLY_GPU = "constraints: [{id: gpu, allow: [metal_gpu]}]\n"


def with_deadline(milliseconds):
    return Ask(MONTE_CARLO.workload, {**OPTION, "deadline_ms": milliseconds})


def run(router, session, ask=MONTE_CARLO):
    return asyncio.run(router.run(ask, session))


async def until(condition):
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0)


def crash(name="metal_gpu/main", kind=WorkerCrashed):
    """What a job raises whose worker ended while it ran."""
    return kind(f"worker {name} was ended by SIGSEGV", worker=name)


def displaced(name="metal_gpu/main"):
    """What a job raises whose worker ended before it had begun."""
    return Displaced(f"worker {name} was ended by SIGSEGV before it had started the task", worker_ended=name)


async def forever(_job):
    """The outcome of a task that never ends."""
    await asyncio.Event().wait()


def ending(fleet, backend, problem):
    """The outcome of a task that takes the worker of a backend down, as the fleet then sees it."""

    async def end(_job):
        backend.worker.up = False
        fleet._down(backend.worker, "worker was ended by SIGSEGV")
        raise problem

    return end


def back(fleet, backend):
    """The worker of a backend has started again."""
    backend.worker.up = True
    backend.worker.incarnation += 1
    backend.state, backend.reason = "ready", ""
    fleet.note_move()
