"""The plain connection, against a socket that misbehaves in every way a daemon could."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from routerd.cli import link
from routerd.errors import DaemonUnreachable, PermissionDenied, RouterdError
from routerd.protocol import Failure, FrameBuffer, Reply, Request, encode_frame

Answer = Callable[[Request], Reply | None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Path]]:
    """Serve one client with a function from request to reply; no reply hangs up. Returns the path."""
    directory = Path(tempfile.mkdtemp(prefix="rl-"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(directory / "s"))
    listener.listen()
    threads: list[threading.Thread] = []

    def work(answer: Answer) -> None:
        connection, _address = listener.accept()
        frames = FrameBuffer(1 << 20)
        with connection:
            while data := connection.recv(1 << 16):
                for body in frames.feed(data):
                    reply = answer(msgspec.msgpack.decode(body, type=Request))
                    if reply is None:
                        return
                    frame = encode_frame(reply)
                    for index in range(len(frame)):  # however the bytes are cut
                        connection.sendall(frame[index : index + 1])

    def start(answer: Answer) -> Path:
        threads.append(threading.Thread(target=work, args=(answer,)))
        threads[-1].start()
        return directory / "s"

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    listener.close()
    shutil.rmtree(directory)


def ok(request: Request) -> Reply:
    return Reply(request.id, result=msgspec.Raw(msgspec.msgpack.encode({"method": request.method})))


def test_calls_are_answered(serve):
    with link.Link(serve(ok)) as connection:
        assert connection.call("status") == {"method": "status"}
        assert connection.call("flags", {"a": 1}) == {"method": "flags"}


def test_sending_and_waiting_can_be_apart(serve):
    with link.Link(serve(ok)) as connection:
        assert not connection.answered(0.0)
        connection.send("calibrate")
        assert connection.answered(10.0)
        assert connection.wait(0.0) == {"method": "calibrate"}


def test_an_error_reply_is_raised_as_its_class(serve):
    def deny(request: Request) -> Reply:
        return ok(request) if request.method == "hello" else Reply(request.id, error=Failure("permission_denied", "no"))

    with link.Link(serve(deny)) as connection, pytest.raises(PermissionDenied, match="no"):
        connection.call("calibrate")


def test_a_refused_hello_is_raised(serve):
    with pytest.raises(PermissionDenied):
        link.Link(serve(lambda request: Reply(request.id, error=Failure("permission_denied", "no role"))))


def test_a_daemon_that_hangs_up_is_unreachable(serve):
    with pytest.raises(DaemonUnreachable, match="closed the connection"):
        link.Link(serve(lambda request: None))


def test_a_reply_without_content_is_an_error(serve):
    with pytest.raises(RouterdError, match="without result"):
        link.Link(serve(lambda request: Reply(request.id)))


def test_silence_is_unreachable_after_a_while(serve):
    with link.Link(serve(ok)) as connection, pytest.raises(DaemonUnreachable, match="did not answer"):
        connection.wait(0.01)


def test_no_socket_is_unreachable(monkeypatch, tmp_path):
    monkeypatch.setattr(link, "WAIT_SECONDS", 0.0)
    with pytest.raises(DaemonUnreachable, match="start one with: routerd"):
        link.Link(Path("/tmp/routerd-no-such.sock"))


def test_a_starting_daemon_is_waited_for(monkeypatch):
    directory = Path(tempfile.mkdtemp(prefix="rl-"))
    path = directory / "s"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def listen_late(_seconds: float) -> None:
        if not path.exists():
            listener.bind(str(path))
            listener.listen()

    monkeypatch.setattr(link.time, "sleep", listen_late)
    connection = link._connect(path)
    connection.close()
    listener.close()
    shutil.rmtree(directory)
