"""Every benchmark runs, and says what it measured against which target. How fast is none of a test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import leave_out

ROOT = Path(__file__).resolve().parents[3]
TARGETED = {
    "startup": {"ready (hello and ping), fresh state", "idle daemon, resident", "idle daemon, processor"},
    "decide": {
        "table: decider(work), the same work, p50",
        "table: decider(work), another work every time, p50",
        "table: decide, new question every time, p50",
        "socket: repeated question, client library, p50",
        "socket: new question every time, client library, p99",
        "socket: pipelined, bare frames",
    },
    "run_overhead": {"run, 4 MB in and out, p50"},
}


@pytest.mark.parametrize("name", sorted(TARGETED))
def test_a_quick_run_reports_every_figure(name: str, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    leave_out(tmp_path, "torch", "mlx")  # none of these is about a backend
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(written)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    content = json.loads(written.read_text())
    figures = {figure["name"]: figure for figure in content["figures"]}
    assert {figure for figure, row in figures.items() if row["verdict"]} >= TARGETED[name]
    assert all(row["value"] > 0 for row in figures.values() if row["unit"] != "% of a core")
    assert any(figure.startswith("floor") for figure in figures)
    assert content["machine"]["date"] and content["machine"]["processor"]
    assert all(figure in ran.stdout for figure in figures)
