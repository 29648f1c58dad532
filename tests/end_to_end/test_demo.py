"""``make demo``: everything that it promises, on a directory of its own, and how it ends when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("bokeh_sampledata", reason="the demo reads its prices from bokeh-sampledata")

from engines.private_daemon import DaemonTrouble, PrivateDaemon, alone_in
from routerd import connect

ROOT = Path(__file__).parents[2]
WORKLOADS = {
    "options.monte_carlo_european": 2,
    "risk.var_historical": 2,
    "analytics.performance": 1,
    "indicators.sma": 1,
    "indicators.ema": 1,
    "indicators.rsi": 1,
    "risk.greeks_batch": 1,
    "ml.mlp_inference": 1,
    "linalg.gemm": 2,
}
NUMBER = r"[\d.]+ (?:µs|ms|s)"


def start_demo(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "engines.demo", "--directory", str(directory), "--repeats", "1"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def wait_for_its_daemon(demo: subprocess.Popen[str]) -> None:
    """Read until the demo names its daemon; fail if it ends before."""
    assert demo.stdout is not None
    while not demo.stdout.readline().startswith("routerd "):
        assert demo.poll() is None, "the demo ended before it had a daemon"


def processes_of(directory: Path) -> list[int]:
    """Daemons and workers whose state is in ``directory``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ROUTERD_STATE_DIR") == str(directory / "state"):
                found.append(process.pid)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(directory: Path) -> str:
    """What a whole run prints. The tests after it find its state, so they need not calibrate again."""
    demo = start_demo(directory)
    printed, complaints = demo.communicate(timeout=110)
    assert demo.returncode == 0, complaints + printed
    assert complaints == ""
    return printed


def test_the_prices_are_all_there(output):
    assert "12,154 daily prices of AAPL, FB, GOOG, IBM, MSFT, 2000-03-01 to 2013-03-01" in output


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_job_has_a_row_with_a_reason(output, workload):
    rows = re.findall(
        rf"^{re.escape(workload)} +\S.*?  +\w+ +[\w.]+ +{NUMBER} +{NUMBER} +[\d.]+× +[01]\.\d\d\n    .+\n    why: .+",
        output,
        re.MULTILINE,
    )
    assert len(rows) >= WORKLOADS[workload]


def test_the_results_are_those_of_the_data(output):
    """Figures that do not depend on the machine, from an independent calculation with pandas."""
    pandas = pytest.importorskip("pandas")
    from bokeh_sampledata import stocks

    adjusted = pandas.DataFrame(
        {
            name: pandas.Series(getattr(stocks, name)["adj_close"], getattr(stocks, name)["date"])
            for name in ("AAPL", "GOOG", "IBM", "MSFT")
        }
    ).dropna()
    losses = -1e6 * adjusted.pct_change().dropna().mean(axis=1)
    value_at_risk = losses.quantile(0.99, interpolation="higher")
    assert re.search(
        rf"^4 stocks, {len(losses):,} days since 2004-08-19 +1 day +{value_at_risk:,.0f} ", output, re.MULTILINE
    )


def test_the_policy_change_moves_the_task_and_is_taken_back(output):
    before = re.search(r"^before +linalg.gemm goes to (\S+) ", output, re.MULTILINE)
    after = re.search(r"^after +linalg.gemm goes to (\S+) ", output, re.MULTILINE)
    assert before and after
    assert before[1] != after[1]
    assert f"{before[1]} rejected: denied by constraint bar-{before[1]}" in output
    applied = re.search(r"^apply +generation (\d+), digest (\w+) → (\w+)$", output, re.MULTILINE)
    restored = re.search(r"^restore +generation (\d+), digest (\w+) → (\w+)$", output, re.MULTILINE)
    assert applied and restored
    assert applied[2] != applied[3]
    assert restored.groups() == (str(int(applied[1]) + 1), applied[3], applied[2])


def test_a_pipe_gets_plain_text(output):
    assert "\x1b" not in output
    assert "…" not in output


def test_nothing_is_left(output, directory):
    assert "exit code 0" in output
    assert processes_of(directory) == []
    assert not (directory / "socket" / "routerd.sock").exists()
    assert [path.name for path in (directory / "policies").iterdir()] == ["default.yaml"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_stops_its_daemon(tmp_path, number, code):
    demo = start_demo(tmp_path)
    wait_for_its_daemon(demo)
    assert processes_of(tmp_path)
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == code
    assert processes_of(tmp_path) == []


def test_the_daemon_of_a_killed_demo_is_replaced(tmp_path):
    demo = start_demo(tmp_path)
    wait_for_its_daemon(demo)
    demo.kill()
    demo.communicate(timeout=60)
    left = set(processes_of(tmp_path))
    assert left
    fresh = PrivateDaemon(tmp_path)
    with fresh.running(), connect(fresh.socket) as router:
        assert router.call("ping") == {"pong": True}
        assert not left & set(processes_of(tmp_path))
    assert processes_of(tmp_path) == []


def test_a_long_directory_gets_a_short_socket(tmp_path):
    daemon = PrivateDaemon(tmp_path / ("long" * 25))
    assert len(os.fsencode(daemon.socket)) <= 103
    with daemon.running(), connect(daemon.socket) as router:
        assert router.call("ping") == {"pong": True}
    assert not daemon.socket.parent.exists()


def test_two_demos_do_not_share_a_directory(tmp_path):
    with alone_in(tmp_path):
        demo = start_demo(tmp_path)
        _printed, complaints = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "another demo runs in" in complaints


def test_a_daemon_that_cannot_start_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("GPU_ACCELERATION", "perhaps")
    with pytest.raises(DaemonTrouble, match="GPU_ACCELERATION"), PrivateDaemon(tmp_path).running():
        pass
