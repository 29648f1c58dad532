"""What macOS tells of its GPU. The samples are of the documented form; they were written, not recorded on a Mac."""

from __future__ import annotations

import plistlib
import sys
from typing import Any

import pytest

from routerd_metal import apple_gpu
from routerd_metal.apple_gpu import AppleGpu, Load

SYSCTL = """\
machdep.cpu.brand_string: Apple M4 Max
hw.memsize: 137438953472
iogpu.wired_limit_mb: 0
"""


def ioreg(**changes: Any) -> bytes:
    """The form of ``ioreg -r -d 1 -w 0 -c IOAccelerator -a`` on Apple silicon, cut to what is read and a little more."""
    statistics = {
        "Alloc system memory": 9_876_543_210,
        "In use system memory": 1_234_567_890,
        "In use system memory (driver)": 0,
        "Device Utilization %": 37,
        "Renderer Utilization %": 36,
        "Tiler Utilization %": 12,
        "recoveryCount": 0,
        **changes,
    }
    entry = {
        "IOClass": "AGXAcceleratorG16X",
        "IOObjectClass": "AGXAcceleratorG16X",
        "model": "Apple M4 Max",
        "gpu-core-count": 40,
        "PerformanceStatistics": {name: value for name, value in statistics.items() if value is not None},
    }
    return plistlib.dumps([{"IOClass": "IOAccelerator"}, entry])


def test_the_gpu_is_described() -> None:
    assert apple_gpu.describe_gpu(SYSCTL, ioreg(), "15.3.1") == AppleGpu("Apple M4 Max", 40, "15.3.1")


def test_what_is_not_told_is_not_guessed() -> None:
    silent = apple_gpu.describe_gpu("", b"", "")
    assert silent == AppleGpu("Apple GPU", 0, "")
    assert "gpu_cores" not in apple_gpu.detail(silent)
    assert apple_gpu.describe_gpu("", ioreg(), "14.0").chip == "Apple M4 Max"


def test_the_detail_of_a_device() -> None:
    detail = apple_gpu.detail(AppleGpu("Apple M4 Max", 40, "15.3.1"), mlx="0.32.4")
    assert detail == {"gpu_cores": 40, "macos": "15.3.1", "mlx": "0.32.4"}


def test_the_load_is_read() -> None:
    assert apple_gpu.parse_load(ioreg()) == Load(0.37, 1_234_567_890)
    assert apple_gpu.parse_load(ioreg(**{"Device Utilization %": 104})).utilisation == 1.0
    assert apple_gpu.parse_load(ioreg(**{"Device Utilization %": None, "In use system memory": None})) == Load(
        None, None
    )


@pytest.mark.parametrize("answer", [b"", b"no property list", plistlib.dumps([]), plistlib.dumps({"model": "x"})])
def test_another_answer_tells_nothing(answer: bytes) -> None:
    assert apple_gpu.parse_load(answer) == Load(None, None)


def test_the_administrator_may_limit_the_gpu() -> None:
    assert apple_gpu.wired_limit_bytes(SYSCTL) == 0
    assert apple_gpu.wired_limit_bytes(SYSCTL.replace("mb: 0", "mb: 98304")) == 96 * 2**30
    assert apple_gpu.wired_limit_bytes("") == 0


@pytest.mark.parametrize(("macos", "fast"), [("15.0", True), ("26.1", True), ("14.7.2", False), ("", False)])
def test_the_environment_of_a_worker(macos: str, fast: bool) -> None:
    environ: dict[str, str] = {}
    apple_gpu.prepare_environment(environ, macos)
    assert environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "0"
    assert (environ.get("MLX_METAL_FAST_SYNCH") == "1") is fast


def test_what_the_user_has_set_stays() -> None:
    environ = {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "MLX_METAL_FAST_SYNCH": "0"}
    apple_gpu.prepare_environment(environ, "15.0")
    assert environ == {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "MLX_METAL_FAST_SYNCH": "0"}


def test_commands_are_asked_and_a_missing_one_is_silent() -> None:
    assert apple_gpu.ask((sys.executable, "-c", "print('yes')")) == b"yes\n"
    assert apple_gpu.ask(("/no/such/command",)) == b""


def test_the_gpu_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(command: tuple[str, ...]) -> bytes:
        asked.append(command)
        return SYSCTL.encode() if "sysctl" in command[0] else ioreg()

    monkeypatch.setattr(apple_gpu, "ask", answer)
    apple_gpu.read_gpu.cache_clear()
    try:
        assert apple_gpu.read_gpu() == apple_gpu.read_gpu()
        assert apple_gpu.read_gpu().cores == 40
        assert asked == [apple_gpu.SYSCTL, apple_gpu.IOREG]
    finally:
        apple_gpu.read_gpu.cache_clear()
