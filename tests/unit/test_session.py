"""Sessions: a client's segments are its own, counted, and gone with it."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from routerd.errors import BadRequest, InvalidArray, LimitExceeded, UnknownSegment
from routerd.memory import map_segment
from routerd.protocol import Limits, SegmentInfo
from routerd.session import FIRST_OUTPUT, Session
from routerd.types import ArrayRef

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux seals memory")


class Unsealed:
    """An input segment whose descriptor nobody touches."""

    info = SegmentInfo(1, 4096)
    descriptor = -1
    frozen = False

    def release(self):
        return True


@pytest.fixture
def session():
    limits = Limits(
        max_frame_bytes=1 << 20,
        max_in_flight_per_client=8,
        max_arrays_per_task=8,
        max_segment_bytes=1 << 20,
        max_segment_bytes_per_client=3 << 19,
        inline_array_bytes=8192,
    )
    made = Session("test", 1000, 1000, None, "execute", limits)
    yield made
    made.close()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("size", [0, -1, (1 << 20) + 1])
def test_a_segment_has_a_size_within_the_limit(session, size):
    with pytest.raises(LimitExceeded, match="1 to 1048576 bytes"):
        session.alloc(size)


def test_all_segments_together_have_a_limit(session):
    session.alloc(1 << 20)
    with pytest.raises(LimitExceeded, match="limit of 1572864"):
        session.alloc(1 << 20)
    assert session.segment_bytes == 1 << 20


def test_freeing_gives_the_bytes_back_and_closes_the_descriptor(session):
    segment = session.alloc(4096)
    inputs, outputs = session.free([segment.info.segment])
    assert inputs == [segment]
    assert outputs == {}
    assert session.segment_bytes == 0
    assert segment.release()
    assert not is_open(segment.descriptor)


def test_a_segment_in_use_outlives_its_freeing(session):
    segment = session.alloc(4096)
    segment.hold()
    session.free([segment.info.segment])
    assert not segment.release()
    assert is_open(segment.descriptor)
    assert segment.release()


def mapped(segment, protection=mmap.PROT_READ | mmap.PROT_WRITE):
    return mmap.mmap(segment.descriptor, segment.info.size, prot=protection)


@ON_LINUX
def test_frozen_content_cannot_change_any_more(session):
    segment = session.alloc(4096)
    with mapped(segment) as writable:
        writable[:3] = b"abc"
    assert not segment.frozen
    assert session.freeze(segment.info.segment) is True
    assert session.freeze(segment.info.segment) is True  # it is already
    assert segment.frozen
    for change in (lambda: mapped(segment), lambda: os.pwrite(segment.descriptor, b"x", 0)):
        with pytest.raises(PermissionError):
            change()
    with map_segment(segment.descriptor, 4096, writable=False) as readable:
        assert readable[:3] == b"abc"


@ON_LINUX
def test_what_can_still_be_written_cannot_be_frozen(session):
    segment = session.alloc(4096)
    with mapped(segment), pytest.raises(BadRequest, match="unmap it wherever it is mapped writable"):
        session.freeze(segment.info.segment)
    assert not segment.frozen
    assert session.freeze(segment.info.segment)


def test_where_there_are_no_seals_nothing_is_marked_frozen(session, monkeypatch):
    monkeypatch.setattr("routerd.memory.sys.platform", "darwin")
    segment = session.alloc(4096) if sys.platform == "darwin" else session._inputs.setdefault(1, Unsealed())
    assert session.freeze(segment.info.segment) is False
    assert not segment.frozen


def test_foreign_segments_are_unknown(session):
    with pytest.raises(UnknownSegment, match="segment 999999 is not held"):
        session.freeze(999_999)
    with pytest.raises(UnknownSegment, match="segment 999999 is not held"):
        session.free([999_999])
    with pytest.raises(UnknownSegment, match="array a refers to segment 999999"):
        session.inputs_of({"a": ArrayRef((10,), "float64", 999_999)})


@pytest.mark.parametrize(("offset", "length"), [(-8, 1), (4096, 1), (8, 512), (4, 1)])
def test_an_array_must_lie_inside_its_segment(session, offset, length):
    segment = session.alloc(4096)
    with pytest.raises(InvalidArray, match="multiple of 8"):
        session.inputs_of({"a": ArrayRef((length,), "float64", segment.info.segment, offset)})


def test_outputs_are_counted_until_freed(session):
    first, second = SegmentInfo(FIRST_OUTPUT, 4096), SegmentInfo(FIRST_OUTPUT * 2, 4096)
    session.adopt([first], 1)
    session.adopt([second], 2)
    session.reuse([first.segment, second.segment])
    assert session.take_reusable(2) == (second.segment,)
    assert session.take_reusable(2) == ()
    assert session.segment_bytes == 8192
    session.disown({2})
    assert session.segment_bytes == 4096
    session.reuse([first.segment])
    assert session.take_reusable(1) == ()
    assert session.free([second.segment]) == ([], {2: [second.segment]})
    assert session.segment_bytes == 0


def test_closing_closes_every_descriptor(session):
    segments = [session.alloc(4096) for _ in range(3)]
    assert sorted(session.close()) == sorted(segment.info.segment for segment in segments)
    assert not any(is_open(segment.descriptor) for segment in segments)
