"""Dispatch with roles and limits, over a method table of the test's own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tempfile
from pathlib import Path

import msgspec
import pytest
from msgspec.msgpack import decode

from routerd.access import Peer
from routerd.errors import BadRequest
from routerd.methods import Attached, Method
from routerd.protocol import FrameBuffer, encode, encode_frame
from routerd.routing.slots import SIZE
from routerd.server import Server
from routerd.settings import Settings


class Client:
    """A raw client on the same loop."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._frames = FrameBuffer(1 << 20)
        self._replies = []
        self._number = 0

    def send(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._writer.write(encode_frame(message))
        return self._number

    async def reply(self):
        async with asyncio.timeout(10.0):
            while not self._replies:
                data = await self._reader.read(1 << 16)
                if not data:
                    return None
                self._replies += map(msgspec.msgpack.decode, self._frames.feed(data))
        return self._replies.pop(0)

    async def ask(self, method, **params):
        self.send(method, **params)
        return await self.reply()

    async def hello(self, **more):
        reply = await self.ask("hello", protocols=[1], client="x" * 100, **more)
        return reply["result"]

    def close(self):
        self._writer.close()


class Table:
    """A decision table's descriptor: that of ``file``, or none to be had."""

    def __init__(self, file=None):
        self.file = file

    def descriptor(self):
        if self.file is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return os.dup(self.file.fileno())


NO_TABLE = Table()


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix="rd-") as name:
        yield Path(name)


@pytest.fixture
def play(directory):
    """Runs a scene with a server, a way to connect to it, and the sessions that have left."""

    def play(scene, methods=None, table=NO_TABLE, **settings):
        async def main():
            left = []
            server = Server(Settings(socket=directory / "s.sock", **settings), left.append)
            ping = Method("read", immediate=lambda _session, _params: encode("pong"))
            server.listen({"ping": ping, **(methods or {})}, table)

            async def connect():
                return Client(*await asyncio.open_unix_connection(directory / "s.sock"))

            try:
                await scene(server, connect, left)
            finally:
                server.close()

        asyncio.run(main())

    return play


async def settle(condition):
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0)


def eventual(work, role="execute", **options):
    async def serve(session, params):
        return Attached(encode(await work(session)))

    return Method(role, eventual=serve, **options)


def test_a_session_from_hello_to_goodbye(play):
    async def scene(server, connect, left):
        client = await connect()
        welcome = await client.hello()
        assert (welcome["protocol"], welcome["client_class"]) == (1, "admin")
        assert welcome["limits"]["max_in_flight_per_client"] == 256
        assert (await client.ask("ping"))["result"] == "pong"
        assert server.traffic()["clients"] == 1
        client.close()
        await settle(lambda: left)
        assert left[0].name == "x" * 64
        assert server.traffic() | {"requests": 2, "accepted": 1} == server.traffic()

    play(scene)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_table_comes_with_the_welcome_to_whom_wants_it(play, directory, wanted):
    def greet():
        hello = {"protocols": [1], "client": "x", "table": wanted}
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(10.0)
            raw.connect(str(directory / "s.sock"))
            raw.sendall(encode_frame({"id": 1, "method": "hello", "params": hello}))
            data, descriptors, _flags, _address = socket.recv_fds(raw, 1 << 16, 4)
        return msgspec.msgpack.decode(data[4:]), descriptors

    async def scene(_server, _connect, _left):
        reply, descriptors = await asyncio.to_thread(greet)
        if not wanted:
            assert (reply["result"]["table"], descriptors) == (0, [])
            return
        assert reply["result"]["table"] == SIZE
        assert reply["segments"] == [{"segment": 0, "size": SIZE}]
        (descriptor,) = descriptors
        assert os.pread(descriptor, 100, 0) == b"the table"
        os.close(descriptor)

    with tempfile.TemporaryFile() as file:
        file.write(b"the table")
        file.flush()
        play(scene, table=Table(file))


def test_a_client_does_without_a_table_where_descriptors_have_run_out(play):
    async def scene(_server, connect, _left):
        client = await connect()
        assert (await client.hello(table=True))["table"] == 0
        assert (await client.ask("ping"))["result"] == "pong"

    play(scene)


@pytest.mark.parametrize(("role", "offered"), [("read", False), ("execute", True), ("admin", True)])
def test_only_who_may_execute_and_has_the_table_runs_work_in_process(play, monkeypatch, directory, role, offered):
    monkeypatch.setattr("routerd.server.role_of", lambda *_arguments: role)
    sees = Method("read", immediate=lambda session, _params: encode(session.in_process))

    async def scene(_server, connect, _left):
        able, *unable = [await connect() for _ in range(3)]
        await able.hello(in_process=True, table=True)
        await unable[0].hello(table=True)
        await unable[1].hello(in_process=True)
        assert (await able.ask("sees"))["result"] is offered
        assert [(await one.ask("sees"))["result"] for one in unable] == [False, False]

    with (directory / "table").open("w+b") as file:
        play(scene, {"sees": sees}, table=Table(file))


@pytest.mark.parametrize(("role", "allowed"), [("read", {"r"}), ("execute", {"r", "e"}), ("admin", {"r", "e", "a"})])
def test_a_role_allows_what_it_includes(play, monkeypatch, role, allowed):
    monkeypatch.setattr("routerd.server.role_of", lambda *_arguments: role)

    async def scene(_server, connect, _left):
        client = await connect()
        assert (await client.hello())["client_class"] == role
        for method in "rea":
            reply = await client.ask(method)
            if method in allowed:
                assert reply["result"] is None
            else:
                assert reply["error"]["code"] == "permission_denied"
                assert f"this client has {role}" in reply["error"]["message"]

    def answer(_session, _params):
        return encode(None)

    play(
        scene,
        {one: Method(role, immediate=answer) for one, role in zip("rea", ("read", "execute", "admin"), strict=True)},
    )


def test_a_stranger_is_told_before_the_end(play, monkeypatch):
    monkeypatch.setattr("routerd.server.os.getuid", lambda: 4_000_000)
    monkeypatch.setattr("routerd.server.peer_of", lambda _peer: Peer(77, 77, 1))

    async def scene(_server, connect, left):
        client = await connect()
        reply = await client.ask("hello", protocols=[1], client="stranger")
        assert reply["error"]["code"] == "permission_denied"
        assert "user 77 has no role here" in reply["error"]["message"]
        assert await client.reply() is None
        assert left == []

    play(scene)


def test_in_flight_work_is_limited_and_counted(play):
    gate = asyncio.Event()

    async def wait(_session):
        await gate.wait()

    async def scene(server, connect, _left):
        client = await connect()
        await client.hello()
        for _ in range(4):
            client.send("wait")
        reply = await client.reply()
        assert (reply["id"], reply["error"]["code"]) == (5, "limit_exceeded")
        assert "3 requests of this client are in flight, which is the limit" in reply["error"]["message"]
        assert server.in_flight == 3
        assert (await client.ask("ping"))["result"] == "pong"
        gate.set()
        assert sorted([(await client.reply())["id"] for _ in range(3)]) == [2, 3, 4]
        await settle(lambda: server.in_flight == 0)

    play(scene, {"wait": eventual(wait)}, max_in_flight_per_client=3)


def test_leaving_cancels_what_is_in_flight(play):
    events = []

    async def wait(_session):
        events.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    async def scene(server, connect, left):
        def leave(session):
            left.append(session)
            session.close()

        server._on_leave = leave
        client = await connect()
        await client.hello()
        client.send("wait")
        await settle(lambda: events == ["begun"])
        client.close()
        await settle(lambda: events == ["begun", "cancelled"])

    play(scene, {"wait": eventual(wait)})


@pytest.mark.parametrize("kind", ["immediate", "eventual"])
def test_a_defect_is_an_error_of_its_request_alone(play, kind):
    def broken(_session, _params):
        raise ZeroDivisionError("oops")

    async def later(_session):
        raise ZeroDivisionError("oops")

    method = Method("read", immediate=broken) if kind == "immediate" else eventual(later)

    async def scene(server, connect, _left):
        client = await connect()
        await client.hello()
        error = (await client.ask("broken"))["error"]
        assert (error["code"], error["message"]) == ("internal", "internal error: ZeroDivisionError: oops")
        assert (await client.ask("ping"))["result"] == "pong"
        assert server.errors == 1

    play(scene, {"broken": method})


def test_an_error_carries_its_detail(play):
    async def refuse(_session):
        raise BadRequest("no", why="because", number=7)

    async def scene(_server, connect, _left):
        client = await connect()
        await client.hello()
        error = (await client.ask("refuse"))["error"]
        assert error == {"code": "bad_request", "message": "no", "detail": {"why": "because", "number": 7}}

    play(scene, {"refuse": eventual(refuse)})


def test_draining_refuses_work_lets_others_look_and_ends_with_the_last_reply(play, directory):
    gate = asyncio.Event()

    async def wait(_session):
        await gate.wait()

    async def scene(server, connect, _left):
        client = await connect()
        await client.hello()
        client.send("wait")
        await settle(lambda: server.in_flight == 1)
        server.stop_accepting()
        assert not (directory / "s.sock").exists()
        with pytest.raises(OSError, match="No such file"):
            await connect()
        assert (await client.ask("wait"))["error"]["code"] == "shutting_down"
        assert (await client.ask("ping"))["result"] == "pong"
        asyncio.get_running_loop().call_later(0.02, gate.set)
        assert await server.drain(10.0) == 0
        assert (await client.reply())["id"] == 2

    play(scene, {"wait": eventual(wait, works=True)})


def test_what_a_drain_does_not_finish_is_handed_back_before_the_end(play):
    async def wait(_session):
        await asyncio.Event().wait()

    async def scene(server, connect, _left):
        client = await connect()
        await client.hello()
        for _ in range(3):
            client.send("work")
        client.send("watch")
        await settle(lambda: server.in_flight == 4)
        server.stop_accepting()
        assert await server.drain(0.02) == 3
        server.close()
        replies = [await client.reply() for _ in range(3)]
        assert {(reply["id"], reply["error"]["code"]) for reply in replies} == {
            (number, "shutting_down") for number in (2, 3, 4)
        }
        assert await client.reply() is None

    play(scene, {"work": eventual(wait, works=True), "watch": eventual(wait)})


class TestCancelling:
    """The method ``cancel`` as the method table has it."""

    CANCEL = Method("execute", immediate=lambda session, params: encode(session.cancel(decode(params)["request"])))

    @staticmethod
    async def replies(client, count):
        return {reply["id"]: reply for reply in [await client.reply() for _ in range(count)]}

    @pytest.mark.parametrize("begun", [True, False])
    def test_a_request_is_answered_with_cancelled(self, play, begun):
        events = []

        async def wait(_session):
            events.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                events.append("ended")

        async def scene(server, connect, _left):
            client = await connect()
            await client.hello()
            number = client.send("wait")
            if begun:
                await settle(lambda: events == ["begun"])
            asked = client.send("cancel", request=number)
            replies = await self.replies(client, 2)
            assert replies[asked]["result"] is True
            assert replies[number]["error"]["code"] == "cancelled"
            assert events == ["begun", "ended"]
            assert server.in_flight == 0
            assert (await client.ask("cancel", request=number))["result"] is False

        play(scene, {"wait": eventual(wait, works=True), "cancel": self.CANCEL})

    def test_what_is_unknown_or_another_clients_is_left_alone(self, play):
        gate = asyncio.Event()

        async def wait(_session):
            await gate.wait()

        async def scene(_server, connect, _left):
            mine, other = await connect(), await connect()
            await mine.hello()
            await other.hello()
            number = mine.send("wait")
            assert (await mine.ask("cancel", request=99))["result"] is False
            other.send("ping")
            await other.reply()
            assert (await other.ask("cancel", request=number))["result"] is False
            gate.set()
            assert (await mine.reply()) == {"id": number, "result": None}

        play(scene, {"wait": eventual(wait), "cancel": self.CANCEL})


def test_an_id_whose_reply_is_awaited_cannot_be_given_again(play):
    gate = asyncio.Event()

    async def wait(_session):
        await gate.wait()

    async def scene(server, connect, _left):
        client = await connect()
        await client.hello()
        client.send("wait")
        client._number -= 1
        refused = await client.ask("wait")
        assert refused["error"]["code"] == "bad_request"
        assert "request 2 still awaits its reply, and goes on" in refused["error"]["message"]
        assert server.in_flight == 1
        gate.set()
        assert await client.reply() == {"id": 2, "result": None}
        client._number -= 1
        assert await client.ask("wait") == {"id": 2, "result": None}

    play(scene, {"wait": eventual(wait)})


def test_one_client_too_many_is_told_why(play):
    async def scene(server, connect, _left):
        first, second = await connect(), await connect()
        assert (await first.hello())["protocol"] == 1
        error = (await second.reply())["error"]
        assert error["code"] == "limit_exceeded"
        assert "1 clients are connected, which is the limit (max_connections)" in error["message"]
        assert await second.reply() is None

    play(scene, max_connections=1)


def test_an_answer_longer_than_a_client_may_leave_unread_is_refused(play):
    async def long(_session):
        return "x" * 100_000

    async def scene(_server, connect, _left):
        client = await connect()
        await client.hello()
        error = (await client.ask("long"))["error"]
        assert error["code"] == "limit_exceeded"
        assert "the answer to long has 100005 bytes, the limit is 65536" in error["message"]
        assert (await client.ask("ping"))["result"] == "pong"

    play(scene, {"long": eventual(long)}, max_output_buffer_bytes=65536)


def test_a_socket_is_for_its_owner_or_its_group(directory):
    async def main(mode):
        path = directory / f"{mode:o}.sock"
        server = Server(Settings(socket=path, socket_mode=mode), lambda _session: None)
        server.listen({}, NO_TABLE)
        assert path.stat().st_mode & 0o777 == mode
        server.close()
        assert not path.exists()

    for mode in (0o600, 0o660):
        asyncio.run(main(mode))
