"""Calls that nobody waits for any more reach the daemon: queues empty, workers turn to others, memory goes back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os

import numpy as np
import pytest

from routerd.aio import connect

GEMM = "linalg.gemm"


def idle(status):
    return status["traffic"]["in_flight"] == 0 and not any(worker["waiting"] for worker in status["workers"])


@pytest.fixture
def moody(timed_moody_daemon):
    process = timed_moody_daemon()
    with process.connect(name="moody") as router:
        assert router.decide(GEMM, m=50, k=50, n=50).backend == "moody.one"
    return process


def test_a_timeout_takes_running_and_waiting_tasks_back(moody, moods):
    """One task runs, three wait behind it; none of them is finished, and the next one is served."""
    slow = np.full((50, 50), moods.slow)

    async def main():
        async with connect(moody.socket, name="moody", table=False) as router:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.gather(*(router.run(GEMM, a=slow, b=np.eye(50)) for _ in range(4)))
            async with asyncio.timeout(20.0):
                while (await router.call("status"))["traffic"]["in_flight"]:
                    await asyncio.sleep(0.01)
                while not idle(await router.call("status")):  # the kernel that was begun comes to its end
                    await asyncio.sleep(0.01)
            before = (await router.call("stats"))["executed"]
            assert (await router.run(GEMM, a=np.eye(50), b=np.eye(50)))["c"][3, 3] == 1.0
            assert (await router.call("stats"))["executed"] == before + 1  # none of the four

    asyncio.run(main())


def test_staged_arrays_are_not_overwritten_under_a_cancelled_task(moody, moods):
    """What a cancelled task may still read is never given to another: each result is that of its own arrays."""
    slow, plain = np.full((200, 200), moods.slow), np.full((200, 200), 2.0)

    async def main():
        async with connect(moody.socket, name="moody", table=False) as router:
            for _ in range(3):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await router.run(GEMM, a=slow, b=plain)
                assert router._stream.segments._staging == []
                assert (await router.run(GEMM, a=plain, b=plain))["c"][0, 0] == 800.0

    asyncio.run(main())


def test_waiting_for_a_turn_is_given_up_without_a_trace(moody, moods):
    slow = np.full((50, 50), moods.slow)

    async def main():
        async with connect(moody.socket, name="moody", table=False) as router:
            limit = router.welcome.limits.max_in_flight_per_client
            tasks = [asyncio.create_task(router.run(GEMM, a=slow, b=np.eye(50))) for _ in range(limit + 20)]
            while (await router.call("status"))["traffic"]["in_flight"] < limit:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            async with asyncio.timeout(20.0):
                while not idle(await router.call("status")):
                    await asyncio.sleep(0.01)
            assert router._stream._turns._value == limit

    asyncio.run(main())


@pytest.mark.usefixtures("quiet")
def test_hundreds_of_cancelled_runs_leave_no_memory_behind(daemon):
    left, right = np.ones((400, 300)), np.ones((300, 200))

    async def main():
        async with connect(daemon.socket, name="async", table=False) as router:
            held = []
            for _ in range(40):
                for wait in (0, 0.0002, 0.0005, 0.001, 0.002):
                    task = asyncio.create_task(router.run(GEMM, a=left, b=right, tolerance=0.0))
                    await asyncio.sleep(wait)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):  # unless the result was faster
                        await task
                    assert (await router.run(GEMM, a=left, b=right, tolerance=0.0))["c"][0, 0] == 300.0
                gc.collect()
                await router.call("ping")
                held.append([daemon.segments(pid) for pid in (os.getpid(), daemon.pid)])
            return held[9], held[-1]

    for early, late in zip(*asyncio.run(main()), strict=True):
        assert late.mappings <= early.mappings + 4
        assert late.all_descriptors <= early.all_descriptors + 4


def test_the_protocol_answers_both_requests(daemon, wire, option):
    raw = wire().hello()
    run = raw.request(
        "run", {"workload": "options.monte_carlo_european", "params": {**option, "num_simulations": 10**8}}
    )
    cancel = raw.request("cancel", {"request": run})
    replies = {reply["id"]: reply for reply in (raw.reply(), raw.reply())}
    assert replies[cancel]["result"] == {"cancelled": True}
    assert replies[run]["error"]["code"] == "cancelled"
    assert raw.ask("cancel", {"request": run})["result"] == {"cancelled": False}
    assert raw.error("cancel", {"request": "x"})["code"] == "malformed_frame"


def test_a_task_sent_again_is_done_once(daemon, wire, router, option):
    """The same ``task_id`` on another connection: a finished one is answered again, one that runs is taken over."""
    first, second = wire().hello(), wire().hello()
    done = {"workload": "options.monte_carlo_european", "params": option, "task_id": f"done-{os.getpid()}"}
    executed = router.call("stats")["executed"]
    assert first.ask("run", done)["result"] == second.ask("run", done)["result"]
    assert router.call("stats")["executed"] == executed + 1
    long = {**done, "params": {**option, "num_simulations": 20_000_000}, "task_id": f"long-{os.getpid()}"}
    number = first.request("run", long)
    assert second.ask("run", long)["result"]["outputs"]["price"]
    taken = first.reply()
    assert (taken["id"], taken["error"]["code"]) == (number, "cancelled")
    assert router.call("stats")["executed"] == executed + 2
    assert first.error("run", {**done, "task_id": "x" * 65})["code"] == "invalid_parameter"
