"""The faults, each a function that does one to a world under load and says what it did."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import psutil

from tests.faults.tasks import WORKLOADS
from tests.faults.watch import Fault
from tests.processes import Wire

if TYPE_CHECKING:
    from tests.faults.storm import World

#: Does its fault once; ``None`` where there was nobody to do it to at this moment.
Injector: TypeAlias = "Callable[[World], Fault | None]"

_GEMM, _OPTION = WORKLOADS[1], WORKLOADS[0]
_PRICE = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2}


# -- workers ----------------------------------------------------------------------------------------------------------


def signal_worker(world: World, *, number: signal.Signals, window_seconds: float = 0.75) -> Fault | None:
    """Send a signal to a random worker that the daemon calls up: ``SIGKILL``, ``SIGSEGV``, or ``SIGSTOP`` for a hang.

    The last one whose backend is ready is spared, so that there is always somebody who can finish the work.
    """
    sample = world.watch.latest
    if sample is None or sample.daemon != world.daemon.pid:
        return None
    up = sorted((name, pid) for name, (pid, state) in sample.workers.items() if pid and state == "up")
    if len(up) < 2 or sum(state == "ready" for state in sample.backends.values()) < 2:
        return None
    name, pid = world.rng.choice(up)
    begin = time.monotonic()
    try:
        if psutil.Process(pid).ppid() != world.daemon.pid:
            return None
        os.kill(pid, number)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None
    return Fault(number.name, begin, time.monotonic(), pid, window_seconds, worker=name)


kill_worker = partial(signal_worker, number=signal.SIGKILL)
segfault_worker = partial(signal_worker, number=signal.SIGSEGV)
stop_worker = partial(signal_worker, number=signal.SIGSTOP)


# -- the daemon -------------------------------------------------------------------------------------------------------


def restart_daemon(world: World, *, number: signal.Signals) -> Fault:
    """End the daemon, at once (``SIGKILL``) or in order (``SIGTERM``), and start the next one, as a service manager does."""
    begin = time.monotonic()
    pid = world.daemon.pid
    code = world.daemon.stop(number)
    world.former_pids.add(pid)
    if number == signal.SIGTERM and code != 0:
        world.problems.append(f"the daemon ended with {code} after SIGTERM: {world.daemon.log.read_text()[-2000:]}")
    world.daemon.start()
    world.wait_served()
    return Fault(f"{number.name} of the daemon", begin, time.monotonic())


kill_daemon = partial(restart_daemon, number=signal.SIGKILL)
terminate_daemon = partial(restart_daemon, number=signal.SIGTERM)


# -- clients ----------------------------------------------------------------------------------------------------------


def kill_client(world: World) -> Fault:
    """SIGKILL a random client process wherever it is: sending, waiting, receiving, or with results in its hands."""
    begin = time.monotonic()
    client = world.rng.choice(world.clients)
    client.kill()
    world.replace(client)
    return Fault("SIGKILL of a client", begin, time.monotonic(), detail=client.name)


def half_frame(world: World) -> Fault | None:
    """A client that vanishes in the middle of a request."""

    def vanish(wire: Wire) -> None:
        body = world.rng.randbytes(world.rng.randint(1, 5000))
        wire.send((len(body) + world.rng.randint(1, 5000)).to_bytes(4, "little") + body)

    return _with_wire(world, "half a frame", vanish)


def unread_replies(world: World) -> Fault | None:
    """A client that asks much and closes its socket with the replies unread."""

    def ask(wire: Wire) -> None:
        for _ in range(world.rng.randint(1, 60)):
            wire.request("run", {"workload": _OPTION, "params": {**_PRICE, "num_simulations": 500}})
            wire.request("status")
        time.sleep(world.rng.uniform(0.0, 0.05))

    return _with_wire(world, "replies unread", ask)


def held_segments(world: World) -> Fault | None:
    """A client that vanishes with segments of its own, filled or not, and with tasks on them under way."""

    def hold(wire: Wire) -> None:
        side, rng = 300, world.rng
        size = side * side * 8
        segments = [wire.ask("alloc", {"size": size})["result"]["segment"] for _ in range(rng.randint(1, 6))]
        arrays = [{"shape": (side, side), "dtype": "float64", "segment": segment} for segment in segments]
        asked = [array for array in arrays for _ in range(rng.randint(0, 3))]
        for array in asked:
            wire.request("run", {"workload": _GEMM, "arrays": {"a": array, "b": array}})
        for _ in range(rng.randint(0, len(asked))):
            wire.reply()

    return _with_wire(world, "segments held", hold)


def leave_work(world: World) -> Fault | None:
    """A client that asks for long work and is gone before it is done."""

    def ask(wire: Wire) -> None:
        for _ in range(world.rng.randint(1, 3)):
            wire.request("run", {"workload": _OPTION, "params": {**_PRICE, "num_simulations": 1_000_000}})
        time.sleep(world.rng.uniform(0.0, 0.02))

    return _with_wire(world, "work left", ask)


def _with_wire(world: World, name: str, act: Callable[[Wire], None]) -> Fault | None:
    begin = time.monotonic()
    try:
        wire = Wire(world.daemon.socket)
    except OSError:
        return None
    try:
        with contextlib.suppress(OSError):  # the daemon may hang up on such a client
            act(wire.hello(world.rng.choice(["load-vanishing", "fickle-vanishing"])))
    finally:
        world.uncounted += wire.next_number
        wire.close()
    return Fault(name, begin, time.monotonic())
