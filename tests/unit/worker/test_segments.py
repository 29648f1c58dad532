"""Segments in a worker: placed, reused by the client they were made for, and by nobody else."""

from __future__ import annotations

import fcntl
import os
import sys

import numpy as np
import pytest

from routerd.errors import InvalidArray, UnknownSegment
from routerd.memory import ALIGNMENT, create_segment
from routerd.protocol import SegmentInfo
from routerd.types import ArrayRef
from routerd.worker.segments import NOBODY, InputSegments, OutputSegments, place

FLOAT = np.dtype("float64")


class TestPlacing:
    def test_arrays_lie_aligned_and_apart(self):
        offsets, size = place({"a": ((3,), FLOAT), "b": ((5, 2), np.dtype("float32")), "c": ((1,), FLOAT)})
        assert offsets == {"a": 0, "b": ALIGNMENT, "c": 2 * ALIGNMENT}
        assert size == 2 * ALIGNMENT + 8

    def test_nothing_still_needs_a_segment(self):
        assert place({}) == ({}, 1)
        assert place({"a": ((0, 4), FLOAT)}) == ({"a": 0}, 1)


class TestInputs:
    @pytest.fixture
    def inputs(self):
        segments = InputSegments()
        descriptor = create_segment(4096)
        os.pwrite(descriptor, np.arange(512.0).tobytes(), 0)
        segments.attach(SegmentInfo(7, 4096), descriptor)
        os.close(descriptor)
        return segments

    def test_a_view_is_the_clients_memory_and_read_only(self, inputs):
        view = inputs.view("a", ArrayRef((2, 3), "float64", 7, 16))
        assert view.tolist() == [[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]
        assert not view.flags.writeable

    def test_inline_arrays_need_no_segment(self, inputs):
        view = inputs.view("a", ArrayRef((2,), "int32", data=np.array([4, 5], "int32").tobytes()))
        assert (view.tolist(), view.flags.writeable) == ([4, 5], False)

    def test_what_lies_outside_is_refused_again_here(self, inputs):
        for ref in (
            ArrayRef((513,), "float64", 7),
            ArrayRef((1,), "float64", 7, 4096),
            ArrayRef((1,), "float64", 7, -8),
        ):
            with pytest.raises(InvalidArray, match="array a reaches beyond its segment of 4096 bytes"):
                inputs.view("a", ref)

    def test_dropping_forgets_but_leaves_views_alone(self, inputs):
        view = inputs.view("a", ArrayRef((1,), "float64", 7, 8))
        inputs.drop([7, 8])
        with pytest.raises(UnknownSegment, match="segment 7, which is not attached"):
            inputs.view("a", ArrayRef((1,), "float64", 7))
        assert view[0] == 1.0


class TestOutputs:
    def test_numbers_are_unique_over_incarnations(self):
        first, second = OutputSegments(1), OutputSegments(2)
        numbers = [owner.acquire(5, 100)[0].info.segment for owner in (first, first, second)]
        assert numbers == [1 << 32, (1 << 32) + 1, 2 << 32]

    def test_a_new_segment_has_whole_pages_and_a_sealed_descriptor(self):
        segment, new = OutputSegments(1).acquire(5, 5000)
        assert new
        assert segment.info.size == 8192
        assert os.fstat(segment.descriptor).st_size == 8192
        if sys.platform == "linux":
            assert fcntl.fcntl(segment.descriptor, fcntl.F_GET_SEALS) & 0x0010  # F_SEAL_FUTURE_WRITE
        segment.close_descriptor()
        segment.close_descriptor()
        assert segment.descriptor == -1

    def test_only_what_was_given_back_is_used_again(self):
        outputs = OutputSegments(1)
        first, _ = outputs.acquire(5, 4096)
        second, new = outputs.acquire(5, 4096)
        assert new
        outputs.recycle(5, [first.info.segment, 12345])
        assert outputs.acquire(5, 4096) == (first, False)
        assert outputs.acquire(5, 4096)[1] is True
        assert second is not first

    def test_never_by_another_client(self):
        outputs = OutputSegments(1)
        mine, _ = outputs.acquire(5, 4096)
        outputs.recycle(6, [mine.info.segment])  # a number that is not theirs
        assert outputs.acquire(6, 4096)[1] is True
        assert outputs.acquire(5, 4096)[1] is True
        outputs.recycle(5, [mine.info.segment])
        assert outputs.acquire(6, 4096)[1] is True
        assert outputs.acquire(5, 4096) == (mine, False)

    def test_the_smallest_that_fits_and_is_not_far_too_large(self):
        outputs = OutputSegments(1)
        sizes = (4096, 8192, 65536)
        segments = [outputs.acquire(5, size)[0] for size in sizes]
        outputs.recycle(5, [segment.info.segment for segment in segments])
        assert outputs.acquire(5, 5000) == (segments[1], False)
        assert outputs.acquire(5, 8192)[1] is True  # 64 KiB are left for something larger
        assert outputs.acquire(5, 100) == (segments[0], False)
        assert outputs.acquire(5, 60000) == (segments[2], False)

    def test_discarding_drops_what_is_lent_and_what_is_free(self):
        outputs = OutputSegments(1)
        lent, free = outputs.acquire(5, 4096)[0], outputs.acquire(5, 4096)[0]
        outputs.recycle(5, [free.info.segment])
        outputs.discard(5, [lent.info.segment, free.info.segment])
        outputs.recycle(5, [lent.info.segment, free.info.segment])
        assert outputs.acquire(5, 4096)[1] is True

    def test_a_client_that_left_is_forgotten_whole(self):
        outputs = OutputSegments(1)
        free, lent = outputs.acquire(5, 4096)[0], outputs.acquire(5, 4096)[0]
        outputs.recycle(5, [free.info.segment])
        outputs.forget(5)
        outputs.recycle(5, [lent.info.segment])
        outputs.discard(5, [lent.info.segment])
        outputs.forget(5)
        assert outputs.acquire(5, 4096)[1] is True
        outputs.forget(5)
        assert outputs._free == outputs._lent == {}

    def test_notices_about_a_client_that_left_leave_no_trace(self):
        outputs = OutputSegments(1)
        outputs.recycle(5, [1])
        outputs.discard(5, [1])
        assert outputs._free == outputs._lent == {}

    def test_examples_have_no_descriptor_to_send(self):
        segment, _ = OutputSegments(1).acquire(NOBODY, 4096)
        assert segment.descriptor == -1
