"""What the methods of tasks leave behind."""

from __future__ import annotations

import asyncio
import gc
import weakref

import msgspec

from routerd.methods import _Work
from routerd.protocol import Run, encode


class _NeverDone:
    """A router whose tasks run until they are cancelled."""

    async def run(self, _ask, _session):
        await asyncio.Event().wait()


def test_a_cancelled_task_is_gone_without_a_collection(session):
    """Reference cycles would wait for the next full collection, and the daemon's memory would rise and fall by them."""
    work = _Work(_NeverDone(), None)
    request = msgspec.Raw(encode(Run("linalg.gemm", {}, {}, task_id="once")))

    async def main():
        task = asyncio.create_task(work.run(session, request))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})  # like the server, which hears that it has ended and takes nothing out of it
        return weakref.ref(task)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()
