"""Frames: whatever the chunks, the same messages; whatever the bytes, a clear error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import FrameTooLarge, NoCandidate, from_wire
from routerd.protocol import Ask, FrameBuffer, Reply, Request, encode, encode_frame, failure


@given(st.lists(st.binary(max_size=60), max_size=12), st.data())
def test_frames_survive_any_chunking(bodies, data):
    stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    frames = FrameBuffer(1000)
    found = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:cut])
        stream = stream[cut:]
    assert found == bodies


def test_a_header_that_announces_too_much_is_refused_before_the_body_comes():
    with pytest.raises(FrameTooLarge, match=r"frame of 1001 bytes exceeds the limit of 1000.*alloc"):
        list(FrameBuffer(1000).feed((1001).to_bytes(4, "little")))


def test_frames_before_a_bad_one_are_still_delivered():
    found = []
    with pytest.raises(FrameTooLarge):
        for body in FrameBuffer(10).feed(b"\x01\x00\x00\x00a\xff\xff\xff\xff"):
            found.append(body)
    assert found == [b"a"]


def test_a_request_round_trips_as_messagepack_maps():
    ask = Ask("linalg.gemm", {"m": 2})
    frame = encode_frame(Request(7, "decide", msgspec.Raw(encode(ask))))
    plain = msgspec.msgpack.decode(frame[4:])
    assert plain == {
        "id": 7,
        "method": "decide",
        "params": {"workload": "linalg.gemm", "params": {"m": 2}, "arrays": {}, "work": None},
    }


def test_unknown_fields_are_refused():
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.msgpack.decode(encode({"id": 1, "method": "ping", "extra": 1}), type=Request)


def test_an_error_reply_carries_code_message_and_detail():
    reply = Reply(3, error=failure(NoCandidate("nothing may run it", rejected=[])))
    assert msgspec.msgpack.decode(encode(reply)) == {
        "id": 3,
        "error": {"code": "no_candidate", "message": "nothing may run it", "detail": {"rejected": []}},
    }


def test_an_error_keeps_its_detail_whatever_the_names_in_it():
    detail = {"self": 1, "message": "another", "limit": 2}
    error = from_wire("no_candidate", "nothing may run it", detail)
    assert (type(error), error.message, error.detail) == (NoCandidate, "nothing may run it", detail)


def test_a_body_in_many_pieces_is_not_copied_again_for_each():
    frames = FrameBuffer(1000)
    assert list(frames.feed((900).to_bytes(4, "little") + b"x")) == []
    kept = frames._rest
    for _ in range(898):
        assert list(frames.feed(b"x")) == []
        assert frames._rest is kept
    assert list(frames.feed(b"x\x01\x00\x00\x00y")) == [b"x" * 900, b"y"]
