"""A machine without an NVIDIA card: the backends say why in one line, and the daemon serves with what there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from routerd.cli import app
from routerd_cuda.driver import driver_problem
from tests.processes import DaemonProcess

REASON = driver_problem() or ""
BACKENDS = ("cuda.torch", "cuda.torch_bf16")

pytestmark = pytest.mark.skipif(not REASON, reason="an NVIDIA driver is here")


@pytest.fixture
def daemon_without_torch(private_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """Importing torch fails in it: whoever did before looking for a driver would give that as the reason."""
    process = private_daemon(plugins_deny="metal").start()
    process.wait_ready(*BACKENDS)
    return process


def test_the_reason_is_one_line_and_work_goes_on(
    daemon_without_torch: DaemonProcess, option: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["backends", "--socket", str(daemon_without_torch.socket)]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    for name in BACKENDS:
        assert rows[name][1] == "cuda_gpu"
        assert " ".join(rows[name]).endswith(f" unavailable 0/0 {REASON}")
    with daemon_without_torch.connect(table=False) as router:
        rejected = {one.backend: one.reason for one in router.decide("options.monte_carlo_european", **option).rejected}
        assert rejected.items() >= dict.fromkeys(BACKENDS, f"unavailable: {REASON}").items()
        assert router.run("options.monte_carlo_european", **option).ran_on.device_kind == "cpu"
