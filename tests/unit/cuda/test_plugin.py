"""What the plugin announces, and that a daemon can ask it without loading a framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

from routerd.settings import Settings
from routerd_cuda import driver, routerd_backends, routerd_sensors


def test_both_backends_share_one_worker_on_the_card() -> None:
    plain, halved = routerd_backends(Settings())
    assert (plain.name, plain.precision) == ("cuda.torch", "float32")
    assert (halved.name, halved.precision) == ("cuda.torch_bf16", "bfloat16")
    assert {(spec.device_kind, spec.group) for spec in (plain, halved)} == {("cuda_gpu", "torch")}


def test_a_memory_limit_that_somebody_set_holds_for_the_card_too() -> None:
    assert [spec.options for spec in routerd_backends(Settings())] == [{"memory_bytes": 0}] * 2
    limited = routerd_backends(Settings(worker_memory_bytes="6GiB"))
    assert [spec.options for spec in limited] == [{"memory_bytes": 6 << 30}] * 2


def test_without_a_driver_the_announcement_says_so_and_no_worker_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "control_node", lambda: None)
    monkeypatch.setattr(driver, "driver_problem", lambda: "no NVIDIA driver (linux/x86_64)")
    assert [spec.absent for spec in routerd_backends(Settings())] == ["no NVIDIA driver (linux/x86_64)"] * 2


def test_where_there_may_be_a_card_the_worker_looks_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "control_node", lambda: "/dev/nvidiactl")
    monkeypatch.setattr(driver, "driver_problem", lambda: pytest.fail("the daemon must not load the driver's library"))
    assert [spec.absent for spec in routerd_backends(Settings())] == ["", ""]


def test_the_sensor_has_a_name() -> None:
    assert [sensor.name for sensor in routerd_sensors(Settings())] == ["cuda.nvml"]


def test_announcing_loads_no_framework() -> None:
    code = (
        "import sys; from routerd.settings import Settings; import routerd_cuda as plugin;"
        "plugin.routerd_backends(Settings()); plugin.routerd_sensors(Settings());"
        "print({'torch', 'numpy', 'array_api_compat'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
