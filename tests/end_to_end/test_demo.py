"""``make demo``: everything that it promises, on a directory of its own, and how it ends when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("bokeh_sampledata", reason="the demo reads its prices from bokeh-sampledata")

from engines.checks import CHECKS
from engines.checks.require import WrongResult
from engines.jobs import build_jobs
from engines.jobs.job import Job, Outcome
from engines.prices import read_stocks
from engines.private_daemon import DaemonTrouble, PrivateDaemon, alone_in
from routerd import connect
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.types import ArrayRef
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import bind
from tests.processes import DaemonProcess, hand_down, leave_out

ROOT = Path(__file__).parents[2]
ROWS = {
    "Risk": {
        "options.monte_carlo_european": 2,
        "options.monte_carlo_asian": 1,
        "risk.greeks_batch": 1,
        "risk.var_historical": 2,
        "risk.var_monte_carlo": 1,
        "risk.var_amplitude_estimation": 1,
    },
    "Portfolio": {"portfolio.markowitz": 1, "portfolio.qubo_cardinality": 1},
    "Factor": {"factor.risk_decompose": 1},
    "Analytics": {"analytics.performance": 1, "indicators.sma": 1, "indicators.rsi": 1, "indicators.atr": 1},
    "Strategy": {"strategy.backtest_sma_sweep": 1},
    "Features": {"features.rolling": 1},
    "VPIN": {"microstructure.vpin": 1},
    "MarketData": {"marketdata.ohlcv_bars": 1},
    "WebSocket": {"websocket.conflate_fanout": 1},
    "Toraniko": {"toraniko.factor_returns": 1},
    "ML": {"ml.mlp_inference": 1, "linalg.gemm": 2},
    "Collateral": {"collateral.margin_sba": 1},
    "Execution": {"execution.almgren_chriss": 1, "execution.pretrade": 1},
}
SPOILED = {
    "simulated_risk": "value_at_risk",
    "histogram_risk": "interval_low",
    "markowitz": "weights",
    "cardinality": "selection",
    "decomposition": "volatility",
    "factor_returns": "factor_returns",
    "atr": "atr",
    "sweep": "statistics",
    "features": "features",
    "vpin": "vpin",
    "bars": "bars",
    "fanout": "message_index",
    "margin": "margin",
    "schedules": "trades",
    "pretrade": "flags",
}
MEASURED = ("indicators.rsi", "risk.var_historical")  #: what the demo still has to prove and time
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


def computed(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a task as NumPy computes them in this process; those of shape ``()`` as plain numbers."""
    [workload] = (workload for workload in builtin_workloads() if workload.name == name)
    arrays = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
    params = {key: value for key, value in arguments.items() if key not in arrays}
    refs = {key: ArrayRef(shape=array.shape, dtype=str(array.dtype)) for key, array in arrays.items()}
    task = bind(workload, params, refs, need_content=False)
    outputs = execute_kernel(NumpyNamespace(), workload, task.params, arrays).outputs
    return {key: array if array.ndim else array.item() for key, array in outputs.items()}


def changed(output: Any) -> Any:
    """Slightly wrong: whole numbers by one, others by a fifth."""
    whole = isinstance(output, int) or getattr(output, "dtype", np.dtype(float)).kind in "iu"
    return (output ^ 1) if whole else output * 1.2


@pytest.fixture(scope="module", autouse=True)
def without_mlx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As after ``make demo``, which does not install MLX: to prove and time that, too, takes longer than it shows more."""
    directory = tmp_path_factory.mktemp("without")
    leave_out(directory, "mlx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(directory))
        yield


@pytest.fixture
def numpy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For demos and daemons whose end is all that matters."""
    directory = tmp_path / "without"
    directory.mkdir()
    leave_out(directory, "torch", "mlx")
    monkeypatch.setenv("PYTHONPATH", str(directory))


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return build_jobs(read_stocks())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, daemon: DaemonProcess) -> Path:
    """Where an earlier demo has proved and timed nearly everything."""
    directory = tmp_path_factory.mktemp("demo")
    hand_down(daemon, directory / "state", without=MEASURED)
    return directory


@pytest.fixture(scope="module")
def output(directory: Path) -> str:
    """What a whole run prints."""
    demo = start_demo(directory)
    printed, complaints = demo.communicate(timeout=110)
    assert demo.returncode == 0, complaints + printed
    assert complaints == ""
    return printed


def test_the_prices_are_all_there(output):
    assert "12,154 daily prices of AAPL, FB, GOOG, IBM, MSFT, 2000-03-01 to 2013-03-01" in output


def test_what_is_not_known_yet_is_proved_and_timed(output):
    """On NumPy at least."""
    measured = re.search(r"^(\d+) pairs of backend and workload proved and timed in ", output, re.MULTILINE)
    assert measured
    assert int(measured[1]) >= len(MEASURED)


@pytest.mark.parametrize("engine", ROWS)
def test_every_engine_has_rows_with_a_reason(output, engine):
    table = output[output.index("\nRisk\n") : output.index("\nmeasured: ")]
    section = re.split(r"^(?=\w+$)", table[table.index(f"\n{engine}\n") + 1 :], flags=re.MULTILINE)[1]
    rows = re.findall(
        rf"^([\w.]+) +\S.*?  +\w+ +[\w.]+ +{NUMBER} +{NUMBER} +[\d.]+× +[01]\.\d\d\n    .+\n    why: .+",
        section,
        re.MULTILINE,
    )
    assert set(rows) == set(ROWS[engine])
    assert all(rows.count(workload) >= least for workload, least in ROWS[engine].items())


def test_no_engine_of_the_catalogue_is_missing():
    assert set(ROWS) == {engine for workload in builtin_workloads() for engine in workload.engines}


def test_every_job_is_for_an_engine_that_uses_its_workload(jobs):
    catalogue = {workload.name: workload for workload in builtin_workloads()}
    assert [name for name, job in jobs.items() if job.engine not in catalogue[job.workload].engines] == []


@pytest.mark.parametrize("name", SPOILED)
def test_a_checked_result_is_reported(jobs, output, name):
    assert re.search(rf"^{jobs[name].workload}: \S", output, re.MULTILINE)


@pytest.mark.parametrize("name", SPOILED)
def test_a_wrong_result_is_noticed(jobs, name):
    """What NumPy computes passes the check; that with one output changed does not."""
    job, check = jobs[name], CHECKS[name]
    results = {about: computed(job.workload, arguments) for about, arguments in job.tasks.items()}
    assert check(Outcome(job, results))
    spoiled = {about: {**outputs, SPOILED[name]: changed(outputs[SPOILED[name]])} for about, outputs in results.items()}
    with pytest.raises(WrongResult):
        check(Outcome(job, spoiled))


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


@pytest.mark.usefixtures("numpy_alone")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_stops_its_daemon(tmp_path, number, code):
    demo = start_demo(tmp_path)
    wait_for_its_daemon(demo)
    assert processes_of(tmp_path)
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == code
    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("numpy_alone")
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


@pytest.mark.usefixtures("numpy_alone")
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
