"""Pre-trade risk checks of orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Array, Arrays, Dims, Example, Namespace, Parameter, Params, Workload
from routerd.workloads.splitting import boundaries, merge_along

if TYPE_CHECKING:
    import numpy as np

PRICE_COLLAR, QUANTITY, NOTIONAL, POSITION, INSTRUMENT, MALFORMED = 1, 2, 4, 8, 16, 32
_ORDERS = ("instrument", "side", "price", "quantity")
# An excess over a limit that float64 cannot tell from decimals' rounding is none: 10.605 is within 5 % of 10.10.
_ROUNDING = 1e-12


def _pretrade(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    import numpy as np

    orders, step = arrays["price"].shape[0], namespace.block
    flags = np.empty(orders, dtype=np.int64)
    for start in range(0, orders, step):
        flags[start : start + step] = _own_flags(params, arrays, slice(start, start + step))
    _add_position_flags(arrays, flags)
    return {"flags": flags}


def _own_flags(params: Params, arrays: Arrays, rows: slice) -> Any:
    """What is wrong with each order alone, whatever the others are."""
    import numpy as np

    instrument, side, price, quantity = (arrays[name][rows] for name in _ORDERS)
    known = (instrument >= 0) & (instrument < arrays["reference_price"].shape[0])
    instrument = np.where(known, instrument, 0)
    reference = arrays["reference_price"][instrument]
    # NaN is in no interval.
    known &= (reference > 0.0) & (reference < np.inf)
    sound = (price > 0.0) & (price < np.inf) & (quantity > 0.0) & (quantity < np.inf) & (np.abs(side) == 1)
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(price - reference) > (params["price_collar"] + _ROUNDING) * reference
        large = quantity > _at_most(arrays["max_quantity"][instrument])
        costly = price * quantity > _at_most(arrays["max_notional"][instrument])
    flags = PRICE_COLLAR * away + QUANTITY * large + NOTIONAL * costly
    flags *= known & sound
    flags += INSTRUMENT * ~known + MALFORMED * ~sound
    return flags


def _add_position_flags(arrays: Arrays, flags: Any) -> None:
    """``POSITION`` where an order could break the limit once it and all sendable ones before it are filled.

    An instrument and a side share a number and the room that is left to them. Only where all of a batch is more than that
    does it matter in which order they come.
    """
    import numpy as np

    sendable = np.flatnonzero(flags == 0)
    keys = 2 * arrays["instrument"][sendable] + (arrays["side"][sendable] < 0)
    quantity, position = arrays["quantity"][sendable], arrays["position"]
    exposure = np.stack((arrays["open_buys"] + position, arrays["open_sells"] - position), axis=1)
    with np.errstate(over="ignore"):  # the largest number there is says that there is no limit
        room = (_at_most(arrays["position_limit"])[:, None] - exposure).ravel()
    crowded = np.bincount(keys, quantity, room.size) > room
    rows = np.flatnonzero(crowded[keys])
    if rows.size == 0:
        return
    rows = rows[_stable_order(keys[rows], room.size)]
    keys = keys[rows]
    flags[sendable[rows]] = POSITION * (_running_sums(quantity[rows], keys) > room[keys])


def _stable_order(keys: Any, count: int) -> Any:
    """The stable order of keys of 0…count−1, by 16 bits at a time, for which NumPy has a radix sort."""
    import numpy as np

    order = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(16, max(1, count - 1).bit_length(), 16):
        order = order[np.argsort((keys[order] >> shift).astype(np.uint16), kind="stable")]
    return order


def _running_sums(values: Any, keys: Any) -> Any:
    """Sums of ``values`` from the first of each run of equal keys; overwrites them.

    Each pass adds the sum of as many elements again, within the run alone: a huge one blurs no other's digits.
    Source: Hillis, Steele (1986), Data Parallel Algorithms.
    """
    import numpy as np

    bounds = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [keys.size]))
    lengths = bounds[1:] - bounds[:-1]
    place = np.arange(values.size) - np.repeat(bounds[:-1], lengths)
    reach, longest = 1, int(lengths.max())
    while reach < longest:
        values[reach:] += np.where(place[reach:] >= reach, values[:-reach], 0.0)
        reach *= 2
    return values


def _at_most(limit: Any) -> Any:
    return limit * (1.0 + _ROUNDING)


def _split(whole: Example, shares: Sequence[float]) -> list[Example]:
    """Ranges of orders. Those that an earlier part may send are working orders to a later one."""
    import numpy as np

    arrays = dict(whole.arrays)
    parts = []
    for start, stop in boundaries(arrays["price"].shape[0], shares):
        part = {**arrays, **{name: arrays[name][start:stop] for name in _ORDERS}}
        parts.append(Example(whole.params, part))
        sent = np.flatnonzero(_own_flags(whole.params, part, slice(None)) == 0)
        for name, sign in (("open_buys", 1), ("open_sells", -1)):
            mine = sent[part["side"][sent] == sign]
            quantity = np.bincount(part["instrument"][mine], part["quantity"][mine], arrays[name].shape[0])
            arrays[name] = arrays[name] + quantity
    return parts


def _checks(params: Params, dims: Dims) -> float:
    """What is read of an instrument costs about a quarter of an order."""
    return dims["M"] + 0.25 * dims["I"]


def _example(work: float, rng: np.random.Generator) -> Example:
    """Mostly sound orders; of a few in a hundred each check has something to say, and some instruments reach their limits."""
    import numpy as np

    orders = max(1, round(work))
    instruments = int(min(2_000, max(1, orders // 50)))
    reference = np.round(rng.uniform(5.0, 500.0, instruments), 2)
    reference[rng.random(instruments) < 0.01] = np.nan
    instrument = rng.integers(0, instruments, orders)
    price = np.round(np.nan_to_num(reference[instrument], nan=100.0) * rng.normal(1.0, 0.022, orders), 2)
    quantity = np.ceil(rng.lognormal(5.0, 1.0, orders))
    instrument[rng.random(orders) < 0.002] = instruments
    price[rng.random(orders) < 0.002] = np.nan
    traded = 150.0 * 1.65 * orders / instruments  # about the sum of an instrument's quantities
    return Example(
        {"price_collar": 0.05},
        {
            "instrument": instrument,
            "side": rng.choice((-1, 1), orders),
            "price": price,
            "quantity": quantity,
            "reference_price": reference,
            "max_quantity": np.full(instruments, 1_500.0),
            "max_notional": np.full(instruments, 250_000.0),
            "position": np.round(rng.normal(0.0, 0.1 * traded, instruments)),
            "open_buys": np.round(rng.uniform(0.0, 0.05 * traded, instruments)),
            "open_sells": np.round(rng.uniform(0.0, 0.05 * traded, instruments)),
            "position_limit": np.round(traded * rng.uniform(0.3, 1.5, instruments)),
        },
    )


def _table(name: str, unit: str, doc: str, **bounds: Any) -> Array:
    return Array(name=name, shape=("I",), unit=unit, doc=f"{doc}, of each instrument", accepts=("float64",), **bounds)


PRETRADE = Workload(
    name="execution.pretrade",
    summary="Checks a batch of orders against price collars, quantity, notional and position limits: flags for each order.",
    source="FIA (2015), Guide to the Development and Operation of Automated Trading Systems, pre-trade risk controls",
    engines=("Execution",),
    parameters=(
        Parameter(
            name="price_collar",
            type="float",
            unit="share of the reference price",
            default=0.05,
            minimum=0.0,
            maximum=100.0,
            doc="how far a price may be from its reference price, on either side",
        ),
    ),
    inputs=(
        Array(
            name="instrument",
            shape=("M",),
            dtype="int64",
            accepts=("int64", "int32"),
            doc="what each order trades: an index into the tables; any other number is flagged",
        ),
        Array(
            name="side",
            shape=("M",),
            dtype="int64",
            accepts=("int64", "int32"),
            doc="1 buys, −1 sells; any other number is flagged",
        ),
        Array(
            name="price",
            shape=("M",),
            unit="currency",
            accepts=("float64",),
            finite=False,
            doc="limit price; NaN, ±infinity and prices ≤ 0 are flagged",
        ),
        Array(
            name="quantity",
            shape=("M",),
            unit="units of the instrument",
            accepts=("float64",),
            finite=False,
            doc="how much is ordered; NaN, ±infinity and quantities ≤ 0 are flagged",
        ),
        _table(
            "reference_price",
            "currency",
            "centre of the price collar; NaN, infinity or ≤ 0 means that it must not be traded now",
            finite=False,
        ),
        _table("max_quantity", "units of the instrument", "largest quantity of one order", minimum=0.0),
        _table("max_notional", "currency", "largest price × quantity of one order", minimum=0.0),
        _table("position", "units of the instrument", "position held before the batch; negative is short"),
        _table("open_buys", "units of the instrument", "quantity of buy orders that are working already", minimum=0.0),
        _table(
            "open_sells", "units of the instrument", "quantity of sell orders that are working already", minimum=0.0
        ),
        _table("position_limit", "units of the instrument", "largest position, long or short", minimum=0.0),
    ),
    outputs=(
        Array(
            name="flags",
            shape=("M",),
            dtype="int64",
            unit="sum of bits",
            doc="0 passes. 1: |price − reference| > collar × reference. 2: quantity above its limit. 4: price × quantity above "
            "its limit. 8: position limit, if this order were filled together with the working ones and all earlier ones of the "
            "batch that trade the same instrument on the same side and have no flag but perhaps 8, and none of the other side. "
            "16: unknown instrument, or one without a reference price. 32: malformed price, quantity or side. "
            "What is exactly at its limit passes (to 1e-12 of it, as decimals round). An order with 16 or 32 has none of "
            "1, 2, 4; one with any other flag is not checked for 8",
        ),
    ),
    kernel=_pretrade,
    work=_checks,
    work_unit="orders (an instrument counts a quarter)",
    example=_example,
    work_range=(1.0, 1e6),
    tolerance=1e-9,
    batch_dim="M",
    cpu_only=True,
    split=_split,
    merge=merge_along({"flags": 0}),
)
