"""A daemon that may open no more descriptors: it says so, idles, and goes on when some are free."""

from __future__ import annotations

import contextlib
import itertools
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from routerd.errors import LimitExceeded, RouterdError
from tests.processes import DaemonProcess, Wire, daemons, wait_until

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only Linux sets the limits of another process"
)

TASK = {"m": 8, "k": 8, "n": 8}
LARGE = np.ones((4096, 1))  # 32 KiB: its result does not fit into the message


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemons(tmp_path_factory.mktemp("limits")) as make:
        process = make().start()
        with process.connect(name="setup", table=False) as router:
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
            router.run("linalg.gemm", a=LARGE, b=np.ones((1, 1)), tolerance=1e-9)
        yield process
        assert process.stop() == 0, process.log.read_text()
        assert "Traceback" not in process.log.read_text()


@pytest.fixture(autouse=True)
def alone(limited: DaemonProcess) -> None:
    """The clients of earlier tests, and what they held, are gone: descriptors can be counted."""

    def settled() -> bool:
        with limited.connect(name="count", table=False) as router:
            return bool(router.call("status")["traffic"]["clients"] == 1)

    wait_until(settled)
    seen = [0]

    def as_before() -> bool:
        seen.append(open_descriptors(limited))
        return seen[-1] == seen[-2]

    wait_until(as_before)


def open_descriptors(daemon: DaemonProcess) -> int:
    """How many the daemon has, without those that it opens for a moment."""
    counts = []
    for _ in range(5):
        counts.append(daemon.segments(daemon.pid).all_descriptors)
        time.sleep(0.01)
    return min(counts)


@contextlib.contextmanager
def may_open(daemon: DaemonProcess, more: int) -> Iterator[None]:
    """The daemon may open so many descriptors more than it has now; its workers are not limited."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    taken = set.intersection(*({int(path.name) for path in Path(f"/proc/{daemon.pid}/fd").iterdir()} for _ in range(5)))
    free = (
        number for number in itertools.count() if number not in taken
    )  # the limit is one of numbers, not of how many
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), before[1]))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)


def busy_share(daemon: DaemonProcess, seconds: float) -> float:
    """The share of a core that the daemon takes meanwhile."""
    process = psutil.Process(daemon.pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


def test_a_client_too_many_is_told_so_and_served_when_others_left(limited: DaemonProcess) -> None:
    clients: list[Wire] = []
    with may_open(limited, 40), contextlib.ExitStack() as closing:
        refusal = None
        while refusal is None and len(clients) < 50:
            client = Wire(limited.socket)
            closing.callback(client.close)
            with contextlib.suppress(BrokenPipeError):  # it may be refused before it has said hello
                client.request("hello", {"protocols": [1], "client": "many"})
            reply = client.reply()
            assert reply is not None
            refusal = reply.get("error")
            if refusal is None:
                clients.append(client)
        assert refusal is not None
        assert refusal["code"] == "limit_exceeded"
        assert "no descriptor to spare" in refusal["message"]
        assert len(clients) >= 4
        assert all("result" in client.ask("decide", {"workload": "linalg.gemm", "params": TASK}) for client in clients)
        with pytest.raises(RouterdError, match="no descriptor to spare"):
            limited.connect(name="late")
        clients.pop().socket.close()
        wait_until(lambda: clients[0].ask("status")["result"]["traffic"]["clients"] <= len(clients))
        with limited.connect(name="next", table=False) as router:
            assert router.decide("linalg.gemm", **TASK).backend


def test_without_any_descriptor_newcomers_wait_and_nothing_spins(limited: DaemonProcess) -> None:
    with limited.connect(name="early", table=False) as early, contextlib.ExitStack() as closing:
        with may_open(limited, 0):
            waiting = Wire(limited.socket)
            closing.callback(waiting.close)
            waiting.request("hello", {"protocols": [1], "client": "late"})
            waiting.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.reply()
            assert busy_share(limited, 0.5) < 0.3
            assert early.decide("linalg.gemm", **TASK).backend
            assert early.run("linalg.gemm", a=np.eye(8), b=np.eye(8), tolerance=1e-9).ran_on.backend == "cpu.numpy"
        waiting.socket.settimeout(20.0)
        reply = waiting.reply()
        assert reply is not None
        assert "result" in reply


def test_a_segment_that_cannot_be_had_is_an_error_and_the_next_works(limited: DaemonProcess) -> None:
    with limited.connect(name="alloc", table=False) as router:
        with may_open(limited, 0), pytest.raises(LimitExceeded, match="Too many open files"):
            router.empty((4096, 1))
        array = router.empty((4096, 1))
        array[:] = 2.0
        result = router.run("linalg.gemm", a=array, b=np.ones((1, 1)), tolerance=1e-9)
        assert float(result["c"].sum()) == 8192.0


def test_clients_segments_leave_descriptors_for_the_daemon(limited: DaemonProcess) -> None:
    with limited.connect(name="hoarder", table=False) as router, may_open(limited, 40):
        held = []
        with pytest.raises(LimitExceeded, match="Too many open files"):
            for _ in range(50):
                held.append(router.empty((4096, 1)))
        assert len(held) >= 4
        assert router.run("linalg.gemm", a=held[0], b=np.ones((1, 1)), tolerance=1e-9)["c"].shape == (4096, 1)


def test_a_result_that_cannot_be_passed_on_is_an_error_and_its_memory_goes_back(limited: DaemonProcess) -> None:
    column, row = np.full((64, 1), 3.0), np.ones((1, 64))  # they travel in the message, their product does not
    with limited.connect(name="result", table=False) as router:
        (worker,) = (one["pid"] for one in router.call("status")["workers"] if one["name"] == "cpu/numpy")
        before = limited.segments(worker)
        with may_open(limited, 0), pytest.raises(LimitExceeded, match="no descriptor left"):
            router.run("linalg.gemm", a=column, b=row, tolerance=1e-9)
        router.run("linalg.gemm", a=np.eye(8), b=np.eye(8), tolerance=1e-9)  # the worker hears of it with its next task
        assert limited.segments(worker) == before
        assert float(router.run("linalg.gemm", a=column, b=row, tolerance=1e-9)["c"].sum()) == 3.0 * 4096


def test_a_worker_that_cannot_start_is_started_once_there_are_descriptors(limited: DaemonProcess) -> None:
    with limited.connect(name="watch", table=False) as router:
        (worker,) = (one for one in router.call("status")["workers"] if one["name"] == "cpu/numpy")
        with may_open(limited, 0), contextlib.ExitStack() as closing:
            psutil.Process(worker["pid"]).kill()
            wait_until(lambda: "worker ended" in limited.log.read_text())
            closing.callback(_fill(limited).close)  # takes the descriptor that the worker's stream had
            wait_until(lambda: "worker cannot start" in limited.log.read_text())
            assert router.call("ping") == {"pong": True}
        wait_until(lambda: router.call("status")["backends"]["cpu.numpy"] == "ready")
        small = router.run("linalg.gemm", a=np.eye(8), b=np.eye(8), tolerance=1e-9)
        assert small.ran_on.backend == "cpu.numpy"


def _fill(daemon: DaemonProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(daemon.socket))
    return connection
