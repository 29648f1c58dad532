"""A daemon that is killed, restarted or told to stop while clients work: everything is answered, and correctly."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

from routerd import aio, errors
from routerd.workloads import builtin_workloads

GEMM, MONTE_CARLO = "linalg.gemm", "options.monte_carlo_european"


@pytest.fixture
def served(private_daemon):
    process = private_daemon(drain_seconds=0.3).start()
    process.connect().close()
    return process


def restart(process, number=signal.SIGKILL):
    process.stop(number)
    process.start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_synchronous_clients_get_every_answer_across_a_restart(served, until, number):
    """Both small tasks and tasks whose arrays are staged; ``SIGTERM`` hands back what it does not finish."""
    done = threading.Event()
    counts, problems = [0] * 4, []

    def work(index, size):
        left, right = np.full((size, 7), float(index)), np.full((7, 5), 2.0)
        try:
            with served.connect(name=f"worker-{index}", table=False) as router:
                while not done.is_set():
                    result = router.run(GEMM, a=left, b=right)["c"]
                    assert result.shape == (size, 5)
                    assert (result == 14.0 * index).all()
                    counts[index] += 1
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(index, size)) for index, size in enumerate((3, 3, 2000, 2000))]
    for thread in threads:
        thread.start()
    try:
        until(lambda: min(counts) > 5 or problems)
        restart(served, number)
        reached = list(counts)
        until(lambda: all(now > before + 5 for now, before in zip(counts, reached, strict=True)) or problems)
    finally:
        done.set()
        for thread in threads:
            thread.join(30.0)
    assert problems == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_runs_is_run_by_the_next_daemon(served, until, option, number):
    """Work is cut in the middle; the caller sees a longer call and nothing else."""
    long = {**option, "num_simulations": 6_000_000, "tolerance": 0.0}

    async def main():
        async with aio.connect(served.socket, table=False) as router, asyncio.timeout(120.0):
            asked = [asyncio.create_task(router.run(MONTE_CARLO, **long)) for _ in range(3)]
            while not any(worker["waiting"] for worker in (await router.call("status"))["workers"]):
                await asyncio.sleep(0.01)
            pid = (await router.call("status"))["pid"]
            await asyncio.to_thread(restart, served, number)
            prices = [(await one)["price"] for one in asked]
            assert (await router.call("status"))["pid"] != pid
            return prices, (await router.run(MONTE_CARLO, **long))["price"]

    prices, expected = asyncio.run(main())
    assert prices == [expected] * 3


def test_arrays_of_the_old_connection_stay_usable(served):
    with served.connect(table=False) as router:
        mine = router.empty((300, 200))
        mine[:] = 2.0
        weights = router.constant(np.full((200, 50), 3.0))
        held = router.run(GEMM, a=mine, b=weights, tolerance=0.0)["c"]
        assert (held == 1200.0).all()
        restart(served)
        assert (router.run(GEMM, a=mine, b=weights, tolerance=0.0)["c"] == 1200.0).all()
        mine[:] = 1.0
        assert (router.run(GEMM, a=mine, b=weights, tolerance=0.0)["c"] == 600.0).all()
        assert (held == 1200.0).all()


def test_deciders_go_on_with_the_next_daemons_table(served, until):
    with served.connect(name="setup") as router:
        router.call("calibrate", {"workloads": [GEMM]})
    with served.connect() as router:
        decide = router.decider(GEMM)
        until(lambda: decide(1e6).decision_id.startswith("table:"))
        restart(served)
        until(lambda: decide(1e6).decision_id.startswith("table:"))  # by what was timed before
        until(lambda: decide(m=90, k=90, n=90).decision_id.startswith("table:"))
        assert router.call("status")["pid"] == served.pid


def test_a_pipeline_is_asked_again_as_a_whole(served):
    with served.connect(table=False) as router:
        restart(served)
        decisions = router.decide_many([(GEMM, {"m": size, "k": 10, "n": 10}) for size in range(1, 2000)])
        assert [decision.work for decision in decisions] == [200.0 * size for size in range(1, 2000)]


def test_a_change_of_policy_that_has_not_begun_finds_the_next_daemon(served):
    with served.connect(table=False) as router:
        restart(served)
        assert router.call("policy.apply")["generation"] >= 1


def test_a_calibration_that_was_cut_is_not_begun_again_unasked(served, until):
    with served.connect(name="watch", table=False) as watching, served.connect(name="ask", table=False) as asking:
        caught = []

        def calibrate():
            try:
                asking.call("calibrate", {"workloads": [one.name for one in builtin_workloads()], "again": True})
            except errors.RouterdError as error:
                caught.append(error)

        thread = threading.Thread(target=calibrate)
        thread.start()
        until(lambda: watching.call("status")["traffic"]["in_flight"] == 1)
        restart(served)
        thread.join(30.0)
        assert isinstance(caught[0], errors.DaemonUnreachable)
        assert "it is not known whether calibrate was done" in caught[0].message
        assert watching.call("status")["traffic"]["in_flight"] == 0


def test_nobody_waits_longer_than_agreed(served):
    with served.connect(table=False, reconnect=0.3) as router:
        served.stop(signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(errors.DaemonUnreachable, match=r"start one with: routerd; waited 0\.3 s after"):
            router.call("status")
        assert time.monotonic() - started < 5.0
        served.start().connect().close()
        assert router.call("status")["pid"] == served.pid  # the next call tries again


def test_restarts_leave_nothing_mapped_or_open(served):
    """On the client's side of connections that were lost; one connection is made and held at a time."""
    square = np.ones((200, 200))
    with served.connect() as router:
        held = []
        for _ in range(3):
            mine = router.empty((200, 200))
            mine[:] = 1.0
            for _ in range(3):
                assert (router.run(GEMM, a=mine, b=square, tolerance=0.0)["c"] == 200.0).all()
            router.constant(square)
            del mine
            gc.collect()
            held.append(served.segments(os.getpid()))
            restart(served)
            router.call("ping")
        assert held[2].mappings <= held[1].mappings + 1
        assert held[2].all_descriptors <= held[1].all_descriptors + 1
