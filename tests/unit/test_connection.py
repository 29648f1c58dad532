"""One connection on the loop: frames in, replies out, and no peer that can hold the others up."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref

import pytest

from routerd.connection import Connection
from routerd.protocol import HEADER, FrameBuffer


def frame(body):
    return HEADER.pack(len(body)) + body


class Peer:
    """A connection with its far end in the test's hands."""

    def __init__(self, on_frame=None, *, max_frame_bytes=1000, max_unsent_bytes=4 << 20):
        ours, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.bodies: list[bytes] = []
        self.reasons: list[str] = []
        self.connection = Connection(
            ours, max_frame_bytes=max_frame_bytes, max_unsent_bytes=max_unsent_bytes,
            on_frame=lambda body: bool((on_frame or self.bodies.append)(body)), on_close=self.reasons.append,
        )  # fmt: skip

    async def turn(self, condition):
        async with asyncio.timeout(10.0):
            while not condition():
                await asyncio.sleep(0)

    async def replies(self, count):
        buffer, found = FrameBuffer(1 << 20), []
        async with asyncio.timeout(10.0):
            while len(found) < count:
                await asyncio.sleep(0)
                try:
                    data = self.far.recv(1 << 16)
                except BlockingIOError:
                    continue
                if not data:
                    break
                found += buffer.feed(data)
        return found


def play(scene):
    async def main():
        peers = []

        def make(*arguments, **options):
            peers.append(Peer(*arguments, **options))
            return peers[-1]

        try:
            await scene(make)
        finally:
            for peer in peers:
                if hasattr(peer, "connection"):
                    peer.connection.close("the test ends")
                peer.far.close()

    asyncio.run(main())


def test_frames_arrive_however_they_are_cut():
    async def scene(make):
        peer = make()
        for byte in frame(b"one") + frame(b"") + frame(b"three"):
            peer.far.send(bytes([byte]))
            await asyncio.sleep(0)
        await peer.turn(lambda: len(peer.bodies) == 3)
        assert peer.bodies == [b"one", b"", b"three"]

    play(scene)


def test_replies_of_one_turn_keep_their_order_around_descriptors():
    async def scene(make):
        def answer(body):
            if body == b"fd":
                peer.connection.send(frame(b"with"), (os.dup(0),))
            else:
                peer.connection.send(frame(body))

        peer = make(answer)
        peer.far.send(frame(b"a") + frame(b"b") + frame(b"fd") + frame(b"c"))
        assert await peer.replies(4) == [b"a", b"b", b"with", b"c"]

    play(scene)


def test_a_reply_just_before_the_end_is_not_lost():
    async def scene(make):
        def refuse(_body):
            peer.connection.send(frame(b"no"))
            peer.connection.close("refused")

        peer = make(refuse)
        peer.far.send(frame(b"a") + frame(b"b"))
        assert await peer.replies(2) == [b"no"]
        assert peer.reasons == ["refused"]

    play(scene)


def test_too_large_a_frame_is_answered_and_ends_it():
    async def scene(make):
        peer = make()
        peer.far.send(frame(b"fine") + HEADER.pack(1001))
        (error,) = await peer.replies(1)
        assert b"frame_too_large" in error
        assert await peer.replies(1) == []
        assert peer.bodies == [b"fine"]
        assert len(peer.reasons) == 1

    play(scene)


def test_the_end_is_told_once_and_later_replies_close_their_descriptors():
    async def scene(make):
        peer = make()
        peer.far.close()
        await peer.turn(lambda: peer.reasons)
        assert peer.reasons == ["closed by the client"]
        peer.connection.close("again")
        descriptor = os.dup(0)
        peer.connection.send(frame(b"late"), (descriptor,))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        assert len(peer.reasons) == 1

    play(scene)


def test_a_peer_that_does_not_read_is_not_read_from_until_it_does():
    async def scene(make):
        seen = []

        def answer(body):
            seen.append(body)
            peer.connection.send(frame(b"y" * 900))

        peer = make(answer)
        sent = 0
        for _ in range(200):
            try:
                sent += peer.far.send(frame(b"x" * 6) * 100)
            except BlockingIOError:
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        stalled = len(seen)
        assert stalled < sent // 10
        assert not peer.connection.drained
        await asyncio.sleep(0.01)
        assert len(seen) == stalled
        assert len(await peer.replies(sent // 10)) == sent // 10
        assert peer.reasons == []
        assert peer.connection.drained

    play(scene)


def test_one_whose_replies_pass_the_limit_is_detached():
    async def scene(make):
        peer = make(max_unsent_bytes=500_000)
        for _ in range(2000):
            peer.connection.send(frame(b"y" * 996))
            if peer.reasons:
                break
        assert peer.reasons
        assert peer.reasons[0].startswith("the client does not read: ")
        assert not peer.connection.open

    play(scene)


def test_a_closed_connection_goes_without_a_collection():
    async def scene(make):
        peer = make()
        peer.far.send(frame(b"one"))
        await peer.turn(lambda: peer.bodies)
        gone = weakref.ref(peer.connection)
        gc.disable()
        try:
            peer.connection.close("enough")
            del peer.connection
            await asyncio.sleep(0)
            assert gone() is None
        finally:
            gc.enable()

    play(scene)


def test_a_client_that_sends_much_waits_for_its_turn_while_others_are_served():
    async def scene(make):
        order = []

        def begin(body):
            order.append(body)
            return True  # each begins a task

        greedy, polite = make(begin), make(begin)
        greedy.far.send(frame(b"greedy") * 50)
        polite.far.send(frame(b"polite"))
        await greedy.turn(lambda: len(order) == 51)
        assert order.index(b"polite") < 10
        greedy.far.send(frame(b"more"))
        await greedy.turn(lambda: order[-1] == b"more")

    play(scene)


def test_one_that_leaves_while_it_waits_for_its_turn_gets_no_other():
    async def scene(make):
        order = []

        def begin(body):
            order.append(body)
            return True

        peer = make(begin)
        peer.far.send(frame(b"x") * 50)
        await peer.turn(lambda: order)
        peer.connection.close("enough")
        handled = len(order)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(order) == handled < 50

    play(scene)
