"""The client library for asyncio: ``from routerd.aio import connect``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from routerd.client.asynchronous import AsyncRouter, connect
from routerd.client.result import TaskResult

__all__ = ["AsyncRouter", "connect", "price_option_metal"]


class _Shared(NamedTuple):
    """The connection of an event loop, or the attempt to make it; ``lifetime`` keeps it open."""

    connecting: asyncio.Task[AsyncRouter]
    lifetime: AsyncGenerator[AsyncRouter, None]


_shared: dict[asyncio.AbstractEventLoop, _Shared] = {}


async def price_option_metal(
    *, spot_price: float, strike_price: float, volatility: float, num_simulations: int
) -> TaskResult:
    """Price a European call (one year, rate 0.05) by Monte Carlo; ``result["price"]``, ``result["standard_error"]``.

    The name says Metal; the daemon places it on the hardware that is fastest here. Calls in one event loop share a
    connection. Raises ``DaemonUnreachable``.
    """
    router = await _router()
    return await router.price_option_metal(
        spot_price=spot_price, strike_price=strike_price, volatility=volatility, num_simulations=num_simulations
    )


async def _router() -> AsyncRouter:
    """The connection of this event loop, made by the first call that needs it while the others wait for the same one."""
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None or _is_spent(shared.connecting):
        for other in [other for other in _shared if other.is_closed()]:
            del _shared[other]
        lifetime = _lifetime()
        shared = _shared[loop] = _Shared(loop.create_task(_first(lifetime)), lifetime)
    return await asyncio.shield(shared.connecting)


async def _lifetime() -> AsyncGenerator[AsyncRouter, None]:
    """A connection that ends with its event loop: ``asyncio.run`` closes the generators that it leaves behind."""
    async with await connect() as router:
        yield router


async def _first(lifetime: AsyncGenerator[AsyncRouter, None]) -> AsyncRouter:
    return await anext(lifetime)


def _is_spent(connecting: asyncio.Task[AsyncRouter]) -> bool:
    """Whether it failed, or gave a connection that has ended."""
    if not connecting.done():
        return False
    return connecting.cancelled() or connecting.exception() is not None or not connecting.result().is_open
