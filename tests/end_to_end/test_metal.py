"""The plugin ``metal`` where there is no Apple GPU: it says so, and MLX on the processor takes part like any other backend."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed")

from routerd.cli import app
from routerd.errors import RouterdError
from routerd.namespaces.execution import refusal
from routerd.namespaces.mlx import MlxNamespace
from routerd.workloads import builtin_workloads
from tests.processes import DaemonProcess, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cpu.mlx is for Linux")

ABSENT = f"no Metal device ({sys.platform}/{platform.machine()})"
SIDE = 2048


@pytest.fixture(scope="module")
def mlx_daemon(module_daemon: Callable[..., DaemonProcess]) -> Iterator[DaemonProcess]:
    """A daemon with NumPy and MLX."""
    process = module_daemon(plugins_allow="metal", plugins_deny="", calibration_run_seconds=0.005).start()
    process.wait_ready("cpu.mlx", "metal.mlx", "metal.torch")
    yield process


def backends(process: DaemonProcess) -> dict[str, dict[str, Any]]:
    with process.connect(name="looking") as router:
        return {one["name"]: one for one in router.call("backends")["backends"]}


def test_a_machine_without_an_apple_gpu_says_so(mlx_daemon: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["backends", "--socket", str(mlx_daemon.socket), "--json"]) == 0
    shown = {one["name"]: one for one in json.loads(capsys.readouterr().out)["backends"]}
    for name in ("metal.mlx", "metal.torch"):
        assert (shown[name]["state"], shown[name]["reason"]) == ("unavailable", ABSENT)
    assert shown["cpu.mlx"]["state"] == "ready"
    assert shown["cpu.mlx"]["device"]["kind"] == "cpu"


def test_mlx_loses_a_large_product_to_what_is_quicker(mlx_daemon: DaemonProcess) -> None:
    with mlx_daemon.connect(name="test") as router:

        def decide(again: bool) -> Any:
            router.call("calibrate", {"workloads": ["linalg.gemm"], "again": again})
            return router.decide("linalg.gemm", m=SIDE, k=SIDE, n=SIDE)

        decision = decide(False)
        for _ in range(
            3
        ):  # NumPy is over ten times as quick; only timings that other processes disturbed can say otherwise
            if decision.backend != "cpu.mlx":
                break
            decision = decide(True)
    candidates = {one.backend: one.predicted_seconds for one in decision.fallbacks}
    assert decision.backend == "cpu.numpy"
    assert candidates["cpu.mlx"] > decision.predicted_seconds
    rejected = {one.backend: one.reason for one in decision.rejected}
    assert rejected["metal.mlx"] == f"unavailable: {ABSENT}"


def test_mlx_is_proved_on_every_workload_that_it_can_express(mlx_daemon: DaemonProcess) -> None:
    namespace = MlxNamespace("cpu")
    tolerances = {one.name: one.tolerance for one in builtin_workloads() if refusal(one, namespace) is None}

    def pairs() -> dict[str, dict[str, Any]]:
        return {pair["workload"]: pair for pair in backends(mlx_daemon)["cpu.mlx"]["workloads"]}

    with mlx_daemon.connect(name="calibrating") as router:
        # Asked for and not waited for: everything is timed after it was proved, which would take longer than it shows more.
        names = sorted(tolerances)
        waiting = threading.Thread(target=_calibrate, args=(router, names), daemon=True)
        waiting.start()
        wait_until(lambda: all(pairs()[name]["error"] is not None for name in names), 60.0)
    found = pairs()
    assert {name for name, pair in found.items() if pair["state"] == "unsupported"} == found.keys() - set(names)
    for name, tolerance in tolerances.items():
        assert found[name]["error"] <= tolerance, name
        assert found[name]["state"] != "quarantined", name


def _calibrate(router: Any, names: list[str]) -> None:
    with contextlib.suppress(RouterdError):  # the test closes the connection when it has seen enough
        router.call("calibrate", {"workloads": names})
