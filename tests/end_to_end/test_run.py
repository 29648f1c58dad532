"""Running: the same numbers as NumPy, whichever way the arrays travel, for as long as somebody holds them."""

from __future__ import annotations

import gc
import os
import signal
import threading

import numpy as np
import pytest

from routerd import errors
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error

CATALOGUE = {workload.name: workload for workload in builtin_workloads()}
SIZES = {"inline": 0.0, "shared memory": 0.6}  # where between the ends of the calibrated range, geometrically


def example(name, size):
    workload = CATALOGUE[name]
    low, high = workload.work_range
    task = workload.example(low * (high / low) ** SIZES[size], np.random.default_rng(5))
    defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
    params = {**defaults, **task.params}
    return workload, params, task.arrays, execute_kernel(NumpyNamespace(), workload, params, task.arrays).outputs


@pytest.mark.parametrize("name", sorted(CATALOGUE))
@pytest.mark.parametrize("size", SIZES)
class TestEveryWorkload:
    @pytest.mark.parametrize("table", [False, True])
    def test_gives_what_numpy_gives(self, daemon, name, size, table):
        workload, params, arrays, expected = example(name, size)
        with daemon.connect(table=table) as router:
            result = router.run(name, **params, **arrays)
        assert result.keys() == expected.keys()
        assert relative_error(workload, dict(result), expected) <= workload.tolerance
        assert result.fallback_reason is None
        assert result.ran_on == result.planned

    def test_exactly_where_no_error_is_allowed(self, router, name, size):
        _workload, params, arrays, expected = example(name, size)
        result = router.run(name, **params, **arrays, tolerance=0.0)
        (described,) = router.call("workloads", {"name": name})
        exact = {backend for backend, pair in described["backends"].items() if pair["error"] == 0.0}
        assert result.ran_on.backend in exact
        assert {rejection.backend for rejection in result.decision.rejected} == described["backends"].keys() - exact
        for output, value in expected.items():
            np.testing.assert_array_equal(result[output], value)


class TestArraysOfEveryKind:
    A = np.random.default_rng(1).standard_normal((300, 200))
    B = np.random.default_rng(2).standard_normal((200, 150))

    def product(self, router, a, b):
        return router.run("linalg.gemm", a=a, b=b, tolerance=0.0)["c"]

    def test_float32_is_taken_and_computed_in_float64(self, router):
        a, b = self.A.astype("float32"), self.B.astype("float32")
        result = self.product(router, a, b)
        np.testing.assert_allclose(result, a.astype("float64") @ b.astype("float64"), rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("view", [
        np.asfortranarray, lambda a: a[::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: np.broadcast_to(a[:1], a.shape), lambda a: np.ascontiguousarray(a.T).T])  # fmt: skip
    def test_layouts_other_than_c_order(self, router, view):
        a = view(self.A)
        np.testing.assert_allclose(self.product(router, a, self.B), a @ self.B, rtol=1e-12, atol=1e-12)

    def test_lists_are_arrays_of_numbers(self, router):
        assert self.product(router, [[1, 2]], [[3], [4.5]]).tolist() == [[12.0]]

    def test_results_cannot_be_changed(self, router):
        for rows in (2, 300):
            result = self.product(router, self.A[:rows], self.B)
            with pytest.raises(ValueError, match="read-only"):
                result[0, 0] = 1.0
            with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
                result.setflags(write=True)

    def test_scalars_come_as_numbers(self, router, option):
        result = router.run("options.monte_carlo_european", **option)
        assert type(result["price"]) is float
        assert sorted(result) == ["num_simulations", "price", "standard_error"]
        assert len(result) == 3
        assert repr(result).startswith("TaskResult(price, standard_error, num_simulations; ran on cpu.")


@pytest.mark.usefixtures("quiet")
class TestEmpty:
    """Arrays that are written where the worker reads them."""

    def test_nothing_is_allocated_or_copied(self, router, daemon, until):
        a = router.empty((400, 300))
        a[:] = np.random.default_rng(3).standard_normal(a.shape)
        b = router.empty((300, 200))
        b[:] = 1.0
        router.call("ping")
        mine, theirs = daemon.segments(os.getpid()).mappings, daemon.segments(daemon.pid).descriptors
        result = router.run("linalg.gemm", a=a, b=b, tolerance=0.0)["c"]
        assert daemon.segments(os.getpid()).mappings == mine + 1  # the result's
        until(lambda: daemon.segments(daemon.pid).descriptors == theirs)  # it closes its copy just after sending it
        np.testing.assert_allclose(result, np.asarray(a) @ b, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("start", [0, 1, 2, 3, 8])
    def test_any_slice_may_be_passed(self, router, dtype, start):
        column = router.empty((4000,), dtype)
        column[:] = np.arange(4000)
        part = column[start : start + 3000].reshape(3000, 1)
        result = router.run("linalg.gemm", a=part, b=np.full((1, 1), 2.0), tolerance=0.0)["c"]
        assert (result[:, 0] == 2.0 * np.arange(start, start + 3000)).all()

    def test_several_arrays_of_one_segment(self, router):
        both = router.empty((2, 100, 100))
        both[0], both[1] = np.eye(100), np.arange(10_000.0).reshape(100, 100)
        assert (router.run("linalg.gemm", a=both[0], b=both[1])["c"] == both[1]).all()

    def test_what_is_written_later_is_seen_later(self, router):
        a = router.empty((200, 100))
        for value in (1.0, 2.0, 3.0):
            a[:] = value
            assert (router.run("linalg.gemm", a=a, b=np.ones((100, 1)), tolerance=0.0)["c"] == 100 * value).all()

    def test_memory_returns_when_the_array_goes(self, router, daemon, until):
        before = daemon.segments(daemon.pid).descriptors
        mine = daemon.segments(os.getpid()).mappings
        arrays = [router.empty((1000, 100)) for _ in range(10)]
        view = arrays[0][5:7]
        until(lambda: daemon.segments(daemon.pid).descriptors == before + 10)
        del arrays
        gc.collect()
        router.run("linalg.gemm", a=np.ones((1, 1)), b=np.ones((1, 1)))
        until(lambda: daemon.segments(daemon.pid).descriptors == before + 1)  # the view's
        assert daemon.segments(os.getpid()).mappings == mine + 1
        view[:] = 7.0
        del view
        gc.collect()
        router.run("linalg.gemm", a=np.ones((1, 1)), b=np.ones((1, 1)))
        until(lambda: daemon.segments(daemon.pid).descriptors == before)

    @pytest.mark.parametrize(("shape", "dtype"), [((0,), "float64"), ((2, -1), "float64"), ((2,), "complex128")])
    def test_impossible_ones_are_refused(self, router, shape, dtype):
        with pytest.raises(errors.InvalidArray):
            router.empty(shape, dtype)


class TestHowLongResultsLast:
    def test_a_held_result_is_not_overwritten_by_later_ones(self, router):
        held = [router.run("linalg.gemm", a=np.full((200, 10), float(value)), b=np.ones((10, 100)))["c"]
                for value in range(20)]  # fmt: skip
        for _ in range(20):
            router.run("linalg.gemm", a=np.full((200, 10), -1.0), b=np.ones((10, 100)))
        for value, result in enumerate(held):
            assert (result == 10.0 * value).all()

    def test_a_view_holds_it_as_well(self, router):
        part = router.run("linalg.gemm", a=np.full((200, 10), 3.0), b=np.ones((10, 100)))["c"][3:5].T
        gc.collect()
        for _ in range(5):
            router.run("linalg.gemm", a=np.full((200, 10), -1.0), b=np.ones((10, 100)))
        assert (part == 30.0).all()

    def test_it_outlives_connection_and_daemon(self, private_daemon):
        process = private_daemon().start()
        router = process.connect()
        first = router.run("linalg.gemm", a=np.full((200, 10), 3.0), b=np.ones((10, 100)))["c"]
        mine = router.empty((100, 100))
        mine[:] = 5.0
        router.close()
        assert (first == 30.0).all()
        with process.connect() as second:
            other = second.run("linalg.gemm", a=np.full((200, 10), 4.0), b=np.ones((10, 100)))["c"]
            process.stop(signal.SIGKILL)
        assert (first == 30.0).all()
        assert (other == 40.0).all()
        mine += 1.0
        assert (mine == 6.0).all()


@pytest.mark.usefixtures("quiet")
def test_three_hundred_runs_leave_nothing_behind(router, daemon):
    """Segments, mappings and descriptors of client, daemon and workers stay as they were after a few runs."""
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((200, 100)), rng.standard_normal((100, 120))
    expected = a @ b

    def run(times):
        for _ in range(times):
            result = router.run("linalg.gemm", a=a, b=b, tolerance=0.0)
            np.testing.assert_allclose(result["c"], expected, rtol=1e-12, atol=1e-12)

    def held():
        pids = [os.getpid(), daemon.pid, *sorted(worker.pid for worker in daemon.workers())]
        return [daemon.segments(pid) for pid in pids]

    run(10)
    before = held()
    run(300)
    assert held() == before


def test_two_threads_on_one_connection_and_two_on_their_own(router, daemon):
    wrong = []

    def work(connection, value):
        for _ in range(30):
            result = connection.run("linalg.gemm", a=np.full((150, 50), value), b=np.ones((50, 60)), tolerance=0.0)
            if not (result["c"] == 50.0 * value).all():
                wrong.append(value)

    with daemon.connect(name="second") as second, daemon.connect(name="third") as third:
        threads = [threading.Thread(target=work, args=(connection, float(value)))
                   for value, connection in enumerate((router, router, second, third))]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


class TestOptions:
    def test_a_deadline_that_cannot_be_met_is_refused_at_once_with_the_predicted_time(self, router, option):
        before = router.call("stats")["executed"]
        with pytest.raises(errors.DeadlineUnmeetable, match=r"is predicted to take .* ms on cpu\.") as caught:
            router.run("options.monte_carlo_european", **{**option, "num_simulations": 5_000_000}, deadline_ms=1.0)
        assert caught.value.detail["deadline_seconds"] == 0.001
        assert caught.value.detail["predicted_seconds"] > 0.001
        assert not any(worker["waiting"] for worker in router.call("status")["workers"])
        assert router.call("stats")["executed"] == before
        assert router.run("options.monte_carlo_european", **option)["price"] > 0.0

    @pytest.mark.parametrize("priority", [-10, 0, 10])
    def test_every_priority_is_served(self, router, option, priority):
        assert router.run("options.monte_carlo_european", **option, priority=priority)["price"] > 0.0

    def test_a_result_tells_how_it_came_about(self, router, option):
        result = router.run("options.monte_carlo_european", **option)
        timing = result.timing
        assert 0.0 < timing.kernel_seconds <= timing.total_seconds
        assert timing.queue_seconds >= 0.0
        assert timing.transfer_seconds >= 0.0
        assert result.decision.decision_id
        assert result.planned.device_kind == "cpu"

    def test_the_shortcut_is_the_workload(self, router, option):
        expected = router.run("options.monte_carlo_european", **option)["price"]
        assert router.price_option_metal(**option)["price"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reconnect", [0.0, 10.0])
def test_an_interrupt_closes_the_connection_and_the_next_call_makes_another(daemon, router, monkeypatch, reconnect):
    """Ctrl-C while waiting: what the stream holds is in doubt. Without ``reconnect`` the next call says to connect again."""
    from routerd.client import link

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    with daemon.connect(name="notebook", reconnect=reconnect) as other:
        with monkeypatch.context() as patched:
            patched.setattr(link, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                other.call("status")
        if reconnect:
            assert other.call("status")["pid"] == daemon.pid
        else:
            with pytest.raises(errors.DaemonUnreachable, match="is closed; connect again"):
                other.call("status")
    assert router.call("ping") == {"pong": True}
