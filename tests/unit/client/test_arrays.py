"""Arrays on the client's side, without a daemon: segments come from the test."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from routerd.client import arrays
from routerd.client.arrays import Segments, pour, whole_pages
from routerd.errors import InvalidArray
from routerd.memory import create_segment, seal_writes
from routerd.protocol import SegmentInfo
from routerd.types import ArrayRef

INLINE = 64
FIRST_OUTPUT = 1 << 32


@pytest.fixture
def segments():
    return Segments(INLINE)


def add(segments, number, size, *, output=False):
    descriptor = create_segment(size)
    (segments.adopt_output if output else segments.adopt_input)(SegmentInfo(number, size), descriptor)
    os.close(descriptor)


def result(segments, number, count=100, **extra):
    outputs = {"y": ArrayRef((count,), "float64", number, 0), **extra}
    segments.taken(outputs)
    return segments.results(outputs)


def constant(segments, number, values):
    """A segment of these values that is mapped read-only."""
    size = len(values) * 8
    descriptor = create_segment(size)
    pour(np.asarray(values, dtype="float64"), descriptor, size)
    segments.adopt_constant(SegmentInfo(number, size), descriptor)
    os.close(descriptor)
    return segments.empty(number, (len(values),), np.dtype("float64"))


class TestConstants:
    def test_they_hold_what_was_poured_in_and_cannot_be_written(self, segments):
        array = constant(segments, 1, [1.0, 2.0, 3.0])
        assert array.tolist() == [1.0, 2.0, 3.0]
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5.0

    def test_they_are_found_however_small_and_others_are_not_taken_for_them(self, segments):
        array = constant(segments, 1, [1.0, 2.0, 3.0])
        assert segments.locate("a", array) == ArrayRef((3,), "float64", 1, 0)
        assert segments.locate("a", array[1:]) == ArrayRef((2,), "float64", 1, 8)
        copy = array.copy()
        copy.flags.writeable = False
        assert segments.locate("a", copy) == ArrayRef((3,), "float64", data=copy.tobytes())
        assert segments.locate("a", array[::2]).data == array[::2].tobytes()

    def test_nothing_stays_mapped_after_pouring(self):
        descriptor = create_segment(4096)
        pour(np.arange(10.0), descriptor, 4096)
        seal_writes(descriptor)  # raises while somebody maps it writable
        os.close(descriptor)

    def test_they_are_given_back_when_nobody_holds_them(self, segments):
        array = constant(segments, 7, [1.0, 2.0])
        part = array[1:]
        del array
        gc.collect()
        assert segments.give_back(in_flight=False) == ((), ())
        del part
        gc.collect()
        assert segments.give_back(in_flight=False) == ((), (7,))

    def test_each_of_many_segments_is_found(self, segments):
        arrays = {number: constant(segments, number, [float(number)] * 4) for number in range(1, 60)}
        for number in list(arrays)[::3]:
            del arrays[number]
        gc.collect()
        segments.give_back(in_flight=False)
        for number, array in arrays.items():
            assert segments.locate("a", array) == ArrayRef((4,), "float64", number, 0)


class TestLocating:
    def test_small_arrays_travel_inline(self, segments):
        array = np.arange(8.0)
        assert segments.locate("a", array) == ArrayRef((8,), "float64", data=array.tobytes())

    def test_others_have_to_be_staged(self, segments):
        assert segments.locate("a", np.arange(9.0)) is None

    def test_parts_of_a_segment_are_found(self, segments):
        add(segments, 1, 8192)
        array = segments.empty(1, (32, 32), np.dtype("float64"))
        assert segments.locate("a", array) == ArrayRef((32, 32), "float64", 1, 0)
        assert segments.locate("a", array[3:20]) == ArrayRef((17, 32), "float64", 1, 3 * 32 * 8)
        assert segments.locate("a", array.reshape(-1)[5:100]) == ArrayRef((95,), "float64", 1, 40)
        assert segments.locate("a", array[:, 3]) is None
        assert segments.locate("a", array.T) is None

    def test_an_offset_that_the_protocol_refuses_is_staged(self, segments):
        add(segments, 1, 8192)
        array = segments.empty(1, (1000,), np.dtype("float32"))
        assert segments.locate("a", array[2:900]).offset == 8
        assert segments.locate("a", array[1:900]) is None

    def test_an_array_beside_a_segment_is_not_in_it(self, segments):
        add(segments, 1, 4096)
        inside = segments.empty(1, (512,), np.dtype("float64"))
        beyond = np.lib.stride_tricks.as_strided(inside, (513,), (8,))
        assert segments.locate("a", beyond) is None

    @pytest.mark.parametrize("dtype", ["complex128", "float16", ">f8", "U2"])
    def test_dtypes_without_a_name_on_the_wire(self, segments, dtype):
        with pytest.raises(InvalidArray, match="array a has dtype"):
            segments.locate("a", np.zeros(3, dtype))


class TestStaging:
    def test_a_segment_is_used_again_if_it_fits_well(self, segments):
        add(segments, 1, 4096 * 4)
        assert segments.take_staging(1) is None
        segments.unstage([1])
        assert segments.take_staging(4096 * 4 + 1) is None
        assert segments.take_staging(100) is None  # four times too large, and a page
        assert segments.take_staging(4096 * 3) == 1
        assert segments.take_staging(4096 * 3) is None

    def test_the_copy_is_in_c_order(self, segments):
        add(segments, 1, 4096)
        array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
        assert segments.fill(1, array) == ArrayRef((3, 4), "float64", 1, 0)
        assert segments.empty(1, (12,), np.dtype("float64")).tolist() == list(range(12))

    def test_whole_pages(self):
        page = arrays._PAGE
        assert [whole_pages(size) for size in (1, page, page + 1)] == [page, page, 2 * page]

    def test_too_much_of_it_is_freed(self, segments, monkeypatch):
        monkeypatch.setattr(arrays, "_KEPT_BYTES", 10_000)
        for number in (1, 2, 3):
            add(segments, number, 4096)
        segments.unstage([1, 2, 3])
        assert segments.give_back(in_flight=False) == ((), (1,))


class TestInputsThatGo:
    def test_the_segment_goes_with_the_last_view(self, segments):
        add(segments, 1, 8192)
        part = segments.empty(1, (100, 10), np.dtype("float64"))[5:7, 1:]
        gc.collect()
        assert segments.give_back(in_flight=True) == ((), ())
        part[:] = 1.0
        del part
        gc.collect()
        assert segments.give_back(in_flight=True) == ((), (1,))
        assert segments.give_back(in_flight=True) == ((), ())


class TestResults:
    def test_numbers_small_and_large_arrays(self, segments):
        add(segments, FIRST_OUTPUT, 4096, output=True)
        found = result(
            segments, FIRST_OUTPUT,
            n=ArrayRef((), "int64", data=np.int64(7).tobytes()), x=ArrayRef((2,), "bool", data=b"\x01\x00"),
            z=ArrayRef((2, 3), "float32", FIRST_OUTPUT, 1024),
        )  # fmt: skip
        assert found["n"] == 7
        assert found["x"].tolist() == [True, False]
        assert (found["y"].shape, found["z"].shape, str(found["z"].dtype)) == ((100,), (2, 3), "float32")
        assert not any(found[name].flags.writeable for name in "xyz")

    def test_one_is_offered_again_when_its_last_array_goes(self, segments):
        add(segments, FIRST_OUTPUT, 4096, output=True)
        found = result(segments, FIRST_OUTPUT, z=ArrayRef((2,), "float64", FIRST_OUTPUT, 1024))
        del found["y"]
        gc.collect()
        assert segments.give_back(in_flight=False) == ((), ())
        part = found.pop("z")[1:]
        gc.collect()
        assert segments.give_back(in_flight=False) == ((), ())
        del part
        gc.collect()
        assert segments.give_back(in_flight=False) == ((FIRST_OUTPUT,), ())
        assert segments.give_back(in_flight=False) == ((), ())

    def test_it_may_come_back_any_number_of_times(self, segments):
        add(segments, FIRST_OUTPUT, 4096, output=True)
        for _ in range(5):
            result(segments, FIRST_OUTPUT)
            gc.collect()
            assert segments.give_back(in_flight=False) == ((FIRST_OUTPUT,), ())

    def test_the_oldest_make_room_for_new_ones(self, segments, monkeypatch):
        monkeypatch.setattr(arrays, "_KEPT_BYTES", 10_000)
        for number in range(4):
            add(segments, FIRST_OUTPUT + number, 4096, output=True)
            result(segments, FIRST_OUTPUT + number)
        gc.collect()
        reuse, free = segments.give_back(in_flight=False)
        assert free == (FIRST_OUTPUT, FIRST_OUTPUT + 1)
        assert reuse == (FIRST_OUTPUT + 2, FIRST_OUTPUT + 3)

    def test_what_was_offered_stays_mapped_while_a_request_is_in_flight(self, segments, monkeypatch):
        """Its answer may be written there already."""
        monkeypatch.setattr(arrays, "_KEPT_BYTES", 5000)
        for number in range(2):
            add(segments, FIRST_OUTPUT + number, 4096, output=True)
        result(segments, FIRST_OUTPUT)
        gc.collect()
        assert segments.give_back(in_flight=True) == ((FIRST_OUTPUT,), ())
        result(segments, FIRST_OUTPUT + 1)
        gc.collect()
        assert segments.give_back(in_flight=True) == ((), (FIRST_OUTPUT + 1,))
        assert result(segments, FIRST_OUTPUT)["y"].shape == (100,)

    def test_arrays_outlive_the_segments_object(self, segments):
        add(segments, FIRST_OUTPUT, 4096, output=True)
        array = result(segments, FIRST_OUTPUT)["y"]
        del segments
        gc.collect()
        assert array.sum() == 0.0
