"""Which tasks are refused for what they did to workers: by content, for a time, and within bounds."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.memory import map_segment
from routerd.quarantine import KEPT_SECONDS, LETHAL, Quarantine, content_digest
from routerd.types import ArrayRef, Task

GEMM = "linalg.gemm"


def task(workload=GEMM, params=None, arrays=None, **more):
    return Task(workload, params or {}, arrays or {}, {}, work=1.0, nbytes=0, tolerance=1e-3, **more)


def inline(*numbers, shape=None, dtype="uint8"):
    return ArrayRef(shape or (len(numbers),), dtype, data=bytes(numbers))


def digest(one, *segments):
    return asyncio.run(content_digest(one, segments))


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quarantine(clock):
    return Quarantine(clock)


def convict(quarantine, one, reason="it kills"):
    return [quarantine.blame(one, digest(one), reason) for _ in range(LETHAL)]


class TestRefusing:
    def test_kills_are_counted_and_the_last_one_decides(self, quarantine):
        one = task(arrays={"a": inline(1, 2, 3)})
        for kills in range(1, LETHAL):
            assert quarantine.blame(one, digest(one), f"kill {kills}") == kills
            assert quarantine.verdict(digest(one)) is None
            assert quarantine.refused == 0
        assert quarantine.blame(one, digest(one), "the last") == LETHAL
        assert quarantine.verdict(digest(one)) == "the last"
        assert quarantine.refused == 1

    def test_content_counts_not_the_name(self, quarantine):
        convict(quarantine, task(arrays={"a": inline(1, 2, 3)}))
        for other in (
            task(arrays={"a": inline(1, 2, 4)}),
            task(arrays={"b": inline(1, 2, 3)}),
            task(arrays={"a": inline(1, 2, 3, shape=(3, 1))}),
            task(arrays={"a": inline(1, 2, 3, dtype="bool")}),
            task(arrays={"a": inline(1, 2, 3), "b": inline()}),
            task(params={"confidence": 0.9}, arrays={"a": inline(1, 2, 3)}),
            task("linalg.other", arrays={"a": inline(1, 2, 3)}),
        ):
            assert quarantine.verdict(digest(other)) is None
        again = task(arrays={"a": inline(1, 2, 3)}, priority=5, deadline_seconds=1.0)
        assert quarantine.verdict(digest(again)) == "it kills"

    def test_who_looks_like_nobody_on_record_need_not_be_looked_at(self, quarantine):
        assert not quarantine.may_know(task(arrays={"a": inline(1)}))
        suspect = task(params={"x": 1}, arrays={"a": inline(1, 2)})
        quarantine.blame(suspect, digest(suspect), "once")
        assert quarantine.may_know(task(params={"x": 1}, arrays={"a": inline(9, 9)}))
        for other in (
            task(params={"x": 2}, arrays={"a": inline(1, 2)}),
            task(params={"x": 1}, arrays={"a": inline(1, 2, 3)}),
            task("linalg.other", {"x": 1}, {"a": inline(1, 2)}),
        ):
            assert not quarantine.may_know(other)

    def test_a_verdict_holds_for_a_time_and_the_count_begins_anew_then(self, quarantine, clock):
        one = task(arrays={"a": inline(1)})
        convict(quarantine, one)
        clock.now += KEPT_SECONDS - 1.0
        assert quarantine.verdict(digest(one)) is not None
        clock.now += 1.0
        assert quarantine.verdict(digest(one)) is None
        assert quarantine.refused == 0
        assert quarantine.blame(one, digest(one), "again") == 1

    def test_kills_far_apart_do_not_add_up(self, quarantine, clock):
        one = task(arrays={"a": inline(1)})
        for _ in range(LETHAL + 2):
            assert quarantine.blame(one, digest(one), "now and then") == 1
            clock.now += KEPT_SECONDS

    def test_what_is_computed_after_all_was_not_to_blame(self, quarantine):
        one = task(arrays={"a": inline(1)})
        quarantine.blame(one, digest(one), "once")
        quarantine.absolve(digest(one))
        assert not quarantine.may_know(one)
        assert quarantine.blame(one, digest(one), "once more") == 1
        quarantine.absolve(b"never heard of")

    def test_a_stream_of_new_contents_cannot_fill_the_memory(self, quarantine):
        """The oldest is forgotten first, and one that has just been blamed is not the oldest."""
        first, second = (task(params={"number": number}) for number in (-1, -2))
        convict(quarantine, first)
        convict(quarantine, second)
        for number in range(2000):
            quarantine.blame(task(params={"number": number}), number.to_bytes(32), "once")
            if number == 100:
                quarantine.blame(first, digest(first), "again")
            if number == 300:
                assert quarantine.verdict(digest(first)) == "again"
                assert quarantine.verdict(digest(second)) is None
        known = sum(quarantine.may_know(task(params={"number": number})) for number in range(2000))
        assert 0 < known < 500


class TestDigest:
    @given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=64))
    def test_it_tells_contents_apart(self, one, other):
        digests = [digest(task(arrays={"a": ArrayRef((len(data),), "uint8", data=data)})) for data in (one, other)]
        assert (digests[0] == digests[1]) is (one == other)

    def test_the_order_in_which_arrays_are_named_is_nothing(self):
        a, b = inline(1, 2), inline(3)
        assert digest(task(arrays={"a": a, "b": b})) == digest(task(arrays={"b": b, "a": a}))

    def test_the_border_between_two_arrays_counts(self):
        first = {"a": inline(1, 2), "b": inline(3, 4)}
        second = {"a": inline(3, 4), "b": inline(1, 2)}
        assert digest(task(arrays=first)) != digest(task(arrays=second))

    def segment(self, session, content, offset=0):
        made = session.alloc(4096)
        with map_segment(made.descriptor, 4096, writable=True) as view:
            view[offset : offset + len(content)] = content
        return made

    def by_reference(self, segment, count, offset=0):
        return task(arrays={"a": ArrayRef((count,), "uint8", segment.info.segment, offset)})

    def test_it_is_the_same_wherever_the_content_lies(self, session):
        content = bytes(range(200))
        lying = self.segment(session, content, 64)
        other = self.segment(session, content)
        expected = digest(task(arrays={"a": inline(*content)}))
        assert digest(self.by_reference(lying, 200, 64), lying) == expected
        assert digest(self.by_reference(other, 200), other, lying) == expected

    def test_what_is_written_into_the_segment_changes_it(self, session):
        lying = self.segment(session, b"before")
        one = self.by_reference(lying, 6)
        before = digest(one, lying)
        with map_segment(lying.descriptor, 4096, writable=True) as view:
            view[5] = 0
        assert digest(one, lying) != before
        with map_segment(lying.descriptor, 4096, writable=True) as view:
            view[:6] = b"before"
            view[6:12] = b"beside"  # what no array refers to says nothing
        assert digest(one, lying) == before

    def test_several_arrays_may_lie_in_one_segment(self, session):
        lying = self.segment(session, bytes(range(64)))
        number = lying.info.segment
        both = task(arrays={"a": ArrayRef((8,), "uint8", number), "b": ArrayRef((8,), "uint8", number, 8)})
        assert digest(both, lying) == digest(task(arrays={"a": inline(*range(8)), "b": inline(*range(8, 16))}))

    def test_arrays_of_any_type_in_a_segment_are_their_bytes(self, session):
        content = bytes(range(64))
        lying = self.segment(session, content, 8)
        one = task(arrays={"a": ArrayRef((2, 4), "float64", lying.info.segment, 8)})
        assert digest(one, lying) == digest(task(arrays={"a": ArrayRef((2, 4), "float64", data=content)}))

    def test_a_task_without_content_is_its_parameters(self):
        assert digest(task(params={"a": 1, "b": 2})) == digest(task(params={"b": 2, "a": 1}))
        assert digest(task(params={"a": 1})) != digest(task(params={"a": 2}))
        assert digest(task(params={"a": 1})) != digest(task(params={"a": True}))
