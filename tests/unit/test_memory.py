"""Segments: sealed, passed by descriptor, gone with their last holder."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux seals memory")
def test_sealed_content_stays_and_can_still_be_read(descriptor):
    with memory.map_segment(descriptor, 4096, writable=True) as writable:
        writable[:3] = b"abc"
        with pytest.raises(OSError, match="busy"):
            memory.seal_writes(descriptor)
    assert memory.seal_writes(descriptor) is True
    with pytest.raises(PermissionError):
        memory.map_segment(descriptor, 4096, writable=True)
    with memory.map_segment(descriptor, 4096, writable=False) as readable:
        assert readable[:3] == b"abc"


def test_where_shared_mappings_of_sealed_content_are_refused_it_is_mapped_privately(descriptor, monkeypatch):
    """As Linux before 6.7 does."""
    real, flags = mmap.mmap, []

    def old_kernel(number, size, **options):
        flags.append(options["flags"])
        if options["flags"] == mmap.MAP_SHARED:
            raise PermissionError
        return real(number, size, **options)

    monkeypatch.setattr("routerd.memory.mmap.mmap", old_kernel)
    with memory.map_segment(descriptor, 4096, writable=False) as readable:
        assert len(readable) == 4096
    assert flags == [mmap.MAP_SHARED, mmap.MAP_PRIVATE]
    with pytest.raises(PermissionError):
        memory.map_segment(descriptor, 4096, writable=True)


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


@contextlib.contextmanager
def no_more_descriptors():
    """This process may open none meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@linux_only
def test_descriptors_that_this_process_cannot_take_are_known_to_be_lost(descriptor):
    mine, theirs = socket.socketpair()
    with mine, theirs:
        memory.send(mine, b"first", [descriptor, descriptor])
        memory.send(mine, b"second", [descriptor])
        arrivals = memory.Arrivals()
        with no_more_descriptors():
            data, received = memory.receive(theirs, 100)
        assert (data, received) == (b"first", [memory.LOST])
        arrivals.add(received)
        data, received = memory.receive(theirs, 100)
        arrivals.add(received)
        assert data == b"second"
        with pytest.raises(OSError, match="Too many open files"):
            arrivals.take(2)
        assert arrivals.take(1) == received
        os.close(received[0])


def test_a_message_never_gets_the_descriptors_of_the_next():
    arrivals = memory.Arrivals()
    one, two = os.dup(0), os.dup(0)
    arrivals.add([one])
    arrivals.add([two])
    assert arrivals.take(0) == []
    with pytest.raises(OSError, match="Too many open files"):
        arrivals.take(2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(one)  # nobody else would close it
    assert arrivals.take(1) == [two]
    os.close(two)
    with pytest.raises(OSError, match="Too many open files"):
        arrivals.take(1)


def test_descriptors_that_nobody_took_are_closed():
    arrivals = memory.Arrivals()
    descriptor = os.dup(0)
    arrivals.add([descriptor])
    arrivals.add([memory.LOST])
    arrivals.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
