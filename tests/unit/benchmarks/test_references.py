"""Every workload is measured against somebody else's library, which gives the same answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.references import Case, Missing, all_cases
from routerd.workloads import builtin_workloads


@pytest.fixture(scope="module")
def cases() -> list[Case | Missing]:
    """Of every library: importing them takes longer than all that is done with them here."""
    return all_cases(quick=True)


@pytest.fixture
def run(
    cases: list[Case | Missing], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``run(*arguments)``: the benchmark in this process, in a quick run; what it prints."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(workloads, "all_cases", lambda quick: cases if quick else pytest.fail("this takes minutes"))
        monkeypatch.setattr(sys, "argv", ["benchmarks.workloads", *arguments, "--quick"])
        workloads.main()
        return capsys.readouterr().out

    return run


def test_every_workload_has_a_case(cases: list[Case | Missing]) -> None:
    assert {case.workload for case in cases} == {workload.name for workload in builtin_workloads()}
    assert all(case.target is None or case.target > 0.0 for case in cases if isinstance(case, Case))


def test_a_quick_run_compares_and_reports_every_case(
    run: Callable[..., str], cases: list[Case | Missing], tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"
    told = run("--json", str(written))
    content = json.loads(written.read_text())
    measured = [case for case in cases if isinstance(case, Case)]
    assert [figure["name"] for figure in content["figures"]] == [case.workload for case in measured]
    assert all(figure["value"] > 0.0 and "cpu.numpy" in figure["backends"] for figure in content["figures"])
    assert "say nothing about speed" in told


def test_one_workload_can_be_named(run: Callable[..., str]) -> None:
    told = run("linalg.gemm")
    assert "linalg.gemm" in told
    assert "ml.mlp_inference" not in told
