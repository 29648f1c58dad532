"""Real daemons on private sockets, clients of every manner, and a plugin that fails on demand."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routerd.client import Router
from tests.processes import DaemonProcess, Wire, daemons, install_plugin, wait_until

OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 1000}

PLUGIN = '''
import os, threading, time
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec
from routerd.testing import NullBackend, null_backend_spec

class Moody(NullBackend):
    """Does what the first element of the input asks for; examples of proofs and timings never ask for anything."""

    def execute(self, workload, params, inputs, into):
        order = next(iter(inputs.values())).flat[0] if inputs else 0.0
        if order == 666001.0:
            raise RuntimeError("the moody backend was asked to fail")
        if order == 666002.0:
            os._exit(70)
        if order == 666003.0:
            threading.Event().wait()
        if order == 666004.0:
            time.sleep(0.6)
        return super().execute(workload, params, inputs, into)

@hookimpl
def routerd_backends(settings):
    return [
        BackendSpec(name="moody.one", device_kind="hybrid", precision="float64", factory="acme_backends:Moody",
                    group="moody", options={"device_kind": "hybrid"}),
        *(null_backend_spec(name, "cluster", **options) for name, options in SPECS.items()),
    ]

SPECS = {}
'''
MOODY_POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: moody}
rules:
  - id: moody
    when: {client.name: moody}
    prefer: [moody.one]
default: {objective: {latency: 1.0}}
admission: {max_queue_ms: 30s, max_in_flight_per_client: 256}
"""


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def option() -> dict[str, float]:
    """Parameters of a small Monte Carlo task."""
    return dict(OPTION)


@pytest.fixture(scope="session")
def daemon() -> Iterator[DaemonProcess]:
    """One daemon for all tests that only ask and run. Every workload is proved and timed before the first of them."""
    process = DaemonProcess(calibration_run_seconds=0.02).start()
    try:
        with process.connect(name="setup") as router:
            router.call("calibrate")
        yield process
        assert process.stop() == 0, process.log.read_text()
        assert "internal error" not in process.log.read_text()
        assert "Traceback" not in process.log.read_text()
    finally:
        process.remove()


@pytest.fixture
def router(daemon: DaemonProcess) -> Iterator[Router]:
    """A client that has the daemon decide and run everything; ``test_table.py`` has those that read its table."""
    with daemon.connect(name="test", table=False) as connection:
        yield connection


@pytest.fixture
def quiet(daemon: DaemonProcess, router: Router) -> None:
    """Nothing of earlier tests is left in this process, in the daemon or in the contract's worker: segments can be counted."""
    gc.collect()
    wait_until(lambda: router.call("status")["traffic"]["clients"] == 1)
    router.run("options.monte_carlo_european", **OPTION, tolerance=0.0)


@pytest.fixture
def wire(daemon: DaemonProcess) -> Iterator[Callable[[], Wire]]:
    """Makes raw connections to the shared daemon."""
    made: list[Wire] = []

    def make(path: Path = daemon.socket) -> Wire:
        made.append(Wire(path))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@pytest.fixture
def bystander(daemon: DaemonProcess) -> Iterator[Router]:
    """Another client: whatever the test does, this one is served before and after by the same process."""
    with daemon.connect(name="bystander", table=False) as other:
        pid = other.call("status")["pid"]
        exactly = {**OPTION, "tolerance": 0.0}
        before = other.run("options.monte_carlo_european", **exactly)["price"]
        yield other
        assert other.run("options.monte_carlo_european", **exactly)["price"] == before
        assert other.decide("options.monte_carlo_european", **OPTION).backend
        assert other.call("status")["pid"] == pid
        with daemon.connect(name="newcomer") as newcomer:
            assert newcomer.call("ping") == {"pong": True}


@pytest.fixture
def private_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., DaemonProcess]]:
    """Daemons that a test may configure, break and kill; not started. Most need no ``torch`` and so do not wait for it."""
    with daemons(tmp_path_factory.mktemp("without")) as make:
        yield make


@pytest.fixture(scope="module")
def module_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., DaemonProcess]]:
    """Like ``private_daemon``, for all tests of a file."""
    with daemons(tmp_path_factory.mktemp("without")) as make:
        yield make


@pytest.fixture
def moody_daemon(private_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> Callable[..., DaemonProcess]:
    """Daemons with ``moody.one``, which the client named ``moody`` is sent to, and null backends with failures.

    ``666001`` to ``666004`` as first element of the input make moody.one raise, exit, hang or take 0.6 s.
    """
    return partial(_moody, private_daemon, tmp_path)


@pytest.fixture(scope="session")
def moody_knowledge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory in which ``linalg.gemm`` is proved and timed on ``moody.one`` and ``cpu.numpy``."""
    directory = tmp_path_factory.mktemp("knowledge")
    with daemons(tmp_path_factory.mktemp("without")) as make:
        # Beside the plugin lies what lies beside it later: what was measured counts for the same files only.
        process = _moody(make, tmp_path_factory.mktemp("moody")).start()
        with process.connect(name="setup") as router:
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
        assert process.stop() == 0
        return Path(shutil.copytree(process.state, directory / "state"))


@pytest.fixture
def timed_moody_daemon(
    moody_daemon: Callable[..., DaemonProcess], moody_knowledge: Path
) -> Callable[..., DaemonProcess]:
    """Starts daemons with ``moody.one``, which know ``linalg.gemm`` from an earlier run and have it warm."""

    def start(**settings: Any) -> DaemonProcess:
        process = moody_daemon(**settings)
        shutil.copytree(moody_knowledge, process.state)
        with process.start().connect(name="setup") as router:
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
        return process

    return start


def _moody(
    make: Callable[..., DaemonProcess],
    directory: Path,
    specs: dict[str, dict[str, Any]] | None = None,
    **settings: Any,
) -> DaemonProcess:
    install_plugin(directory, "acme", PLUGIN.replace("SPECS = {}", f"SPECS = {specs or {}}"))
    policy = directory / "policy.yaml"
    policy.write_text(MOODY_POLICY)
    environment = {"PYTHONPATH": str(directory), **settings.pop("environment", {})}
    return make(environment=environment, **{"policy_paths": policy, **settings})


@pytest.fixture(scope="session")
def moods() -> SimpleNamespace:
    """The orders that moody.one follows."""
    return SimpleNamespace(fail=666001.0, leave=666002.0, hang=666003.0, slow=666004.0)
