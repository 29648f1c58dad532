"""Slots in shared memory: what a reader may trust, whatever the writer was doing when it stopped."""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time

import pytest

from routerd.errors import ProtocolError
from routerd.memory import create_published, map_segment
from routerd.routing.slots import BUSY_WORD, CAPACITY, SIZE, SlotReader, SlotWriter, sequence_word


@pytest.fixture
def memory():
    mapped, descriptor = create_published(SIZE)
    yield mapped, descriptor
    os.close(descriptor)


@pytest.fixture
def writer(memory):
    return SlotWriter(memory[0])


@pytest.fixture
def reader(memory, writer):
    return SlotReader(map_segment(memory[1], SIZE, writable=False))


def test_what_was_written_is_read(writer, reader):
    assert writer.write(3, b"first")
    sequence, payload = reader.read(3)
    assert payload == b"first"
    writer.write(3, b"second")
    assert reader.read(3) == (sequence + 2, b"second")


def test_a_slot_says_nothing_before_it_is_written_and_after_it_is_withdrawn(writer, reader):
    assert reader.read(0) is None
    writer.write(0, b"x")
    writer.withdraw(0)
    assert reader.read(0) is None
    assert reader.read(-1) is None
    assert reader.read(10**9) is None


def test_too_much_leaves_a_slot_that_says_nothing(writer, reader):
    writer.write(0, b"x")
    assert not writer.write(0, bytes(CAPACITY + 1))
    assert reader.read(0) is None
    assert writer.write(0, bytes(CAPACITY))
    assert len(reader.read(0)[1]) == CAPACITY


def test_a_writer_that_died_while_writing_leaves_nothing_to_trust(memory, writer, reader):
    writer.write(1, b"old answer")
    words = memoryview(memory[0]).cast("Q")
    words[sequence_word(1)] += 1  # a writer begins, and is no more
    assert reader.read(1) is None
    memory[0][sequence_word(1) * 8 + 16] ^= 0xFF
    words[sequence_word(1)] += 1  # as if the end had been seen before the payload
    assert reader.read(1) is None


def test_readers_cannot_write(memory, writer):
    with pytest.raises((PermissionError, OSError)):
        mmap.mmap(memory[1], SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError):
        os.ftruncate(memory[1], 0)


def test_another_layout_is_refused(memory):
    with pytest.raises(ProtocolError, match="another layout"):
        SlotReader(map_segment(memory[1], SIZE, writable=False))
    with pytest.raises(ProtocolError, match="no header"):
        SlotReader(mmap.mmap(-1, 16))


def test_a_reader_follows_another(memory, writer, reader):
    writer.write(0, b"old")
    other_memory, descriptor = create_published(SIZE)
    successor = SlotWriter(other_memory)
    successor.write(0, b"new")
    successor.set_busy(5)
    reader.follow(SlotReader(map_segment(descriptor, SIZE, writable=False)))
    os.close(descriptor)
    assert reader.read(0)[1] == b"new"
    assert reader.words[BUSY_WORD] == 5
    writer.write(0, b"old again")
    assert reader.read(0)[1] == b"new"
    reader.close()
    assert reader.read(0) is None


def test_busy_workers_are_seen(writer, reader):
    writer.set_busy(0b101)
    assert reader.words[BUSY_WORD] == 0b101


def test_readers_see_whole_payloads_while_a_writer_writes(writer, reader):
    payloads = [bytes([number]) * (number * 37 + 1) for number in range(200)]
    done = threading.Event()

    def write():
        while not done.is_set():
            for payload in payloads:
                writer.write(7, payload)
                time.sleep(0.0)  # another turn for the reader, besides those that cut a write in two

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    deadline = time.monotonic() + 10.0
    try:
        while len(seen) < 50 and time.monotonic() < deadline:
            found = reader.read(7)
            if found is not None:
                assert found[1] in payloads
                seen.add(found[1])
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert len(seen) == 50
