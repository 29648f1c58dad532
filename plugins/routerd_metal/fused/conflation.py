"""``websocket.conflate_fanout`` in three dispatches: newest messages, clients' lists, and the order of each list.

The shaders (``shaders/conflation.metal``) hold 32-bit numbers. Sequence numbers count from the least of the task, and a
task whose sequence numbers span 2³² or more, such as times in nanoseconds over more than four seconds, is not covered;
nor is one with 2³² messages or subscriptions. A list is ordered by counting, for each of its elements, those before it:
n² comparisons of a list of n. Where lists are so long that this is more than ``_MOST_COMPARISONS`` for each
subscription, the task is not covered either: the sort of the workload's own kernel is better then. The result is exact.

Between the dispatches the host does what is small and what no 32-bit atomic can: it ranks the newest messages, one for
each symbol, and adds up the lengths of the lists. After the last it leaves out what is repeated and what has no
message.

What there is to gain, by counting: a dispatch takes at least 0.1 ms with MLX and 0.36 ms with torch, so three take 0.3
or 1.1 ms, and a task that a processor does in less cannot gain. It also copies 16 bytes for each message and 44 for
each subscription to the device and back: 170 MB for three million subscriptions to two million messages, 3.4 ms at 50
GB/s. The lists, at fifty subscriptions a client, are 150 million comparisons. The contract took 0.66 s for a task of
that size, 0.04 s of it for its sort (NumPy on a busy two-core Xeon, November 2026). So a gain is possible from some ten
thousand subscriptions on, and below that there is none. (Published figures, other people's measurements and an assumed
bandwidth of the host; this code was not measured on a Mac.) The router measures it and decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routerd.interfaces import HostArrays, Params
from routerd_metal.fused.interface import Fused
from routerd_metal.launching import SHADERS, Buffer, Launcher, Shader

if TYPE_CHECKING:
    import numpy as np

    Host = np.ndarray[Any, Any]

_FILE = SHADERS / "conflation.metal"


def _buffers(*names: str) -> tuple[Buffer, ...]:
    return tuple(Buffer(name, "uint32") for name in names)


ORDERS_SHADER = Shader(
    _FILE,
    "conflate_orders",
    _buffers("symbol", "order", "subscriber", "sizes"),
    _buffers("newest", "lengths", "number"),
    zeroed=True,
)
POSITIONS_SHADER = Shader(
    _FILE,
    "conflate_positions",
    _buffers("symbol", "order", "newest", "subscriber", "subscribed", "number", "starts", "sizes"),
    _buffers("position", "listed"),
    zeroed=True,
)
LISTS_SHADER = Shader(
    _FILE,
    "conflate_lists",
    _buffers("subscriber", "subscribed", "number", "starts", "listed", "rank"),
    _buffers("sorted"),
)

_GROUP = 256
_LIMIT = 2**32
#: Comparisons for each subscription, on average, up to which lists are ordered by counting.
_MOST_COMPARISONS = 4096


def _conflate(launcher: Launcher, params: Params, inputs: HostArrays) -> dict[str, Any] | None:
    import numpy as np

    clients, symbols = int(params["clients"]), int(params["symbols"])
    messages, subscriptions = inputs["symbol"].size, inputs["subscriber"].size
    sequence = np.asarray(inputs["sequence"], dtype=np.int64)
    least = int(sequence.min())
    if int(sequence.max()) - least >= _LIMIT or max(messages, subscriptions) >= _LIMIT:
        return None
    threads = max(messages, subscriptions)
    told = {name: inputs[name].astype(np.uint32) for name in ("symbol", "subscriber", "subscribed")}
    told["order"] = (sequence - least).astype(np.uint32)
    told["sizes"] = np.array([messages, subscriptions], dtype=np.uint32)
    told |= launcher.launch(
        ORDERS_SHADER,
        told,
        {"newest": (symbols,), "lengths": (clients,), "number": (subscriptions,)},
        threads=threads,
        group=_GROUP,
    )
    lengths = told["lengths"].astype(np.float64)
    if lengths @ lengths > _MOST_COMPARISONS * subscriptions:
        return None
    starts = np.concatenate(([0], np.cumsum(told["lengths"], dtype=np.int64)))
    told["starts"] = starts.astype(np.uint32)
    told |= launcher.launch(
        POSITIONS_SHADER, told, {"position": (symbols,), "listed": (subscriptions,)}, threads=threads, group=_GROUP
    )
    position = told["position"].astype(np.int64) - 1
    sent = np.flatnonzero(position >= 0)
    sent = sent[np.lexsort((position[sent], told["newest"][sent]))]
    told["rank"] = np.full(symbols, sent.size, dtype=np.uint32)
    told["rank"][sent] = np.arange(sent.size, dtype=np.uint32)
    launched = launcher.launch(LISTS_SHADER, told, {"sorted": (subscriptions,)}, threads=subscriptions, group=_GROUP)
    ranks = launched["sorted"]
    kept = _first_of_each(ranks, starts) & (ranks < sent.size)
    return {
        "client_offsets": np.concatenate(([0], np.cumsum(kept)))[starts],
        "message_index": position[sent[ranks[kept]]],
    }


def _first_of_each(ranks: Host, starts: Host) -> Host:
    """Where in the sorted lists that lie one after another a rank is not the one before it, or begins a list."""
    import numpy as np

    first = np.empty(ranks.size, dtype=np.bool_)
    first[1:] = ranks[1:] != ranks[:-1]
    first[starts[:-1][starts[:-1] < ranks.size]] = True
    return first


CONFLATION = Fused(flag="GPU_MESSAGEBUS", run=_conflate)
