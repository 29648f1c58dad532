"""Segments: sealed, passed by descriptor, gone with their last holder."""

from __future__ import annotations

import fcntl
import os
import socket
import sys

import pytest

from routerd import memory

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="seals exist on Linux only")


def is_write_sealed(descriptor: int) -> bool:
    """F_SEAL_FUTURE_WRITE among the seals, asked of the kernel."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & 0x0010)


@pytest.fixture
def descriptor():
    number = memory.create_segment(8192)
    yield number
    os.close(number)


def test_two_mappings_share_the_bytes(descriptor):
    writer = memory.map_segment(descriptor, 8192, writable=True)
    reader = memory.map_segment(descriptor, 8192, writable=False)
    writer[:5] = b"bytes"
    assert reader[:5] == b"bytes"
    with pytest.raises(TypeError):
        reader[:5] = b"other"


@linux_only
def test_nobody_can_resize_a_segment_under_a_reader(descriptor):
    for size in (4096, 16384):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)


@linux_only
def test_after_sealing_only_the_writer_writes(descriptor):
    writer = memory.map_segment(descriptor, 8192, writable=True)
    assert not is_write_sealed(descriptor)
    assert memory.seal_future_writes(descriptor)
    assert is_write_sealed(descriptor)
    with pytest.raises(PermissionError):
        memory.map_segment(descriptor, 8192, writable=True)
    writer[0] = 7
    assert memory.map_segment(descriptor, 8192, writable=False)[0] == 7


def test_a_segment_smaller_than_claimed_is_refused(descriptor):
    with pytest.raises(ValueError, match="8192 bytes, 9000 expected"):
        memory.map_segment(descriptor, 9000, writable=False)


def test_the_portable_way_makes_the_same_segment():
    descriptor = memory._create_unlinked(4096)
    try:
        os.ftruncate(descriptor, 4096)
        memory.map_segment(descriptor, 4096, writable=True)[:2] = b"ok"
        assert memory.map_segment(descriptor, 4096, writable=False)[:2] == b"ok"
    finally:
        os.close(descriptor)


def test_descriptors_travel_with_bytes_and_are_not_inherited(descriptor):
    mine, theirs = socket.socketpair()
    with mine, theirs:
        memory.map_segment(descriptor, 8192, writable=True)[:4] = b"data"
        assert memory.send(mine, b"frame", [descriptor, descriptor]) == 5
        data, received = memory.receive(theirs, 100)
        assert data == b"frame"
        assert len(received) == 2
        for number in received:
            assert not os.get_inheritable(number)
            assert memory.map_segment(number, 8192, writable=False)[:4] == b"data"
            os.close(number)
        mine.close()
        assert memory.receive(theirs, 100) == (b"", [])


def test_alignment():
    assert [memory.align(offset) for offset in (0, 1, 64, 65)] == [0, 64, 64, 128]
