"""Waiting for proof and calibration, with a second connection that watches how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from routerd.aio import AsyncRouter, connect

_POLL_SECONDS = 0.1


async def calibrate(socket: Path, workloads: Sequence[str], console: Console) -> int:
    """Return once every pair of these workloads and a backend is proved and timed; how many there were to do."""
    names = {"workloads": list(workloads)}
    async with await connect(socket, name="demo") as working, await connect(socket, name="demo-watch") as watching:
        calibration = asyncio.ensure_future(working.call("calibrate", names))
        try:
            done = await _watch(watching, names, calibration, console)
            await calibration
        finally:
            calibration.cancel()
    return done


async def _watch(
    router: AsyncRouter, names: dict[str, list[str]], calibration: asyncio.Future[object], console: Console
) -> int:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    most = 0
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("starting", total=None)
        while not calibration.done():
            pending = await router.call("calibrate.pending", names)
            pairs = pending["pairs"]
            most = max(most, len(pairs))
            if pending["starting"]:
                words = f"starting {', '.join(pending['starting'])}"
            elif pairs:
                words = f"proving and timing {pairs[0]['workload']} on {pairs[0]['backend']}"
            else:
                words = "ready"
            progress.update(bar, description=words, completed=most - len(pairs), total=most or None)
            await asyncio.wait({calibration}, timeout=_POLL_SECONDS)
    return most
