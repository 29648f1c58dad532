"""Every workload is measured against somebody else's library, which gives the same answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.references import Case, all_cases
from routerd.workloads import builtin_workloads

ROOT = Path(__file__).resolve().parents[3]


def test_every_workload_has_a_case() -> None:
    cases = all_cases(quick=True)
    assert {case.workload for case in cases} == {workload.name for workload in builtin_workloads()}
    assert all(case.target is None or case.target > 0.0 for case in cases if isinstance(case, Case))


def test_a_quick_run_compares_and_reports_every_case(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.workloads", "--quick", "--json", str(written)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    content = json.loads(written.read_text())
    measured = [case for case in all_cases(quick=True) if isinstance(case, Case)]
    assert [figure["name"] for figure in content["figures"]] == [case.workload for case in measured]
    assert all(figure["value"] > 0.0 and "cpu.numpy" in figure["backends"] for figure in content["figures"])
    assert "say nothing about speed" in ran.stdout


def test_one_workload_can_be_named() -> None:
    command = [sys.executable, "-m", "benchmarks.workloads", "linalg.gemm", "--quick"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "linalg.gemm" in ran.stdout
    assert "ml.mlp_inference" not in ran.stdout
