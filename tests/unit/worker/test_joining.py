"""Tasks of several clients as one in a worker: what fits together, whose mistake is whose, and where results lie."""

from __future__ import annotations

import os

import numpy as np
import pytest

from routerd.memory import create_segment, map_segment
from routerd.protocol import SegmentInfo
from routerd.testing import NullBackend
from routerd.types import ArrayRef
from routerd.worker import host as host_module
from routerd.worker import joining, messages
from routerd.worker.host import Host
from routerd.workloads import builtin_workloads
from routerd.workloads.content import check_content

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
B = np.arange(6.0).reshape(2, 3)


def inline(array):
    return ArrayRef(array.shape, str(array.dtype), data=array.tobytes())


@pytest.fixture
def host():
    made = Host(WORKLOADS, incarnation=1, inline_bytes=64)
    assert isinstance(made.handle(messages.Load(1, "null.one", "routerd.testing:NullBackend", {})), messages.Loaded)
    yield made
    made.close()
    for segment in made.created:
        segment.close_descriptor()


@pytest.fixture
def executed(monkeypatch):
    """The inputs of every execution."""
    seen = []
    good = NullBackend.execute

    def watch(self, workload, params, inputs, into):
        seen.append(dict(inputs))
        return good(self, workload, params, inputs, into)

    monkeypatch.setattr(NullBackend, "execute", watch)
    return seen


class Segment:
    """A client's segment that holds one array."""

    def __init__(self, host, number, array):
        descriptor = create_segment(array.nbytes)
        self.map = map_segment(descriptor, array.nbytes, writable=True)
        host.attach(SegmentInfo(number, array.nbytes), descriptor)
        os.close(descriptor)
        self.array = np.frombuffer(self.map, dtype=array.dtype).reshape(array.shape)
        self.array[...] = array
        self.ref = ArrayRef(array.shape, str(array.dtype), number, 0)


def member(a, b=None, client=1, **extra):
    shape = b.shape if b is not None else B.shape
    arrays = {"a": inline(a), "b": b if isinstance(b, ArrayRef) else inline(B if b is None else b)}
    return messages.Member({}, arrays, {"m": a.shape[0], "k": 2, "n": shape[1]}, client, f"d{client}", **extra)


def run(host, *members, workload="linalg.gemm", frozen=()):
    done = host.handle(messages.ExecuteJoined(9, "null.one", workload, members, frozen=frozen))
    assert isinstance(done, messages.ExecutedJoined), done
    assert done.id == 9
    return done


def output(host, answer, name="c"):
    ref = answer.outputs[name]
    if ref.data is not None:
        return np.frombuffer(ref.data, ref.dtype).reshape(ref.shape)
    segment = next(one for one in host.created if one.info.segment == ref.segment)
    return np.frombuffer(segment.map, ref.dtype, count=int(np.prod(ref.shape)), offset=ref.offset).reshape(ref.shape)


def rows(value, count=1):
    return np.full((count, 2), float(value))


class TestTogether:
    def test_every_member_gets_its_own_rows_of_one_execution(self, host, executed):
        inputs = [rows(value, 1 + value) for value in range(4)]
        done = run(host, *(member(a, client=number) for number, a in enumerate(inputs)))
        assert len(executed) == 1
        for number, (a, answer) in enumerate(zip(inputs, done.members, strict=True)):
            assert (answer.id, answer.client) == (number, number)
            assert output(host, answer).tolist() == (a @ B).tolist()
        (execution,) = done.executions
        assert execution.members == (0, 1, 2, 3)

    def test_seconds_are_shared_by_work(self, host):
        done = run(host, member(rows(1, 1)), member(rows(2, 3)))
        (execution,) = done.executions
        small, large = done.members
        assert large.kernel_seconds == pytest.approx(3.0 * small.kernel_seconds)
        assert small.kernel_seconds + large.kernel_seconds == pytest.approx(execution.kernel_seconds)
        assert small.transfer_seconds + large.transfer_seconds == pytest.approx(execution.transfer_seconds)

    def test_large_results_lie_in_segments_of_their_own(self, host):
        done = run(host, member(rows(1, 8), client=1), member(rows(2, 1), client=2), member(rows(3, 8), client=3))
        first, small, last = done.members
        assert first.outputs["c"].segment != last.outputs["c"].segment
        assert small.created == ()
        assert done.created == (*first.created, *last.created) == tuple(one.info for one in host.created)
        assert output(host, last).tolist() == (rows(3, 8) @ B).tolist()

    def test_descriptors_go_to_the_members_whose_they_are(self, host):
        """Those that fit each other are computed first, and 0 and 2 do."""
        members = [member(rows(number, 8), B + number % 2, client=number) for number in range(4)]
        done = run(host, *members)
        assert [one.members for one in done.executions] == [(0, 2), (1, 3)]
        assert [one.info for one in host.created] == list(done.created)
        assert [one.created[0].segment for one in done.members] == [info.segment for info in done.created]

    def test_a_recycled_segment_carries_its_clients_next_result(self, host):
        first = run(host, member(rows(1, 8), client=1), member(rows(2, 8), client=2))
        kept, host.created = host.created, []  # as when the answer is sent
        number = first.members[1].outputs["c"].segment
        again = run(host, member(rows(3, 8), client=1), member(rows(4, 8), client=2, recycle=(number,)))
        assert again.members[1].outputs["c"].segment == number
        assert again.members[1].created == ()
        values = np.frombuffer(kept[1].map, count=24).reshape(8, 3)
        assert values.tolist() == (rows(4, 8) @ B).tolist()

    def test_columns_are_joined_where_the_workload_says_so(self, host, executed):
        closes = [np.cumsum(np.ones((60, columns)), axis=0) + columns for columns in (1, 2)]
        members = [
            messages.Member({"period": 5}, {"close": inline(close)}, {"T": 60, "S": close.shape[1]}, number, "d")
            for number, close in enumerate(closes)
        ]
        done = run(host, *members, workload="indicators.sma")
        assert executed[0]["close"].shape == (60, 3)
        for close, answer in zip(closes, done.members, strict=True):
            (name,) = answer.outputs
            given = output(host, answer, name)
            assert given[-1].tolist() == close[-5:].mean(axis=0).tolist()
            assert given.shape == close.shape

    def test_groups_stay_those_of_their_task(self, host, executed):
        def positions(quantities, accounts, count):
            size = len(quantities)
            arrays = {"quantity": np.array(quantities), "account": np.array(accounts), "haircut": np.zeros(size)}
            arrays |= {"price": np.ones(size), "fx": np.ones(size)}
            refs = {name: inline(array) for name, array in arrays.items()}
            return messages.Member({"num_accounts": count}, refs, {"P": size}, 1, "d")

        done = run(
            host,
            positions([1.0, 2.0], [0, 1], 3),
            positions([10.0], [0], 1),
            workload="collateral.haircut",
        )
        assert len(executed) == 1
        assert [output(host, one, "market_value").tolist() for one in done.members] == [[1.0, 2.0, 0.0], [10.0]]


class TestApart:
    def test_different_shared_inputs_are_never_mixed(self, host, executed):
        other = B + 1.0
        done = run(host, member(rows(1)), member(rows(1), other), member(rows(2)), member(rows(2), other))
        assert [output(host, one).tolist() for one in done.members] == [
            (rows(1) @ B).tolist(), (rows(1) @ other).tolist(), (rows(2) @ B).tolist(), (rows(2) @ other).tolist()
        ]  # fmt: skip
        assert [one.members for one in done.executions] == [(0, 2), (1, 3)]
        assert len(executed) == 2

    def test_different_parameters_are_never_mixed(self, host, executed):
        close = np.arange(120.0).reshape(60, 2) + 1.0
        members = [
            messages.Member({"period": period}, {"close": inline(close)}, {"T": 60, "S": 2}, 1, "d")
            for period in (5, 6)
        ]
        done = run(host, *members, workload="indicators.sma")
        assert len(executed) == 2
        assert len(done.executions) == 2

    def test_equal_bytes_of_another_type_are_not_the_same(self, host, executed):
        zeros = [np.zeros((2, 3)), np.zeros((2, 3), dtype=np.float32)]
        run(host, *(member(rows(1), b) for b in zeros))
        assert len(executed) == 2


class TestSharedInputs:
    def test_small_ones_are_compared_by_content(self, host, executed):
        first, same, other = (Segment(host, number, array) for number, array in ((1, B), (2, B), (3, -B)))
        done = run(host, *(member(rows(1), one.ref, client=number) for number, one in enumerate((first, same, other))))
        assert [one.members for one in done.executions] == [(0, 1), (2,)]

    def test_what_a_client_could_still_change_is_not_computed_with_for_others(self, host, monkeypatch):
        """The first one's weights change right after they were compared: the second one gets what both had sent."""
        first, same = Segment(host, 1, B), Segment(host, 2, B)

        def change_then_check(*arguments):
            first.array[...] = 666.0
            return check_content(*arguments)

        monkeypatch.setattr(joining, "check_content", change_then_check)
        done = run(host, member(rows(1), first.ref, client=1), member(rows(1), same.ref, client=2))
        assert len(done.executions) == 1
        assert output(host, done.members[1]).tolist() == (rows(1) @ B).tolist()

    def test_large_ones_join_if_they_are_one_place(self, host, executed, monkeypatch):
        monkeypatch.setattr(joining, "COMPARED_BYTES", B.nbytes - 1)
        first, same = Segment(host, 1, B), Segment(host, 2, B)
        done = run(host, member(rows(1), first.ref), member(rows(2), first.ref), member(rows(3), same.ref, client=2))
        assert [one.members for one in done.executions] == [(0, 1), (2,)]

    def test_large_frozen_ones_join_by_a_digest_that_is_made_once(self, host, executed, monkeypatch):
        monkeypatch.setattr(joining, "COMPARED_BYTES", 0)
        segments = [Segment(host, number, array) for number, array in ((1, B), (2, B), (3, -B))]
        hashed = []
        blake2b = host_module.Constants.digest.__globals__["hashlib"].blake2b
        monkeypatch.setattr(
            "routerd.worker.constants.hashlib.blake2b", lambda *a, **k: hashed.append(1) or blake2b(*a, **k)
        )
        for _ in range(3):
            done = run(
                host,
                *(member(rows(1), one.ref, client=number) for number, one in enumerate(segments)),
                frozen=(1, 2, 3),
            )
            assert [one.members for one in done.executions] == [(0, 1), (2,)]
        assert len(hashed) == 3
        host.handle(messages.Forget(segments=(1, 2, 3)))
        assert host._constants._digests == host._constants._good == {}


class TestMistakes:
    def test_bad_content_is_its_owners_alone(self, host, executed):
        returns = [np.full((5, 1), 0.01 * number) for number in range(1, 5)]
        returns[2][3, 0] = np.nan
        members = [
            messages.Member(
                {"periods_per_year": 252, "risk_free": 0.0}, {"returns": inline(one)}, {"T": 5, "S": 1}, number, "d"
            )
            for number, one in enumerate(returns)
        ]
        done = run(host, *members, workload="analytics.performance")
        bad = done.members[2]
        assert (bad.id, bad.error.code) == (2, "invalid_array")
        assert "returns[3, 0] is nan" in bad.error.message
        assert [isinstance(one, messages.Executed) for one in done.members] == [True, True, False, True]
        assert [one.members for one in done.executions] == [(0, 1, 3)]
        assert len(executed) == 1

    def test_a_group_out_of_range_is_its_owners_alone(self, host):
        def position(account):
            arrays = {name: inline(np.ones(1)) for name in ("quantity", "price", "fx")}
            arrays |= {"haircut": inline(np.zeros(1)), "account": inline(np.array([account]))}
            return messages.Member({"num_accounts": 2}, arrays, {"P": 1}, 1, "d")

        done = run(host, position(0), position(2), position(1), workload="collateral.haircut")
        assert done.members[1].error.code == "invalid_array"
        assert "account[0] is 2" in done.members[1].error.message
        assert output(host, done.members[0], "market_value").tolist() == [1.0, 0.0]
        assert output(host, done.members[2], "market_value").tolist() == [0.0, 1.0]

    def test_an_unknown_segment_is_its_owners_alone(self, host):
        done = run(host, member(rows(1)), member(rows(1), ArrayRef((2, 3), "float64", 99)), member(rows(2)))
        assert done.members[1].error.code == "unknown_segment"
        assert [one.members for one in done.executions] == [(0, 2)]

    def test_what_fails_together_is_tried_alone(self, host, monkeypatch):
        good = NullBackend.execute

        def poisoned(self, workload, params, inputs, into):
            if 666.0 in inputs["a"]:
                raise RuntimeError("poison")
            return good(self, workload, params, inputs, into)

        monkeypatch.setattr(NullBackend, "execute", poisoned)
        done = run(host, member(rows(1)), member(rows(666)), member(rows(2)))
        assert done.members[1].error.message == "null.one linalg.gemm raised RuntimeError: poison"
        assert "poisoned" in done.members[1].trace
        assert [output(host, done.members[place]).tolist() for place in (0, 2)] == [
            (rows(1) @ B).tolist(), (rows(2) @ B).tolist()
        ]  # fmt: skip
        assert [one.members for one in done.executions] == [(0,), (2,)]

    def test_a_kernel_that_gives_too_little_is_not_cut(self, host, monkeypatch):
        good = NullBackend.execute

        def short(self, workload, params, inputs, into):
            execution = good(self, workload, params, inputs, into)
            if inputs["a"].shape[0] > 1:
                return execution._replace(outputs={"c": execution.outputs["c"][:-1]})
            return execution

        monkeypatch.setattr(NullBackend, "execute", short)
        done = run(host, member(rows(1)), member(rows(2)))
        assert [output(host, one).tolist() for one in done.members] == [(rows(1) @ B).tolist(), (rows(2) @ B).tolist()]

    def test_a_workload_that_is_not_there_fails_the_whole_job(self, host):
        failed = host.handle(messages.ExecuteJoined(4, "null.one", "ml.model/gone@1", (member(rows(1)),)))
        assert (failed.id, failed.error.code) == (4, "unavailable")


class TestKnownContent:
    """Content that cannot change is checked once."""

    @pytest.fixture
    def checked(self, monkeypatch):
        """The inputs that were known to be good, of every check."""
        seen = []

        def watch(workload, params, inputs, known=()):
            seen.append(set(known))
            check_content(workload, params, inputs, known)

        monkeypatch.setattr(joining, "check_content", watch)
        monkeypatch.setattr(host_module, "check_content", watch)
        return seen

    def execute(self, host, b, frozen):
        arrays = {"a": inline(rows(1)), "b": b.ref}
        return host.handle(
            messages.Execute(1, "null.one", "linalg.gemm", {}, arrays, {"m": 1, "k": 2, "n": 3}, 1, "d", frozen=frozen)
        )

    def test_of_frozen_segments(self, host, checked):
        b = Segment(host, 1, B)
        for _ in range(2):
            self.execute(host, b, (1,))
        run(host, member(rows(1), b.ref), member(rows(2), b.ref), frozen=(1,))
        assert checked == [set(), {"b"}, {"b"}]

    def test_of_no_others(self, host, checked):
        b = Segment(host, 1, B)
        for _ in range(2):
            self.execute(host, b, ())
        run(host, member(rows(1), b.ref), member(rows(2), b.ref))
        assert checked == [set()] * 3

    def test_until_the_segment_goes(self, host, checked):
        self.execute(host, Segment(host, 1, B), (1,))
        host.handle(messages.Forget(segments=(1,)))
        self.execute(host, Segment(host, 1, B), (1,))
        assert checked == [set(), set()]

    def test_bad_content_is_never_known(self, host):
        weights = np.full(2, np.nan)
        segment = Segment(host, 1, weights)
        arrays = {"returns": inline(np.full((3, 2), 0.01)), "weights": segment.ref}
        params = {"confidence": 0.9, "notional": 1.0}
        for _ in range(2):
            failed = host.handle(
                messages.Execute(
                    1, "null.one", "risk.var_historical", params, arrays, {"T": 3, "N": 2}, 1, "d", frozen=(1,)
                )
            )
            assert failed.error.code == "invalid_array"
