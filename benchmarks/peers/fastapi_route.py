"""A FastAPI route on a Unix socket, served by uvicorn in a process of its own: the usual way to ask another process.

``python -m benchmarks.peers.fastapi_route SOCKET`` serves until it is terminated.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks.peers import Missing, Peer, missing, versions
from benchmarks.peers.question import Answer, Question

_NAME = "FastAPI route on a Unix socket"
_START_SECONDS = 30.0
_CHUNK = 1 << 16

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Answer)


@contextlib.contextmanager
def peer() -> Iterator[Peer | Missing]:
    """Asked over one connection that is kept open, by a client that does no more than HTTP/1.1 needs."""
    if (absent := missing(_NAME, "fastapi", "uvicorn", "uvloop")) is not None:
        yield absent
        return
    parser = "h11" if find_spec("httptools") is None else "httptools"  # uvicorn takes the quicker one if it is there
    with tempfile.TemporaryDirectory(prefix="rb-") as directory:
        path = Path(directory) / "http.sock"
        process = subprocess.Popen([sys.executable, "-m", __name__, str(path)])
        try:
            with connect(path, process) as connection:
                yield Peer(_NAME, lambda question: _ask(connection, question), versions("fastapi", "uvicorn", parser))
        finally:
            process.terminate()
            process.wait()


def connect(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """A connection to a peer that may still be starting. Raises ``SystemExit`` if it ended or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the FastAPI peer does not serve; its own words are above") from None
            time.sleep(0.01)
        else:
            return connection


def _ask(connection: socket.socket, question: Question) -> Answer:
    body = _encoder.encode(question)
    connection.sendall(
        b"POST /answer HTTP/1.1\r\nHost: peer\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    head, content = _read_reply(connection)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the FastAPI peer answered {head!r} {content!r}")
    return _decoder.decode(content)


def _read_reply(connection: socket.socket) -> tuple[bytes, bytes]:
    reply = b""
    while True:
        data = connection.recv(_CHUNK)
        if not data:
            raise EOFError("the FastAPI peer closed the connection")
        reply += data
        head, _, content = reply.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if content and len(content) >= int(length):
            return head, content


def _serve(path: str) -> None:
    import uvicorn
    from fastapi import FastAPI

    from benchmarks.peers import python_rules

    app = FastAPI()

    @app.post("/answer")
    async def answer(question: Question) -> Answer:
        return python_rules.answer(question)

    uvicorn.run(app, uds=path, loop="uvloop", log_level="warning", access_log=False)


if __name__ == "__main__":
    _serve(sys.argv[1])
