"""Frames out of a non-blocking socket: in order, whole, and with their descriptors, however slowly the peer reads."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from routerd.memory import receive
from routerd.outbox import Outbox


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def read_all(peer, size):
    data, descriptors = b"", []
    while len(data) < size:
        await asyncio.sleep(0)
        more, passed = receive(peer, 1 << 16)
        data += more
        descriptors += passed
    return data, descriptors


def test_what_fits_is_sent_at_once(pair):
    async def main():
        outbox = Outbox(pair[0], pytest.fail)
        outbox.put(b"hello")
        assert outbox.unsent_bytes == 0
        assert pair[1].recv(100) == b"hello"

    asyncio.run(main())


def test_a_slow_reader_gets_everything_in_order(pair):
    async def main():
        emptied = []
        outbox = Outbox(pair[0], pytest.fail, lambda: emptied.append(True))
        frames = [bytes([number]) * 30_000 for number in range(100)]
        for frame in frames:
            outbox.put(frame)
        assert outbox.unsent_bytes > 1 << 20
        data, _ = await read_all(pair[1], 3_000_000)
        assert data == b"".join(frames)
        assert (outbox.unsent_bytes, emptied) == (0, [True])

    asyncio.run(main())


def test_descriptors_arrive_with_their_frame_and_are_closed_here(pair):
    async def main():
        outbox = Outbox(pair[0], pytest.fail)
        outbox.put(b"x" * 1_000_000)
        ends = [os.pipe() for _ in range(2)]
        for reader, writer in ends:
            os.close(writer)
            outbox.put(b"y" * 10, (reader,))
        assert all(is_open(reader) for reader, _ in ends)
        data, descriptors = await read_all(pair[1], 1_000_020)
        assert data.endswith(b"y" * 20)
        assert len(descriptors) == 2
        assert outbox.unsent_bytes == 0
        for descriptor in descriptors:
            os.close(descriptor)

    asyncio.run(main())


def test_a_peer_that_left_is_reported_once(pair):
    async def main():
        heard = []

        def gone(reason):
            heard.append(reason)
            outbox.close()

        outbox = Outbox(pair[0], gone)
        pair[1].close()
        outbox.put(b"hello")
        reader, writer = os.pipe()
        os.close(writer)
        outbox.put(b"more", (reader,))
        assert heard == ["connection lost: Broken pipe"]
        assert not is_open(reader)

    asyncio.run(main())


def test_closing_drops_what_is_unsent_and_its_descriptors(pair):
    async def main():
        outbox = Outbox(pair[0], pytest.fail)
        outbox.put(b"x" * 1_000_000)
        reader, writer = os.pipe()
        os.close(writer)
        outbox.put(b"y", (reader,))
        outbox.close()
        assert not is_open(reader)
        assert outbox.unsent_bytes == 0
        outbox.close()

    asyncio.run(main())
