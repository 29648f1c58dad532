"""The asyncio client: everything at once, nothing mixed up, and nothing lost when a caller gives up."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal

import numpy as np
import pytest

from routerd import aio, errors
from routerd.aio import connect
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error


def run_with(daemon, work):
    async def main():
        async with await connect(daemon.socket, name="async", table=False) as router:
            return await work(router)

    return asyncio.run(main())


@pytest.mark.parametrize("workload", builtin_workloads(), ids=lambda workload: workload.name)
def test_every_workload_gives_what_the_synchronous_client_gives(daemon, router, workload):
    low, high = workload.work_range
    task = workload.example(low * (high / low) ** 0.5, np.random.default_rng(6))
    expected = router.run(workload.name, **task.params, **task.arrays, tolerance=0.0)
    given = run_with(daemon, lambda mine: mine.run(workload.name, **task.params, **task.arrays, tolerance=0.0))
    assert relative_error(workload, dict(given), dict(expected)) == 0.0


@pytest.mark.parametrize("rows", [3, 150])  # inline and by reference
def test_many_at_once_get_their_own_answers(daemon, rows):
    async def work(router):
        async def one(value):
            result = await router.run("linalg.gemm", a=np.full((rows, 50), value), b=np.ones((50, 60)), tolerance=0.0)
            return (result["c"] == 50.0 * value).all()

        return await asyncio.gather(*(one(float(value)) for value in range(150)))

    assert all(run_with(daemon, work))


def test_more_at_once_than_the_daemon_takes_wait_their_turn(daemon):
    async def work(router):
        runs = [router.run("linalg.gemm", a=np.eye(3) * value, b=np.eye(3)) for value in range(400)]
        assert len(runs) > router.welcome.limits.max_in_flight_per_client
        return [result["c"][0, 0] for result in await asyncio.gather(*runs)]

    assert run_with(daemon, work) == [float(value) for value in range(400)]


def test_connect_is_awaited_or_entered(daemon):
    async def work():
        async with connect(daemon.socket) as entered:
            assert await entered.call("ping") == {"pong": True}
        awaited = await connect(daemon.socket)
        assert await awaited.call("ping") == {"pong": True}
        await awaited.close()
        return entered.is_open or awaited.is_open

    assert asyncio.run(work()) is False


def test_decide_pipelined(daemon):
    async def work(router):
        asked = [router.decide("linalg.gemm", m=number, k=10, n=10) for number in range(1, 1500)]
        return await asyncio.gather(*asked)

    decisions = run_with(daemon, work)
    assert [decision.work for decision in decisions] == [200.0 * number for number in range(1, 1500)]
    assert len({decision.decision_id for decision in decisions}) == 1499


def test_long_answers_pipelined_do_not_detach_a_client_that_reads(daemon):
    async def work(router):
        answers = await asyncio.gather(*(router.call("workloads") for _ in range(600)))
        return [len(answer) for answer in answers]

    lengths = run_with(daemon, work)
    assert lengths == [lengths[0]] * 600


def test_an_error_ends_only_its_own_request(daemon, option):
    async def work(router):
        good = router.run("options.monte_carlo_european", **option)
        bad = router.run("options.monte_carlo_european", **{**option, "volatility": -1.0})
        ugly = router.run("options.nothing")
        return await asyncio.gather(good, bad, ugly, return_exceptions=True)

    good, bad, ugly = run_with(daemon, work)
    assert good["price"] > 0.0
    assert isinstance(bad, errors.InvalidParameter)
    assert isinstance(ugly, errors.UnknownWorkload)


@pytest.mark.usefixtures("quiet")
class TestCancellation:
    A, B = np.ones((400, 300)), np.ones((300, 200))

    def held(self, daemon):
        return [daemon.segments(pid) for pid in (os.getpid(), daemon.pid)]

    def test_of_runs_leaves_the_connection_usable_and_nothing_behind(self, daemon):
        async def work(router):
            async def cancelled(wait):
                task = asyncio.create_task(router.run("linalg.gemm", a=self.A, b=self.B, tolerance=0.0))
                await asyncio.sleep(wait)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):  # unless the result was faster
                    await task

            async def settled():
                result = await router.run("linalg.gemm", a=self.A, b=self.B, tolerance=0.0)
                assert (result["c"] == 300.0).all()
                del result
                gc.collect()
                await router.call("ping")

            held = []
            for wait in (0, 0.0002, 0.0005, 0.001, 0.002) * 6:
                await cancelled(wait)
                await settled()
                held.append(self.held(daemon))
            return held[9], held[-1]

        before, after = run_with(daemon, work)
        for one, two in zip(before, after, strict=True):
            assert two.mappings <= one.mappings + 2
            assert two.all_descriptors <= one.all_descriptors + 2

    def test_of_an_allocation_keeps_its_segment_for_later(self, daemon):
        async def work(router):
            gc.collect()
            before = daemon.segments(os.getpid())
            for _ in range(20):
                task = asyncio.create_task(router.empty((1000, 100)))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            async with asyncio.timeout(10.0):  # replies come in the order of completion, and nobody awaits these
                while (after := daemon.segments(os.getpid())).mappings < before.mappings + 20:
                    await asyncio.sleep(0.005)
            assert after.mappings == before.mappings + 20
            assert after.all_descriptors - after.descriptors == before.all_descriptors - before.descriptors
            assert after.descriptors <= before.descriptors + 20  # a mapping has a descriptor of its own
            allocated = daemon.segments(daemon.pid).descriptors
            result = await router.run("linalg.gemm", a=np.ones((1000, 100)), b=np.ones((100, 1)))
            assert (result["c"] == 100.0).all()
            assert daemon.segments(daemon.pid).descriptors == allocated

        run_with(daemon, work)

    def test_of_a_question(self, daemon):
        async def work(router):
            task = asyncio.create_task(router.call("status"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await router.call("ping")

        assert run_with(daemon, work) == {"pong": True}


@pytest.mark.usefixtures("quiet")
def test_a_refused_run_does_not_lose_its_staging_segments(daemon):
    async def work(router):
        sizes = []
        for _ in range(10):
            with pytest.raises(errors.LimitExceeded):
                huge = np.broadcast_to(np.float64(1.0), (2**40,))
                await router.run("linalg.gemm", a=np.ones((200, 100)), b=huge)
            sizes.append(daemon.segments(daemon.pid).descriptors)
        return sizes

    sizes = run_with(daemon, work)
    assert sizes[-1] == sizes[0]


@pytest.mark.usefixtures("quiet")
def test_empty_arrays_travel_without_a_copy(daemon):
    async def work(router):
        a = await router.empty((300, 200))
        a[:] = 2.0
        before = daemon.segments(daemon.pid).descriptors
        result = await router.run("linalg.gemm", a=a, b=np.ones((200, 1)), tolerance=0.0)
        assert daemon.segments(daemon.pid).descriptors == before
        return result["c"]

    assert (run_with(daemon, work) == 400.0).all()


class TestTheSharedShortcut:
    @pytest.fixture(autouse=True)
    def here(self, daemon, monkeypatch):
        monkeypatch.setenv("ROUTERD_SOCKET", str(daemon.socket))

    def test_concurrent_first_calls_share_one_connection_that_ends_with_the_loop(self, router, option, until):
        before = router.call("status")["traffic"]["accepted"]
        connected = router.call("status")["traffic"]["clients"]

        async def main():
            return await asyncio.gather(*(aio.price_option_metal(**option) for _ in range(20)))

        results = asyncio.run(main())
        assert len({round(result["price"], 4) for result in results}) == 1
        assert router.call("status")["traffic"]["accepted"] == before + 1
        until(lambda: router.call("status")["traffic"]["clients"] == connected)

    def test_a_restarted_daemon_is_found_again(self, private_daemon, option, monkeypatch):
        process = private_daemon().start()
        process.connect().close()
        monkeypatch.setenv("ROUTERD_SOCKET", str(process.socket))

        async def main():
            first = await aio.price_option_metal(**option)
            process.stop(signal.SIGKILL)
            process.start()
            second = await aio.price_option_metal(**option)
            return first["price"], second["price"]

        first, second = asyncio.run(main())
        assert first == second

    def test_no_daemon_is_said_so(self, option, monkeypatch, tmp_path):
        monkeypatch.setenv("ROUTERD_SOCKET", str(tmp_path / "none.sock"))
        monkeypatch.setattr(aio, "connect", functools.partial(connect, timeout=0.05))
        with pytest.raises(errors.DaemonUnreachable, match="start one with: routerd"):
            asyncio.run(aio.price_option_metal(**option))


def test_requests_in_flight_hear_of_the_end_if_no_other_daemon_is_waited_for(private_daemon, option):
    process = private_daemon().start()

    async def main():
        async with await connect(process.socket, timeout=30.0, reconnect=0.0) as router:
            long = asyncio.create_task(
                router.run("options.monte_carlo_european", **{**option, "num_simulations": 10**9})
            )
            while not any(worker["waiting"] for worker in (await router.call("status"))["workers"]):
                await asyncio.sleep(0.01)
            process.stop(signal.SIGKILL)
            with pytest.raises(errors.DaemonUnreachable, match=r"closed the connection|connection lost"):
                await long
            assert not router.is_open
            with pytest.raises(errors.DaemonUnreachable, match="is closed; connect again"):
                await router.call("ping")

    asyncio.run(main())
