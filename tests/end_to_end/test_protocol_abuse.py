"""Bytes that are no requests, clients that vanish, clients that do not read, and very many of them."""

from __future__ import annotations

import random
import socket

import msgspec
import pytest

pytestmark = pytest.mark.usefixtures("bystander")


def body(**message):
    return msgspec.msgpack.encode(message)


HELLO = {"protocols": [1], "client": "wire"}


class TestBeforeHello:
    def test_the_first_message_must_be_hello(self, wire):
        raw = wire()
        raw.request("status")
        reply = raw.reply()
        assert reply["error"]["code"] == "protocol_error"
        assert reply["error"]["message"] == "the first message must be hello, got status"
        assert raw.reply() is None

    def test_an_unknown_protocol_version(self, wire):
        raw = wire()
        raw.request("hello", {"protocols": [7, 9], "client": "wire"})
        error = raw.reply()["error"]
        assert error["code"] == "unsupported_protocol"
        assert error["message"] == "the client speaks protocol [7, 9], this daemon [1]"
        assert error["detail"] == {"supported": [1]}
        assert raw.reply() is None

    def test_the_best_common_version_is_taken(self, wire):
        assert wire().ask("hello", {"protocols": [9, 1], "client": "wire"})["result"]["protocol"] == 1

    @pytest.mark.parametrize(
        "params", [{}, {"protocols": 1, "client": "x"}, {"protocols": [1]}, {**HELLO, "password": "x"}, [1], None, 7]
    )
    def test_a_malformed_hello(self, wire, params):
        raw = wire()
        raw.frame(body(id=1, method="hello", params=params))
        assert raw.reply()["error"]["code"] == "malformed_frame"

    def test_what_follows_a_refused_hello_is_not_served(self, wire):
        raw = wire()
        raw.send(b"".join(len(one).to_bytes(4, "little") + one for one in (body(id=1, method="ping"),) * 3))
        assert raw.reply()["error"]["code"] == "protocol_error"
        assert raw.reply() is None

    def test_a_second_hello_is_an_unknown_method(self, wire):
        raw = wire().hello()
        assert raw.error("hello", HELLO)["code"] in ("unknown_method", "protocol_error")
        assert raw.ask("ping")["result"] == {"pong": True}


class TestFrames:
    def test_a_frame_that_announces_too_much_ends_the_connection(self, wire):
        raw = wire().hello()
        raw.send((1 << 20).to_bytes(4, "little"))
        raw.send(b"x")
        limit = raw  # the connection itself is fine up to the limit
        assert limit.socket.fileno() >= 0
        other = wire().hello()
        other.send(((1 << 20) + 1).to_bytes(4, "little"))
        error = other.reply()["error"]
        assert error["code"] == "frame_too_large"
        assert error["detail"] == {"limit": 1 << 20}
        assert "pass large arrays in a segment" in error["message"]
        assert other.reply() is None

    def test_replies_to_earlier_frames_come_before_the_end(self, wire):
        raw = wire().hello()
        ping = body(id=5, method="ping")
        raw.send(len(ping).to_bytes(4, "little") + ping + b"\xff\xff\xff\xff")
        assert raw.reply() == {"id": 5, "result": {"pong": True}}
        assert raw.reply()["error"]["code"] == "frame_too_large"

    @pytest.mark.parametrize(
        "garbage",
        [b"", b"\xc1", b"\xff" * 40, b"{}", b"\x81\xa2id", b"\x93\x01\x02\x03", b"\x80", b"\xc0",
         body(id="one", method="ping"), body(id=1, method=7), body(id=1), body(method="ping"),
         body(id=2**64 - 1, method="ping", extra=1), body(id=1.5, method="ping"), b"\x81\xa2\xff\xfe\x01"],
    )  # fmt: skip
    def test_a_frame_that_is_no_request_leaves_the_connection_usable(self, wire, garbage):
        raw = wire().hello()
        raw.frame(garbage)
        reply = raw.reply()
        assert reply["id"] == 0
        assert reply["error"]["code"] == "malformed_frame"
        assert reply["error"]["message"].startswith("the request is not valid: ")
        assert raw.ask("ping")["result"] == {"pong": True}

    @pytest.mark.parametrize("nested", [b"\x91", b"\x81\xa1x"])
    @pytest.mark.parametrize("method", ["ping", "run", "decide"])
    def test_deep_nesting_is_no_way_in(self, wire, nested, method):
        raw = wire().hello()
        name = msgspec.msgpack.encode(method)
        raw.frame(b"\x83\xa2id\x01\xa6method" + name + b"\xa6params" + nested * 200_000 + b"\xc0")
        assert raw.reply()["error"]["code"] == "malformed_frame"
        assert raw.ask("ping")["result"] == {"pong": True}

    @pytest.mark.parametrize("claimed", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
    def test_a_length_that_is_not_there_allocates_nothing(self, wire, claimed):
        raw = wire().hello()
        raw.frame(b"\x83\xa2id\x01\xa6method\xa6decide\xa6params" + claimed)
        assert raw.reply()["error"]["code"] == "malformed_frame"
        raw.frame(body(id=1, method="decide", params={"workload": "linalg.gemm"})[:-1])
        assert raw.reply()["error"]["code"] == "malformed_frame"

    @pytest.mark.parametrize(
        ("method", "params"),
        [("ping", {"loud": 1}), ("run", {}), ("run", {"workload": 1}), ("run", {"workload": "linalg.gemm", "colour": 1}),
         ("decide", {"workload": "linalg.gemm", "params": {"m": [1]}}), ("alloc", {"size": "big"}), ("free", {}),
         ("run", {"workload": "linalg.gemm", "arrays": {"a": {"shape": [1], "dtype": "float64", "offfset": 1}}}),
         ("run", {"workload": "linalg.gemm", "arrays": {"a": {"shape": [1.5], "dtype": "float64"}}}),
         ("decisions.tail", {"limit": "all"}), ("policy.apply", {"paths": "x"}), ("calibrate", {"again": 1})],
    )  # fmt: skip
    def test_params_that_do_not_fit_name_the_method(self, wire, method, params):
        raw = wire().hello()
        error = raw.error(method, params)
        assert error["code"] == "malformed_frame"
        assert error["message"].startswith(f"params of {method} is not valid: ")
        assert raw.ask("ping")["result"] == {"pong": True}

    def test_an_unknown_method_gets_the_nearest_name(self, wire):
        error = wire().hello().error("statsu")
        assert error["code"] == "unknown_method"
        assert "no method statsu (did you mean stat" in error["message"]

    def test_ids_are_the_clients_own(self, wire):
        raw = wire().hello()
        for number in (0, -1, -(2**63), 2**64 - 1, 5, 5):
            raw.frame(body(id=number, method="ping"))
            assert raw.reply() == {"id": number, "result": {"pong": True}}

    def test_byte_by_byte_is_as_good_as_at_once(self, wire):
        raw = wire().hello()
        ping = body(id=3, method="ping")
        for byte in len(ping).to_bytes(4, "little") + ping:
            raw.send(bytes([byte]))
        assert raw.reply() == {"id": 3, "result": {"pong": True}}


def test_random_bytes_never_disturb_anybody(wire):
    """Pure noise, noise in valid frames, and valid requests with flipped bytes, from many connections."""
    draw = random.Random(4711)
    good = body(id=1, method="decide", params={"workload": "linalg.gemm", "params": {"m": 2, "k": 2, "n": 2}})
    for number in range(400):
        raw = wire()
        raw.socket.settimeout(5.0)
        if number % 4:
            raw.hello()
        noise = draw.randbytes(draw.randrange(1, 200))
        damaged = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        for chunk in (noise, len(noise).to_bytes(4, "little") + noise, len(good).to_bytes(4, "little") + damaged):
            try:
                raw.send(chunk if draw.random() < 0.5 else chunk[: draw.randrange(len(chunk) + 1)])
            except (BrokenPipeError, ConnectionResetError):
                break
        raw.socket.close()


class TestVanishing:
    def test_in_the_middle_of_a_frame(self, wire):
        for cut in (1, 3, 4, 20):
            raw = wire().hello()
            ping = body(id=1, method="ping", params={"x": "y" * 100})
            raw.send((len(ping).to_bytes(4, "little") + ping)[:cut])
            raw.socket.close()

    def test_in_the_middle_of_a_run(self, wire, bystander, until):
        raw = wire().hello("leaver")
        before = bystander.call("status")["traffic"]["clients"]
        raw.request("run", {"workload": "options.monte_carlo_european", "params": {
            "spot_price": 100.0, "strike_price": 100.0, "volatility": 0.2, "num_simulations": 10_000_000}})  # fmt: skip
        until(lambda: any(worker["waiting"] for worker in bystander.call("status")["workers"]))
        raw.socket.close()
        until(lambda: bystander.call("status")["traffic"]["clients"] == before - 1)
        until(lambda: not any(worker["waiting"] for worker in bystander.call("status")["workers"]))
        assert bystander.call("status")["traffic"]["in_flight"] == 0

    def test_with_segments_and_results(self, wire, daemon, bystander, until):
        until(lambda: bystander.call("status")["traffic"]["clients"] == 1)
        before = daemon.segments(daemon.pid).descriptors
        raw = wire().hello()
        for _ in range(5):
            raw.ask("alloc", {"size": 1 << 20})
        until(lambda: daemon.segments(daemon.pid).descriptors == before + 5)
        raw.socket.close()
        until(lambda: daemon.segments(daemon.pid).descriptors == before)


def test_a_client_that_does_not_read_is_put_off_not_stored(wire, daemon, bystander):
    """The daemon stops reading from it; what it holds for it stays small; others are served; reading gets it all."""
    import psutil

    raw = wire().hello()
    raw.socket.setblocking(False)
    frame = body(id=9, method="workloads")
    frame = len(frame).to_bytes(4, "little") + frame
    sent = 0
    before = psutil.Process(daemon.pid).memory_info().rss
    rest = frame * 400
    while rest:
        try:
            count = raw.socket.send(rest)
        except BlockingIOError:
            break
        sent += count
        rest = rest[count:]
    assert bystander.call("ping") == {"pong": True}
    assert psutil.Process(daemon.pid).memory_info().rss - before < 40 << 20
    raw.socket.setblocking(True)
    raw.socket.settimeout(20.0)
    replies = 0
    while replies < sent // len(frame):
        assert len(raw.reply()["result"]) >= 9
        replies += 1


def test_five_hundred_clients_at_once(wire, daemon, bystander, until):
    clients = [wire() for _ in range(500)]
    for client in clients:
        client.request("hello", HELLO)
        client.request("decide", {"workload": "linalg.gemm", "params": {"m": 8, "k": 8, "n": 8}})
    until(lambda: bystander.call("status")["traffic"]["clients"] >= 501)
    ids = set()
    for client in clients:
        assert client.reply()["result"]["protocol"] == 1
        ids.add(client.reply()["result"]["decision_id"])
    assert len(ids) == 500


def test_the_limit_of_connections_is_told(private_daemon, wire):
    small = private_daemon(max_connections=3).start()
    with small.connect():
        raws = [wire(small.socket) for _ in range(3)]
        raws[0].hello()
        raws[1].hello()
        error = raws[2].reply()["error"]
        assert error["code"] == "limit_exceeded"
        assert error["message"] == "3 clients are connected, which is the limit (max_connections)"
        assert raws[2].reply() is None
        raws[0].close()
        small.connect().close()


def test_the_limit_of_requests_in_flight_is_told_and_kept(wire, bystander, until):
    raw = wire().hello("eager")
    task = {"workload": "options.monte_carlo_european", "params": {
        "spot_price": 100.0, "strike_price": 100.0, "volatility": 0.2, "num_simulations": 100_000}}  # fmt: skip
    for _ in range(300):
        raw.request("run", task)
    replies = [raw.reply() for _ in range(300)]
    refused = [reply["error"] for reply in replies if "error" in reply]
    served = [reply for reply in replies if "result" in reply]
    assert len(served) >= 256
    assert {error["code"] for error in refused} <= {"limit_exceeded", "overloaded"}
    assert all("256" in error["message"] for error in refused)
    assert raw.ask("ping")["result"] == {"pong": True}
    until(lambda: bystander.call("status")["traffic"]["in_flight"] == 0)


def test_a_half_closed_connection_ends(wire, bystander, until):
    before = bystander.call("status")["traffic"]["clients"]
    raw = wire().hello()
    raw.socket.shutdown(socket.SHUT_WR)
    assert raw.reply() is None
    until(lambda: bystander.call("status")["traffic"]["clients"] == before)
