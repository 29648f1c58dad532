"""What the ``metal`` plugin announces, on which system, and with which options."""

from __future__ import annotations

import platform
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import routerd_metal
from routerd.backends import create_backend
from routerd.errors import Unavailable
from routerd.interfaces import BackendSpec
from routerd.settings import Settings

ROOT = Path(__file__).parents[3]


def announced(monkeypatch: pytest.MonkeyPatch, platform: str) -> dict[str, BackendSpec]:
    monkeypatch.setattr(routerd_metal.sys, "platform", platform)
    return {spec.name: spec for spec in routerd_metal.routerd_backends(Settings())}


def test_linux_has_mlx_on_the_processor_too(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = announced(monkeypatch, "linux")
    assert list(specs) == ["metal.mlx", "metal.torch", "cpu.mlx"]
    assert (specs["cpu.mlx"].device_kind, specs["cpu.mlx"].group) == ("cpu", "mlx")
    assert list(announced(monkeypatch, "darwin")) == ["metal.mlx", "metal.torch"]


def test_one_gpu_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = announced(monkeypatch, "darwin").values()
    assert {(spec.device_kind, spec.group, spec.precision) for spec in specs} == {("metal_gpu", "main", "float32")}


def test_where_there_can_be_no_gpu_no_worker_is_started_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routerd_metal.platform, "machine", lambda: "x86_64")
    linux = announced(monkeypatch, "linux")
    for name in ("metal.mlx", "metal.torch"):
        assert linux[name].absent == "no Metal device (linux/x86_64)"
    assert linux["cpu.mlx"].absent == ""
    monkeypatch.setattr(routerd_metal.platform, "machine", lambda: "arm64")
    assert {spec.absent for spec in announced(monkeypatch, "darwin").values()} == {""}


@pytest.mark.parametrize("given", ["true", "false"])
def test_flags_reach_the_gpu_backends(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for flag in ("METAL_GPU_SHADERS", "GPU_MESSAGEBUS", "UNIFIED_MEMORY_OPTIMIZATION"):
        monkeypatch.setenv(flag, given)
    specs, value = announced(monkeypatch, "darwin"), given == "true"
    shaders = {"metal_gpu_shaders": value, "gpu_messagebus": value}
    assert specs["metal.mlx"].options == {**shaders, "unified_memory": value}
    assert specs["metal.torch"].options == shaders


@pytest.mark.skipif(sys.platform == "darwin", reason="this machine may have an Apple GPU")
@pytest.mark.parametrize("name", ["metal.mlx", "metal.torch"])
def test_elsewhere_the_gpu_is_missed_before_a_framework_is_imported(name: str) -> None:
    """In a process of its own, because this one has imported everything."""
    program = f"""
import sys
from routerd.backends import create_backend
from routerd.errors import Unavailable
from routerd.settings import Settings
from routerd_metal import routerd_backends
(spec,) = [spec for spec in routerd_backends(Settings()) if spec.name == {name!r}]
try:
    create_backend(spec)
except Unavailable as reason:
    print(reason.message, sorted({{"mlx", "torch"}} & sys.modules.keys()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.strip() == f"no Metal device ({sys.platform}/{platform.machine()}) []", ran.stderr


def test_without_mlx_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    with pytest.raises(Unavailable, match=r"mlx is not installed; pip install 'routerd\[metal\]'"):
        create_backend(announced(monkeypatch, "linux")["cpu.mlx"])


def test_sensors_are_for_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routerd_metal.sys, "platform", "linux")
    assert list(routerd_metal.routerd_sensors(Settings())) == []
    monkeypatch.setattr(routerd_metal.sys, "platform", "darwin")
    (sensor,) = routerd_metal.routerd_sensors(Settings())
    assert sensor.name == "metal_gpu"


def test_the_distribution_ships_the_plugin_and_its_shaders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["routerd"]["metal"] == "routerd_metal"
    assert "plugins/routerd_metal" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
