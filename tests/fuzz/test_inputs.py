"""Nothing of the protocol is left out, and what is meant to be valid is."""

from __future__ import annotations

import inspect
from unittest.mock import MagicMock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.methods import method_table
from routerd.protocol import FrameBuffer, Request
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from tests.fuzz.inputs import MAX_FRAME_BYTES, METHODS, WORKLOADS, chunked, encode, frame, streams, valid_request
from tests.fuzz.targets import targets
from tests.fuzz.tasks import example, inline, is_affordable


def test_every_method_of_the_daemon_is_fuzzed():
    table = method_table(*(MagicMock() for _ in inspect.signature(method_table).parameters))
    assert METHODS.keys() == {*table, "hello"}


@pytest.mark.parametrize("method", METHODS)
def test_valid_requests_fit_their_method(method):
    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(valid_request(method))
    def check(request):
        decoded = msgspec.msgpack.decode(encode(request), type=Request)
        msgspec.msgpack.decode(decoded.params, type=METHODS[method])

    check()


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_tasks_that_are_changed_are_right_before_that(name):
    params, arrays = example(name, 0)
    refs = {key: inline(array) for key, array in arrays.items()}
    assert bind(WORKLOADS[name], params, msgspec.convert(refs, dict[str, ArrayRef]), need_content=True)
    assert is_affordable({"workload": name, "params": params, "arrays": refs})


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(chunked(streams), st.binary(max_size=3))
def test_a_stream_in_pieces_is_the_same_stream(pieces, rest):
    whole, parts = FrameBuffer(1 << 32), FrameBuffer(1 << 32)
    stream = [frame(b"first"), *pieces, rest]
    assert list(whole.feed(b"".join(stream))) == [body for piece in stream for body in parts.feed(piece)]


@pytest.mark.parametrize("target", targets().values(), ids=lambda target: target.name)
def test_every_target_has_seeds_that_fit_a_frame(target):
    assert target.seeds()
    assert all(0 < seed.stat().st_size <= 4 * MAX_FRAME_BYTES for seed in target.seeds())
