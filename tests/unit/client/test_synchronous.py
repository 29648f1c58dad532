"""The synchronous client beside a daemon that only listens."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from msgspec import Raw

from routerd.client.shortcut import Shortcut
from routerd.client.synchronous import connect
from routerd.protocol import HEADER, Limits, Reply, Welcome, encode, encode_frame

LIMITS = Limits(1 << 24, 8, 8, 1 << 30, 1 << 30, 1 << 23)


def listen(listener: socket.socket) -> bytes:
    """Greet one client; what it says after that, until it leaves."""
    connection, _address = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(encode_frame(Reply(0, Raw(encode(Welcome(1, "", "admin", LIMITS))))))
        heard = bytearray()
        while data := connection.recv(1 << 20):
            heard += data
    return bytes(heard)


def test_an_interrupted_request_is_not_completed_by_a_report(tmp_path, monkeypatch, written):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        listener.listen()
        listening = pool.submit(listen, listener)
        router = connect(path, table=False)
        router._shortcut = Shortcut(written.reader)
        router._shortcut.table.view("linalg.gemm").count = 5  # to be reported
        wait, waits = router._link._wait_for_either, []

        def interrupted() -> int:
            waits.append(1)
            if len(waits) > 1:
                raise KeyboardInterrupt
            return wait()

        monkeypatch.setattr(router._link, "_wait_for_either", interrupted)
        with pytest.raises(KeyboardInterrupt):
            router.run("third.party", x=np.zeros(100_000))
        heard = listening.result(10.0)
    (announced,) = HEADER.unpack_from(heard)
    assert 0 < len(heard) - HEADER.size < announced
    assert b"report" not in heard
