"""What a worker answers to each job, with the contract's backend and a null one that fails."""

from __future__ import annotations

import gc
import os
import re
import weakref

import numpy as np
import pytest

from routerd.interfaces import Execution
from routerd.memory import create_segment
from routerd.protocol import SegmentInfo
from routerd.testing import NullBackend
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.host import Host
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import dims_of

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
CLIENT = 5


def inline(array):
    return ArrayRef(array.shape, str(array.dtype), data=array.tobytes())


@pytest.fixture
def host():
    made = Host(WORKLOADS, incarnation=1, inline_bytes=64)
    loaded = made.handle(messages.Load(1, "null.one", "routerd.testing:NullBackend", {}))
    assert isinstance(loaded, messages.Loaded)
    yield made
    made.close()
    for segment in made.created:
        segment.close_descriptor()


def gemm(number=9, rows=40, value=1.0, backend="null.one", **extra):
    a, b = np.full((rows, 2), value), np.ones((2, 3))
    dims = {"m": rows, "k": 2, "n": 3}
    return messages.Execute(
        number, backend, "linalg.gemm", {}, {"a": inline(a), "b": inline(b)}, dims, CLIENT, "d", **extra
    )


class TestLoading:
    def test_it_tells_the_device_and_what_is_supported(self, host):
        loaded = host.handle(messages.Load(1, "null.two", "routerd.testing:NullBackend", {"fail": "unsupported"}))
        assert loaded.device.name == "null"
        assert loaded.supported.keys() == WORKLOADS.keys()
        assert set(loaded.supported.values()) == {"the backend does not support this workload"}

    @pytest.mark.parametrize(
        ("factory", "options", "code"),
        [
            ("routerd.testing:NullBackend", {"fail": "unavailable"}, "unavailable"),
            ("routerd.testing:NullBackend", {"fail": "nonsense"}, "plugin_error"),
            ("routerd.testing:Nothing", {}, "plugin_error"),
            ("not_there:Backend", {}, "plugin_error"),
        ],
    )
    def test_what_cannot_be_is_an_answer(self, host, factory, options, code):
        failed = host.handle(messages.Load(3, "null.bad", factory, options))
        assert (failed.id, failed.error.code) == (3, code)


class TestExecuting:
    def test_small_outputs_come_inline_and_large_ones_in_a_segment(self, host):
        small = host.handle(gemm(rows=2))
        assert np.frombuffer(small.outputs["c"].data).tolist() == [2.0] * 6
        assert (small.created, host.created) == ((), [])
        large = host.handle(gemm(rows=40))
        (info,) = large.created
        assert large.outputs["c"] == ArrayRef((40, 3), "float64", info.segment, 0)
        assert [segment.info for segment in host.created] == [info]
        values = np.frombuffer(host.created[0].map, count=120)
        assert (values == 2.0).all()

    def test_a_recycled_segment_carries_the_next_result(self, host):
        first = host.handle(gemm(value=1.0))
        segment = host.created.pop()
        second = host.handle(gemm(value=3.0, recycle=(segment.info.segment,)))
        assert second.created == ()
        assert second.outputs["c"].segment == first.outputs["c"].segment
        assert (np.frombuffer(segment.map, count=120) == 6.0).all()

    def test_content_is_checked_before_the_kernel(self, host):
        returns = np.full((5, 3), 0.01)
        returns[2, 1] = np.nan
        failed = host.handle(messages.Execute(
            4, "null.one", "analytics.performance", {"periods_per_year": 252.0, "risk_free": 0.0},
            {"returns": inline(returns)}, {"T": 5, "S": 3}, CLIENT, "d"))  # fmt: skip
        assert (failed.id, failed.error.code) == (4, "invalid_array")
        assert "returns[2, 1] is nan" in failed.error.message
        assert failed.trace == ""

    def test_a_kernel_may_raise_anything(self, host):
        host.handle(messages.Load(2, "null.raise", "routerd.testing:NullBackend", {"fail": "raise"}))
        failed = host.handle(gemm(backend="null.raise"))
        assert failed.error.code == "execution_failed"
        assert failed.error.message == "null.raise linalg.gemm raised RuntimeError: the null device was asked to fail"
        assert "_fail_early" in failed.trace
        assert isinstance(host.handle(gemm()), messages.Executed)

    def test_what_a_precision_cannot_hold_is_no_result(self, host):
        host.handle(messages.Load(2, "null.nan", "routerd.testing:NullBackend", {"fail": "nan"}))
        arrays = {"returns": inline(np.full((5, 3), 0.01)), "weights": inline(np.ones(3))}
        failed = host.handle(messages.Execute(
            4, "null.nan", "risk.var_historical", {"confidence": 0.99, "notional": 1.0},
            arrays, {"T": 5, "N": 3}, CLIENT, "d"))  # fmt: skip
        assert (failed.id, failed.error.code) == (4, "execution_failed")
        assert "null.nan cannot compute risk.var_historical" in failed.error.message
        assert "value_at_risk is nan" in failed.error.message
        product = host.handle(gemm(backend="null.nan"))  # its NaN may come from its inputs
        assert isinstance(product, messages.Executed)

    def test_running_out_of_memory_has_a_code_of_its_own(self, host, monkeypatch):
        def full(*_arguments):
            raise MemoryError("8 TB")

        monkeypatch.setattr(NullBackend, "execute", full)
        failed = host.handle(gemm())
        assert failed.error.code == "out_of_memory"
        assert "8 TB" in failed.error.message

    def test_a_failed_task_gives_its_segment_back(self, host, monkeypatch):
        """A new one is dropped unannounced; one that the client knows is kept for its next result."""
        good = NullBackend.execute

        def fail(*_arguments):
            raise ValueError("no")

        monkeypatch.setattr(NullBackend, "execute", fail)
        assert isinstance(host.handle(gemm()), messages.Failed)
        assert host.created == []
        monkeypatch.setattr(NullBackend, "execute", good)
        first = host.handle(gemm())
        host.created.pop().close_descriptor()
        number = first.outputs["c"].segment
        monkeypatch.setattr(NullBackend, "execute", fail)
        assert isinstance(host.handle(gemm(recycle=(number,))), messages.Failed)
        monkeypatch.setattr(NullBackend, "execute", good)
        assert host.handle(gemm()).outputs["c"].segment == number

    @pytest.mark.parametrize("code", ["invalid_array", "execution_failed", "out_of_memory"])
    def test_a_failed_task_lets_its_inputs_go_at_once(self, host, monkeypatch, code):
        """Not when the garbage collector next comes by: they may be gigabytes of a client that has left."""
        problem = {"execution_failed": ValueError("no"), "out_of_memory": MemoryError("no")}.get(code)

        def fail(*_arguments):
            raise problem

        if problem is not None:
            monkeypatch.setattr(NullBackend, "execute", fail)
        descriptor = create_segment(4096)
        host.attach(SegmentInfo(7, 4096), descriptor)
        os.close(descriptor)
        mapped = weakref.ref(host._inputs._maps[7])
        ref = ArrayRef((2, 2), "float64", 7)
        if code == "invalid_array":
            job = messages.Execute(1, "null.one", "risk.var_historical", {"confidence": 0.9, "notional": 1.0},
                                   {"returns": ref, "weights": inline(np.array([np.nan, 1.0]))}, {"T": 2, "N": 2}, CLIENT, "d")  # fmt: skip
        else:
            job = messages.Execute(1, "null.one", "linalg.gemm", {}, {"a": ref, "b": inline(np.ones((2, 2)))},
                                   {"m": 2, "k": 2, "n": 2}, CLIENT, "d")  # fmt: skip
        gc.disable()
        try:
            assert host.handle(job).error.code == code
            if problem is not None:
                problem.__traceback__ = None  # the test's own reference
            host.handle(messages.Forget(segments=(7,)))
            assert mapped() is None
        finally:
            gc.enable()

    @pytest.mark.parametrize(
        ("outputs", "problem"),
        [
            ({"c": np.full((50, 4), 7.0)}, r"its output c has shape \(50, 4\) instead of \(40, 3\)"),
            ({"c": np.full((3, 40), 7.0)}, r"its output c has shape \(3, 40\) instead of \(40, 3\)"),
            ({"c": np.full((40, 3), 7)}, "its output c holds int64 instead of float64"),
            ({"c": np.full((40, 3), 7.0, dtype=np.float32)}, "its output c holds float32 instead of float64"),
            ({"c": [[7.0] * 3] * 40}, "its output c is of type list"),
            ({"d": np.full((40, 3), 7.0)}, "its output c is missing"),
            ({}, "its output c is missing"),
            ({"c": np.full((40, 3), 7.0), "d": np.ones(2)}, "it has no output d"),
        ],
    )
    def test_what_is_not_as_declared_is_no_result(self, host, monkeypatch, outputs, problem):
        good = NullBackend.execute
        first = host.handle(gemm())
        host.created.pop().close_descriptor()
        number = first.outputs["c"].segment
        monkeypatch.setattr(NullBackend, "execute", lambda *_arguments: Execution(outputs, 0.0, 1e-6))
        failed = host.handle(gemm(recycle=(number,)))
        assert failed.error.code == "execution_failed"
        assert re.search(f"^null.one gave no result of linalg.gemm: {problem}$", failed.error.message)
        monkeypatch.setattr(NullBackend, "execute", good)
        assert host.handle(gemm()).outputs["c"].segment == number  # what was to carry it carries the next

    def test_an_output_whose_size_only_the_kernel_knows_arrives(self, host):
        workload = WORKLOADS["marketdata.ohlcv_bars"]
        example = workload.example(30.0 * workload.work_range[0], np.random.default_rng(1))
        dims = dims_of(workload, {name: array.shape for name, array in example.arrays.items()})
        defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
        job = messages.Execute(
            1, "null.one", workload.name, {**defaults, **example.params},
            {name: inline(np.ascontiguousarray(array)) for name, array in example.arrays.items()}, dims, CLIENT, "d",
        )  # fmt: skip
        answer = host.handle(job)
        bars = answer.outputs["bars"]
        assert bars.shape[0] == answer.outputs["symbol"].shape[0] > 1
        assert {segment.info.segment for segment in host.created} == {info.segment for info in answer.created}
        assert bars.segment in {info.segment for info in answer.created}

    def test_an_unknown_segment_is_an_answer(self, host):
        job = gemm()
        refs = {**job.arrays, "a": ArrayRef((40, 2), "float64", 99)}
        failed = host.handle(messages.Execute(1, "null.one", "linalg.gemm", {}, refs, job.dims, CLIENT, "d"))
        assert failed.error.code == "unknown_segment"


class TestProvingAndMeasuring:
    def test_the_contract_proves_exactly(self, host):
        proved = host.handle(messages.Prove(1, "null.one", "linalg.gemm", (1e4, 1e5)))
        assert proved.error == 0.0
        assert proved.cold_seconds > 0.0

    @pytest.mark.parametrize("fail", ["wrong", "nan"])
    def test_a_lie_is_measured(self, host, fail):
        host.handle(messages.Load(2, "null.liar", "routerd.testing:NullBackend", {"fail": fail}))
        proved = host.handle(messages.Prove(1, "null.liar", "options.monte_carlo_european", (1e3,)))
        assert proved.error > 0.05

    @pytest.mark.parametrize("smallest", [True, False])
    def test_what_the_device_has_no_memory_for_is_not_held_against_it(self, host, monkeypatch, smallest):
        good = NullBackend.execute

        def small(self, workload, params, inputs, into):
            if smallest or inputs["a"].size > 1000:
                raise MemoryError("a small card")
            return good(self, workload, params, inputs, into)

        monkeypatch.setattr(NullBackend, "execute", small)
        answer = host.handle(messages.Prove(1, "null.one", "linalg.gemm", (1e3, 1e6)))
        if smallest:
            assert answer.error.code == "out_of_memory"
        else:
            assert answer.error == 0.0

    def test_a_task_in_pieces_is_the_same_as_a_whole(self, host):
        whole = host.handle(gemm())
        pieces = host.handle(gemm(pieces=3))
        assert pieces.outputs["c"].shape == whole.outputs["c"].shape
        assert isinstance(pieces, messages.Executed)

    def test_every_variant_is_proved(self, host, monkeypatch):
        methods = []
        good = NullBackend.execute

        def watch(self, workload, params, inputs, into):
            methods.append(params["method"])
            return good(self, workload, params, inputs, into)

        monkeypatch.setattr(NullBackend, "execute", watch)
        host.handle(messages.Prove(1, "null.one", "options.monte_carlo_european", (1e3,)))
        assert methods == ["pseudo_random", "quasi_random"]

    def test_timings_are_positive_bounded_and_leave_nothing(self, host):
        measured = host.handle(messages.Measure(1, "null.one", "linalg.gemm", 1e6, 10.0))
        assert 1 <= len(measured.seconds) < messages.MEASURE_CALLS
        assert all(seconds > 0.0 for seconds in measured.seconds)
        assert measured.work == pytest.approx(1e6, rel=0.1)
        assert host.created == []
        assert host._outputs._free == host._outputs._lent == {}

    def test_a_small_budget_is_kept_with_one_timing_at_least(self, host):
        measured = host.handle(messages.Measure(1, "null.one", "linalg.gemm", 1e4, 1e-9))
        assert len(measured.seconds) == 1

    def test_the_seed_makes_the_example(self, host, monkeypatch):
        seen = []
        good = NullBackend.execute

        def watch(self, workload, params, inputs, into):
            seen.append(inputs["a"].sum())
            return good(self, workload, params, inputs, into)

        monkeypatch.setattr(NullBackend, "execute", watch)
        for more in ({}, {"seed": messages.PROOF_SEED}, {"seed": 4}, {"seed": 4}):
            host.handle(messages.Measure(1, "null.one", "linalg.gemm", 1e4, 1e-9, **more))
        proof, same, other, again = seen[::2]
        assert proof == same
        assert other == again != proof


def test_forgetting_a_client_drops_its_results(host):
    first = host.handle(gemm())
    host.created.pop().close_descriptor()
    assert host.handle(messages.Forget(client=CLIENT)) is None
    assert host.handle(gemm(recycle=(first.outputs["c"].segment,))).outputs["c"].segment != first.outputs["c"].segment
