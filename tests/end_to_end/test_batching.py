"""Requests of many clients that run as one: everybody gets their own rows, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal

import numpy as np
import pytest

from routerd import errors
from routerd.aio import connect
from tests.processes import install_plugin

CLIENTS = 64
LAUNCH_SECONDS = 0.02
PLUGIN = '''
import os
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec
from routerd.testing import NullBackend

class Launching(NullBackend):
    """Takes 20 ms to launch, however much there is to compute, and does what any row of the first input asks for."""

    def __init__(self):
        super().__init__("hybrid", delay_seconds=0.02)

    def execute(self, workload, params, inputs, into):
        first = next(iter(inputs.values()))
        if (first == 666001.0).any():
            raise RuntimeError("a row asked to fail")
        if (first == 666002.0).any():
            os._exit(70)
        return super().execute(workload, params, inputs, into)

@hookimpl
def routerd_backends(settings):
    return [BackendSpec(name="launching.one", device_kind="hybrid", precision="float64",
                        factory="launching_backends:Launching", group="launching")]
'''
POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: launching}
rules:
  - id: launching
    when: {client.name: launching}
    prefer: [launching.one]
default: {objective: {latency: 1.0}}
admission: {max_queue_ms: 30s, max_in_flight_per_client: 256}
"""
B = np.arange(6.0).reshape(2, 3)
SETTINGS = {"calibration_run_seconds": 0.4}  # of larger sizes, too: what was not timed is not joined


@pytest.fixture(scope="module")
def started(module_daemon, tmp_path_factory):
    """Starts daemons with a backend that takes long to launch, on which two workloads were timed: once, for all of them."""
    directory = tmp_path_factory.mktemp("launching")
    install_plugin(directory, "launching", PLUGIN)
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    environment = {"PYTHONPATH": str(directory)}

    def timed(process):
        with process.start().connect(name="launching") as router:
            router.call("calibrate", {"workloads": ["linalg.gemm", "analytics.performance"]})
            assert router.run("linalg.gemm", a=rows(1), b=B).ran_on.backend == "launching.one"
        return process

    first = timed(module_daemon(environment=environment, policy_paths=policy, **SETTINGS))
    assert first.stop() == 0

    def start(make=module_daemon, **settings):
        process = make(environment=environment, policy_paths=policy, **SETTINGS, **settings)
        shutil.copytree(first.state, process.state)
        return timed(process)

    return start


@pytest.fixture(scope="module")
def launching(started):
    """One for all tests that leave it as it is."""
    return started()


@pytest.fixture
def own(started, private_daemon):
    """Starts one for a test alone."""
    return lambda **settings: started(private_daemon, **settings)


def rows(value, count=1):
    return np.full((count, 2), float(value))


def state(process):
    with process.connect(name="observer") as router:
        workers = router.call("status")["workers"]
    return next(worker for worker in workers if worker["name"] == "hybrid/launching")


@contextlib.contextmanager
def joining(process, least=1):
    """At least so many tasks are joined meanwhile."""
    before = state(process)["joined_tasks"]
    yield
    assert state(process)["joined_tasks"] >= before + least


def at_once(process, work, clients=CLIENTS, name="launching"):
    """``work(router, number)`` of every client at the same time; what each gave or raised."""

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            routers = [
                await stack.enter_async_context(await connect(process.socket, name=name, table=False))
                for _ in range(clients)
            ]
            calls = (work(router, number) for number, router in enumerate(routers))
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


async def product(router, number, **more):
    """A product of one to three rows, that only this client asks for."""
    return await router.run("linalg.gemm", a=rows(number, 1 + number % 3), b=B, **more)


def is_right(result, number, b=B):
    return np.array_equal(result["c"], rows(number, 1 + number % 3) @ b)


def test_everybody_gets_their_own_rows(launching):
    before = state(launching)
    results = at_once(launching, product)
    assert all(is_right(result, number) for number, result in enumerate(results))
    assert {result.ran_on.backend for result in results} == {"launching.one"}
    after = state(launching)
    assert after["joined_tasks"] - before["joined_tasks"] > CLIENTS // 2
    assert after["joined_executions"] - before["joined_executions"] <= CLIENTS // 8
    # Each was told its share of what the execution took: together they are the executions, not 64 of them.
    service = sum(result.timing.transfer_seconds + result.timing.kernel_seconds for result in results)
    assert LAUNCH_SECONDS <= service < LAUNCH_SECONDS * CLIENTS / 4


def test_results_too_large_for_a_message_have_a_segment_each(launching):

    async def large(router, number):
        result = await router.run("linalg.gemm", a=rows(number, 4000), b=B + number % 2)
        return result["c"].copy()

    with joining(launching):
        results = at_once(launching, large, clients=16)
    for number, result in enumerate(results):
        assert np.array_equal(result, rows(number, 4000) @ (B + number % 2))


def test_large_constants_are_shared_by_content(launching):
    b = np.arange(200_000.0).reshape(2, 100_000)  # too large to be compared each time

    async def with_constant(router, number):
        weights = await router.constant(b + number % 2)
        result = await product_of(router, number, weights)
        return np.array_equal(result["c"], rows(number) @ weights)

    async def product_of(router, number, weights):
        return await router.run("linalg.gemm", a=rows(number), b=weights)

    with joining(launching):
        assert at_once(launching, with_constant, clients=16) == [True] * 16


def test_different_weights_are_not_mixed(launching):

    async def either(router, number):
        return await router.run("linalg.gemm", a=rows(number, 1 + number % 3), b=B + number % 2)

    with joining(launching):
        results = at_once(launching, either)
    assert all(is_right(result, number, B + number % 2) for number, result in enumerate(results))


def test_switched_off_nothing_is_joined(own):
    process = own(batching="false")
    results = at_once(process, product, clients=8)
    assert all(is_right(result, number) for number, result in enumerate(results))
    assert state(process)["joined_tasks"] == 0


@pytest.mark.parametrize("order", [666001, 666002], ids=["raises", "ends the process"])
def test_one_poisonous_member_harms_nobody_else(own, order):
    process = own()

    async def work(router, number):
        return await router.run("linalg.gemm", a=rows(order if number == 20 else number), b=B)

    results = at_once(process, work, clients=32)
    for number, result in enumerate(results):
        if number == 20:  # another backend can do what this one cannot
            assert result.ran_on.backend != "launching.one"
            assert np.array_equal(result["c"], rows(order) @ B)
        else:
            assert np.array_equal(result["c"], rows(number) @ B)


def test_bad_content_is_told_to_its_owner_alone(launching):
    async def work(router, number):
        returns = np.full((10, 1), 0.001 * number)
        if number == 7:
            returns[3, 0] = np.nan
        return await router.run("analytics.performance", returns=returns)

    with joining(launching):
        results = at_once(launching, work, clients=24)
    assert isinstance(results[7], errors.InvalidArray)
    assert "returns[3, 0] is nan" in str(results[7])
    assert all(result["statistics"].shape == (1, 5) for number, result in enumerate(results) if number != 7)


def test_deadlines_hold_and_who_cancels_leaves(launching):

    async def work(router, number):
        if number % 4 == 1:  # less than a launch: too late, sooner or later
            return await product(router, number, deadline_ms=15.0, tolerance=0.0)
        if number % 4 == 2:
            task = asyncio.ensure_future(product(router, number))
            await asyncio.sleep(0.001 * (number % 5))
            task.cancel()
            return await task
        return await product(router, number, deadline_ms=20_000.0)

    results = at_once(launching, work)
    for number, result in enumerate(results):
        if number % 4 == 1:
            assert isinstance(result, errors.DeadlineUnmeetable | errors.TaskTimeout) or is_right(result, number)
        elif number % 4 == 2:
            assert isinstance(result, asyncio.CancelledError) or is_right(result, number)
        else:
            assert is_right(result, number)
    assert all(is_right(result, number) for number, result in enumerate(at_once(launching, product, clients=8)))


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(own, until):
    process = own()
    pid = state(process)["pid"]

    async def work(router, number):
        if number == 0:
            await asyncio.sleep(0.03)  # the first has run, and the others do
            os.kill(pid, signal.SIGKILL)
        return await product(router, number)

    results = at_once(process, work)
    assert all(is_right(result, number) for number, result in enumerate(results))
    assert any("as one" in (result.fallback_reason or "") for result in results)
    until(lambda: state(process)["restarts"] == 1)
