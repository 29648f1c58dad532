"""A request that is taken back, however far it has come, leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from routerd import quarantine
from routerd.protocol import Ask
from routerd.types import ArrayRef
from tests.unit.mishaps import ONLY_GPU, crash, ending, forever, until


@pytest.fixture
def gpu(fleet):
    return fleet.backends["metal.mlx"]


class TestCancelling:
    def ask(self, session):
        segment = session.alloc(1 << 16)
        ref = ArrayRef((64, 64), "float64", segment.info.segment)
        return segment, Ask("linalg.gemm", {}, {"a": ref, "b": ref})

    def is_let_go(self, session, segment):
        session.free([segment.info.segment])
        return segment.release()

    @pytest.mark.parametrize("turns", range(12))
    def test_at_every_turn_of_the_loop(self, make_router, session, fleet, turns):
        """Through a crash on one backend, a wait for the digest, and a run on another."""
        segment, ask = self.ask(session)
        router = make_router()
        first = fleet.backends[router.plan(ask, session).decision.backend]
        for backend in fleet.backends.values():
            backend.worker.outcome = ending(fleet, first, crash()) if backend is first else forever

        async def main():
            task = asyncio.create_task(router.run(ask, session))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert self.is_let_go(session, segment)
        assert (router.executed, router.failed) == (0, 0)

    def test_while_a_kernel_runs(self, make_router, session, fleet):
        segment, ask = self.ask(session)
        for backend in fleet.backends.values():
            backend.worker.outcome = forever
        router = make_router()

        async def main():
            task = asyncio.create_task(router.run(ask, session))
            await until(lambda: any(backend.worker.made for backend in fleet.backends.values()))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert self.is_let_go(session, segment)

    def test_while_it_waits_for_a_worker(self, make_router, session, fleet, gpu):
        segment, ask = self.ask(session)
        gpu.worker.script = [ending(fleet, gpu, crash())]
        router = make_router(ONLY_GPU)

        async def main():
            task = asyncio.create_task(router.run(ask, session))
            await until(lambda: gpu.state == "down")
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert self.is_let_go(session, segment)

    def test_while_its_content_is_read(self, make_router, session, gpu, monkeypatch):
        """The thread that reads goes on for a while, on memory that it holds itself."""
        may_go, read = threading.Event(), threading.Event()
        good = quarantine._digest

        def slowly(task, maps):
            may_go.wait(10.0)
            try:
                return good(task, maps)
            finally:
                read.set()

        monkeypatch.setattr("routerd.quarantine._digest", slowly)
        segment, ask = self.ask(session)
        gpu.worker.script = [crash()]
        router = make_router(ONLY_GPU)

        async def main():
            task = asyncio.create_task(router.run(ask, session))
            await until(lambda: gpu.worker.made)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert self.is_let_go(session, segment)
            may_go.set()

        asyncio.run(main())
        assert read.wait(10.0)
