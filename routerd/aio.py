"""The client library for asyncio: ``from routerd.aio import connect``."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from routerd.client.asynchronous import AsyncRouter, connect
from routerd.client.result import TaskResult
from routerd.errors import DaemonUnreachable

__all__ = ["AsyncRouter", "connect", "price_option_metal"]

_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRouter] = WeakKeyDictionary()


async def price_option_metal(
    *, spot_price: float, strike_price: float, volatility: float, num_simulations: int
) -> TaskResult:
    """Price a European call (one year, rate 0.05) by Monte Carlo; ``result["price"]``, ``result["standard_error"]``.

    The name says Metal; the daemon places it on the hardware that is fastest here. Calls in one event loop share a
    connection, which is made again if the daemon was restarted. Raises ``DaemonUnreachable``.
    """
    loop = asyncio.get_running_loop()
    router = _shared.get(loop)
    if router is None or not router.is_open:
        router = _shared[loop] = await connect()
    try:
        return await router.price_option_metal(
            spot_price=spot_price,
            strike_price=strike_price,
            volatility=volatility,
            num_simulations=num_simulations,
        )
    except DaemonUnreachable:  # pricing is pure: asking the next daemon is safe
        router = _shared[loop] = await connect()
        return await router.price_option_metal(
            spot_price=spot_price,
            strike_price=strike_price,
            volatility=volatility,
            num_simulations=num_simulations,
        )
