"""What to send to the clients of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.splitting import boundaries
from routerd.workloads.ticks import popular

if TYPE_CHECKING:
    import numpy as np


def _conflate_fanout(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Each symbol's newest message gets a rank in the order of sending; then one sort of (client, rank) is every list.

    A pair is one integer, client·ranks + rank, and what is not to be sent is beyond all of them. Only the lists, whose
    lengths no device but the host can tell, are cut there.
    """
    import numpy as np

    xp, clients = namespace.xp, params["clients"]
    newest, position = _newest(namespace, params["symbols"], arrays["symbol"], arrays["sequence"])
    sent = np.flatnonzero(position >= 0)
    sent = sent[np.lexsort((position[sent], newest[sent]))]
    ranks = sent.shape[0]
    rank_of = np.full(params["symbols"], ranks)
    rank_of[sent] = np.arange(ranks)
    rank = xp.take(namespace.from_host(rank_of), arrays["subscribed"], axis=0)
    pair = xp.astype(arrays["subscriber"], namespace.integer) * ranks + rank
    beyond = namespace.from_host(np.asarray(clients * ranks))
    pairs = namespace.to_host(xp.sort(xp.where(rank < ranks, pair, beyond)))
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    firsts = np.arange(clients + 1) * ranks
    offsets = np.searchsorted(pairs, firsts)
    own_rank = pairs[: offsets[-1]] - np.repeat(firsts[:-1], np.diff(offsets))
    return {
        "client_offsets": namespace.from_host(offsets),
        "message_index": namespace.from_host(position[sent[own_rank]]),
    }


def _newest(namespace: Namespace, symbols: int, symbol: Any, sequence: Any) -> tuple[Any, Any]:
    """The greatest sequence number of each symbol and the last message that has it: host arrays, −1 without a message."""
    xp = namespace.xp
    symbol, sequence = xp.astype(symbol, namespace.integer), xp.astype(sequence, namespace.integer)
    newest = namespace.max_by(sequence, symbol, symbols)
    position = namespace.arange(0, sequence.shape[0])
    # Among messages that are not the newest the first may be named too: it is never greater than the one that is.
    position = xp.where(sequence == xp.take(newest, symbol, axis=0), position, xp.zeros_like(position))
    return namespace.to_host(newest), namespace.to_host(namespace.max_by(position, symbol, symbols))


def _check_ids(params: Params, arrays: HostArrays) -> None:
    for name, limit in (("symbol", "symbols"), ("subscribed", "symbols"), ("subscriber", "clients")):
        ids = arrays[name]
        place = int(ids.argmax())
        if ids[place] >= params[limit]:
            raise InvalidArray(
                f"websocket.conflate_fanout: {name}[{place}] is {ids[place]}, with {params[limit]} {limit} it must be below "
                f"{params[limit]}; raise {limit} or correct the id",
                array=name,
            )


def _steps(params: Params, dims: Dims) -> float:
    """A subscription is sorted, a message is only compared; the rest is counting."""
    return float(dims["P"] + 0.8 * dims["M"] + 0.4 * params["clients"] + 0.2 * params["symbols"])


def _example(work: float, rng: np.random.Generator) -> Example:
    """Clients with fifty subscriptions each, popular symbols asked for and traded most, and messages out of order."""
    pairs, messages = max(1, round(0.6 * work)), max(1, round(0.45 * work))
    clients, symbols = max(1, pairs // 50), max(2, round(0.03 * work))
    return Example(
        {"clients": clients, "symbols": symbols},
        {
            "symbol": popular(rng, messages, symbols),
            "sequence": rng.integers(0, messages, messages),
            "subscriber": rng.integers(0, clients, pairs),
            "subscribed": popular(rng, pairs, symbols),
        },
    )


def _split(whole: Example, shares: Sequence[float]) -> list[Example]:
    """Parts that hold all subscriptions of some consecutive clients each, and every message."""
    import numpy as np

    subscriber = whole.arrays["subscriber"]
    ends = np.cumsum(np.bincount(subscriber, minlength=int(whole.params["clients"])))
    parts, first = [], 0
    for _, stop in boundaries(subscriber.shape[0], shares):
        last = int(np.searchsorted(ends, stop))
        if last < first:
            continue
        mine = (subscriber >= first) & (subscriber <= last)
        first = last + 1
        own = {name: whole.arrays[name][mine] for name in ("subscriber", "subscribed")}
        parts.append(Example(whole.params, {**whole.arrays, **own}))
    return parts


def _merge(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    """A part's lists are empty but for its own clients, so the offsets of the whole are the sums of theirs."""
    import numpy as np

    del whole
    return {
        "client_offsets": np.sum([part["client_offsets"] for part in parts], axis=0),
        "message_index": np.concatenate([part["message_index"] for part in parts]),
    }


def _count(name: str, doc: str) -> Parameter:
    return Parameter(name=name, type="int", unit=name, minimum=1, maximum=10_000_000, doc=doc)


def _ids(name: str, dim: str, doc: str) -> Array:
    return Array(name=name, shape=(dim,), dtype="int64", accepts=("int64", "int32"), minimum=0.0, doc=doc)


CONFLATE_FANOUT = Workload(
    name="websocket.conflate_fanout",
    summary="The newest message of each symbol to every client that subscribes to it, a list for each client.",
    source="by definition: the subscriptions joined with the last row of each symbol (in SQL:2003, ROW_NUMBER() = 1 by "
    "descending sequence), ordered by sequence",
    engines=("WebSocket",),
    parameters=(
        _count("clients", "clients there are, with subscriptions or without; their ids are 0…clients−1"),
        _count("symbols", "symbols there are, with messages or without; their ids are 0…symbols−1"),
    ),
    inputs=(
        _ids("symbol", "M", "id of the symbol of each message"),
        _ids(
            "sequence",
            "M",
            "sequence number of each message: the greatest of a symbol is its newest; of equal ones the last",
        ),
        _ids("subscriber", "P", "id of the client of each subscription, in any order"),
        _ids("subscribed", "P", "id of the symbol of each subscription; one that is repeated counts once"),
    ),
    outputs=(
        Array(
            name="client_offsets",
            shape=("clients + 1",),
            dtype="int64",
            doc="client c is sent message_index[client_offsets[c] : client_offsets[c + 1]]",
        ),
        Array(
            name="message_index",
            shape=("K",),
            dtype="int64",
            doc="positions of the messages to send, client after client, each client's in order of sequence number (of equal "
            "ones by position); symbols without a message are left out",
        ),
    ),
    kernel=_conflate_fanout,
    work=_steps,
    work_unit="subscriptions (a message counts 0.8, a client 0.4, a symbol 0.2)",
    example=_example,
    work_range=(1e2, 5e6),
    tolerance=1e-12,
    check=_check_ids,
    needs=frozenset({"scatter", "sort"}),
    split=_split,
    merge=_merge,
)

WORKLOADS = (CONFLATE_FANOUT,)
