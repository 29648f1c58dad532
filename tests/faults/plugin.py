"""A third party's plugin whose backend does what the first number of its input orders, and is honest otherwise.

Examples of proofs and timings never carry an order, so the backend is proved and then misbehaves under load.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec, Execution, HostArrays, Params, Workload
from routerd.testing import NullBackend, null_backend_spec

#: What the backend can be ordered to do, by the number that orders it; small and above zero, as prices and returns may be.
ORDERS = {
    "raise": 0.0666001,
    "exit": 0.0666002,
    "segfault": 0.0666003,
    "stop": 0.0666004,
    "never": 0.0666005,
    "late": 0.0666006,
    "shape": 0.0666007,
    "dtype": 0.0666008,
    "missing": 0.0666009,
    "surplus": 0.0666010,
    "nan": 0.0666011,
    "bomb": 0.0666012,
}
LATE_SECONDS = 0.3
BOMB_BYTES = 3 << 30  #: it stops there by itself, so that a machine outlives a daemon that lets it
_CHUNK_BYTES = 64 << 20
_WORDS = {number: order for order, number in ORDERS.items()}


class Fickle(NullBackend):
    """Runs the contract's kernel unless it is ordered otherwise."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        first = float(next(iter(inputs.values())).flat[0]) if inputs else 0.0
        order = _WORDS.get(first, "")
        _before(order)
        execution = super().execute(workload, params, inputs, into)
        return execution._replace(outputs=_spoilt(order, execution.outputs))


def _before(order: str) -> None:
    if order == "raise":
        raise RuntimeError("the fickle backend was ordered to fail")
    if order == "exit":
        os._exit(70)
    if order == "segfault":
        ctypes.string_at(0)
    if order == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if order == "never":
        threading.Event().wait()
    if order == "late":
        time.sleep(LATE_SECONDS)
    if order == "bomb":
        _take_memory()


def _take_memory() -> None:
    import numpy as np

    held = []
    while len(held) * _CHUNK_BYTES < BOMB_BYTES:
        held.append(np.ones(_CHUNK_BYTES // 8))
        time.sleep(0.005)


def _spoilt(order: str, outputs: HostArrays) -> dict[str, object]:
    import numpy as np

    spoilt = dict(outputs)
    name = next(iter(spoilt))
    if order == "shape":
        spoilt = {one: np.append(np.ravel(array), 1.0) for one, array in spoilt.items()}
    elif order == "dtype":
        spoilt = {one: np.asarray(array).astype("float32") for one, array in spoilt.items()}
    elif order == "missing":
        del spoilt[name]
    elif order == "surplus":
        spoilt["ghost"] = np.ones(3)
    elif order == "nan":
        spoilt = {one: np.full_like(array, np.nan) for one, array in spoilt.items()}
    return spoilt


@hookimpl
def routerd_backends(settings: object) -> list[BackendSpec]:
    """``fickle.one`` obeys orders; ``steady.one`` does not. Each has a worker of its own."""
    return [
        BackendSpec(
            name="fickle.one",
            device_kind="hybrid",
            precision="float64",
            factory="fickle_backends:Fickle",
            group="fickle",
            options={"device_kind": "hybrid"},
        ),
        null_backend_spec("steady.one", "cluster"),
    ]
