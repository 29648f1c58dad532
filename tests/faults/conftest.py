"""Daemons for storms, with three backends of workers of their own, and how long and with which seed storms run.

``FAULT_SECONDS`` is the length of one storm (2 by default, in which ``make test`` does all of them within a minute);
``FAULT_SEED`` repeats the choices of an earlier run, which prints its seed. What exactly a fault hits is up to the machine.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import plugin
from tests.faults.storm import prepare
from tests.processes import DaemonProcess, daemons, install_plugin

SECONDS = float(os.environ.get("FAULT_SECONDS", "2"))
SEED = os.environ.get("FAULT_SEED") or str(random.SystemRandom().randint(0, 10**9))

POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: faults}
rules:
  - id: fickle
    when: {client.name: "fickle-*"}
    prefer: [fickle.one]
default: {objective: {latency: 1.0}}
fallback: {on: [unavailable, out_of_memory, timeout, crash], max_attempts: 3}
admission: {max_queue_ms: 30s, max_in_flight_per_client: 256}
record: {decisions: all}
"""


@pytest.fixture(scope="session")
def seconds() -> float:
    """How long a storm lasts."""
    return SECONDS


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """Of this test: the same for the same ``FAULT_SEED``."""
    print(f"FAULT_SEED={SEED}")
    return f"{SEED}/{request.node.name}"


@pytest.fixture(scope="session")
def plugin_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Python finds the fickle plugin."""
    directory = tmp_path_factory.mktemp("plugin")
    install_plugin(directory, "fickle", Path(plugin.__file__).read_text())
    (directory / "policy.yaml").write_text(POLICY)
    return directory


Make = Callable[..., DaemonProcess]


@pytest.fixture(scope="session")
def make_daemon(tmp_path_factory: pytest.TempPathFactory, plugin_directory: Path) -> Iterator[Make]:
    """Makes daemons with the fickle plugin, not started."""
    if not sys.platform.startswith("linux"):
        pytest.skip("what a daemon holds is read from /proc")
    with daemons(tmp_path_factory.mktemp("without")) as make:

        def made(environment: dict[str, str] | None = None, **settings: Any) -> DaemonProcess:
            extra = environment or {}
            path = ":".join(filter(None, [extra.get("PYTHONPATH"), str(plugin_directory)]))
            policy = plugin_directory / "policy.yaml"
            return make(environment={**extra, "PYTHONPATH": path}, policy_paths=policy, **settings)

        yield made


@pytest.fixture(scope="session")
def knowledge(make_daemon: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory in which everything is proved and timed, so that each storm's daemon need not do it again."""
    daemon = make_daemon().start()
    prepare(daemon)
    assert daemon.stop() == 0, daemon.log.read_text()
    directory = tmp_path_factory.mktemp("knowledge") / "state"
    shutil.copytree(daemon.state, directory)
    return directory


@pytest.fixture
def ready_daemon(make_daemon: Make, knowledge: Path) -> Callable[..., DaemonProcess]:
    """Starts a daemon that knows its backends, and waits until all of them are ready."""

    def start(**settings: Any) -> DaemonProcess:
        daemon = make_daemon(**settings)
        shutil.copytree(knowledge, daemon.state, dirs_exist_ok=True)
        daemon.start().wait_ready("cpu.numpy", "fickle.one", "steady.one")
        return daemon

    return start
