"""Arguments to requests, bytes to replies, errors to exceptions."""

from __future__ import annotations

import os
import socket

import msgspec
import numpy as np
import pytest

from routerd import errors
from routerd.client import core
from routerd.protocol import Failure, Reply, SegmentInfo, encode, encode_frame
from routerd.types import ArrayRef


class TestArguments:
    def test_scalars_are_parameters_and_the_rest_arrays(self):
        params, arrays = core.split_arguments(
            "w", {"a": 1, "b": 2.5, "c": True, "d": "x", "e": np.float32(1.5), "f": np.int8(3), "g": None, "h": [1, 2],
             "i": ((1.0, 2.0), (3.0, 4.0)), "j": np.arange(3)}
        )  # fmt: skip
        assert params == {"a": 1, "b": 2.5, "c": True, "d": "x", "e": 1.5, "f": 3}
        assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
            "h": ((2,), "float64"), "i": ((2, 2), "float64"), "j": ((3,), "int64")}  # fmt: skip

    def test_other_libraries_arrays_are_taken(self):
        import pandas as pd

        _params, arrays = core.split_arguments("w", {"x": pd.Series([1.0, 2.0]), "y": pd.DataFrame({"a": [1, 2]})})
        assert arrays["x"].tolist() == [1.0, 2.0]
        assert str(arrays["y"].dtype) == "int64"

    @pytest.mark.parametrize("value", [{}, {1}, b"x", 1j, object()])
    def test_what_is_no_number_is_refused_by_name(self, value):
        with pytest.raises(errors.InvalidParameter, match="volatility must be a number, a string or an array"):
            core.split_arguments("w", {"volatility": value})

    @pytest.mark.parametrize("value", [["a", "b"], [object()], [1j]])
    def test_arrays_of_other_things_as_well(self, value):
        with pytest.raises(errors.InvalidArray, match="x is no array of numbers"):
            core.split_arguments("w", {"x": value})

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**40])
    def test_integers_that_cannot_be_sent(self, value):
        with pytest.raises(errors.InvalidParameter, match="no integer beyond 64 bits can be sent"):
            core.split_arguments("w", {"seed": value})

    def test_lists_and_shapes_have_the_dtype_that_the_catalogue_declares(self):
        name = "collateral.haircut"
        _params, arrays = core.split_arguments(name, {"account": [0, 1, 1], "price": [1, 2, 3]})
        assert {key: str(array.dtype) for key, array in arrays.items()} == {"account": "int64", "price": "float64"}
        ask = core.ask_of(name, {"account": (5,), "price": (5,)})
        assert {key: ref.dtype for key, ref in ask.arrays.items()} == {"account": "int64", "price": "float64"}
        _params, arrays = core.split_arguments("w", {"x": [2**53 + 1]})
        assert arrays["x"].tolist() == [2**53 + 1]  # which float64 does not hold: the daemon says what it wants

    @pytest.mark.parametrize(
        ("value", "words"),
        [([[1], [1, 2]], "rows have different lengths"), (np.ma.masked_less([1.0, 2.0], 1.5), "masked array; fill it")],
    )
    def test_arrays_that_would_not_arrive_as_they_are(self, value, words):
        with pytest.raises(errors.InvalidArray, match=words):
            core.split_arguments("w", {"x": value})

    def test_a_question_takes_shapes(self):
        ask = core.ask_of("w", {"a": (3, 4), "b": np.zeros((2, 2), "float32"), "c": [1.0], "d": 5})
        assert ask.arrays == {
            "a": ArrayRef((3, 4), "float64"),
            "b": ArrayRef((2, 2), "float32"),
            "c": ArrayRef((1,), "float64"),
        }
        assert ask.params == {"d": 5}

    def test_a_request_beyond_the_limit_is_not_sent(self):
        with pytest.raises(errors.LimitExceeded, match="the daemon takes 100") as caught:
            core.request_frame(1, "ping", {"x": "y" * 100}, 100)
        assert caught.value.detail == {"limit": 100}


class TestReplies:
    @pytest.mark.parametrize("code", sorted(errors.BY_CODE))
    def test_every_code_becomes_its_exception(self, code):
        with pytest.raises(errors.BY_CODE[code]) as caught:
            core.result_of(Reply(1, error=Failure(code, "words", {"limit": 3})))
        assert (type(caught.value).code, caught.value.message, caught.value.detail) == (code, "words", {"limit": 3})

    def test_a_code_of_a_newer_daemon_is_still_an_error(self):
        with pytest.raises(errors.RouterdError, match="words"):
            core.result_of(Reply(1, error=Failure("not_invented_yet", "words")))

    def test_descriptors_go_to_the_replies_that_name_them(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fds = [os.dup(ours.fileno()) for _ in range(3)]
            stream = core.ReplyStream()
            one = encode_frame(Reply(1, msgspec.Raw(b"\xc0"), segments=(SegmentInfo(1, 8), SegmentInfo(2, 8))))
            two = encode_frame(Reply(2, msgspec.Raw(b"\xc0")))
            three = encode_frame(Reply(3, msgspec.Raw(b"\xc0"), segments=(SegmentInfo(3, 8),)))
            found = list(stream.feed(one + two, fds[:2])) + list(stream.feed(three, fds[2:]))
            assert [(reply.id, mine) for reply, mine in found] == [(1, fds[:2]), (2, []), (3, fds[2:])]
            for descriptor in fds:
                os.close(descriptor)


def test_a_path_without_a_daemon_says_how_to_start_one(tmp_path):
    with pytest.raises(errors.DaemonUnreachable, match="start one with: routerd") as caught:
        core.open_socket(tmp_path / "none.sock")
    assert caught.value.detail["may_come"] is True


def test_a_path_that_no_socket_can_have_is_final(tmp_path):
    with pytest.raises(errors.DaemonUnreachable) as caught:
        core.open_socket(tmp_path / ("x" * 200))
    assert caught.value.detail["may_come"] is False


@pytest.mark.parametrize(("shape", "dtype", "size"), [((3, 4), "float64", 96), ((), "float32", 4), ((5,), "uint8", 5)])
def test_bytes_of_an_empty_array(shape, dtype, size):
    assert core.empty_bytes(shape, np.dtype(dtype)) == size


@pytest.mark.parametrize("work", [10**6, 1e6, np.float64(1e6), np.float32(1e6), np.int64(10**6), np.array([1e6])[0]])
def test_work_may_be_any_number(work):
    ask = core.ask_of_work("linalg.gemm", work)
    assert msgspec.msgpack.decode(encode(ask))["work"] == 1e6


@pytest.mark.parametrize("work", ["1e6", True, np.True_, 1 + 0j, [1.0], 10**400])
def test_work_that_is_no_number_is_said_here(work):
    with pytest.raises(errors.InvalidParameter, match="work"):
        core.ask_of_work("linalg.gemm", work)
