"""The table of models below ``workloads ml.model``."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from routerd.cli.models import declared_name, models_view

X = {"name": "x", "shape": ["batch", 8]}
SERVING = {
    "model": "credit", "version": 2, "state": "serving", "reason": "", "file": "m.safetensors", "inputs": [X],
    "outputs": [{"name": "y", "shape": ["batch"]}], "backends": {"cpu.numpy": "", "cpu.torch": "not yet proved"},
}  # fmt: skip
FAILED = {
    "model": "credit", "version": 3, "state": "failed", "reason": "it is a pickled checkpoint", "file": "m.pt",
    "backends": {"cpu.numpy": ""},
}  # fmt: skip
REFUSED = {"path": "Credit", "state": "refused", "reason": "lower case"}


def shown(workload: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    for part in models_view(workload):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_other_workloads_have_none() -> None:
    assert models_view({"name": "linalg.gemm"}) == []


def test_an_empty_directory_says_where_to_read_more() -> None:
    assert "docs/models.md" in shown({"models": []})


def test_each_model_has_its_state_signature_and_reason() -> None:
    serving, failed, refused = (
        line for line in shown({"models": [SERVING, FAILED, REFUSED]}).splitlines() if "redit" in line
    )
    for word in ("credit", "2", "serving", "m.safetensors", "x batch×8 → y batch", "cpu.numpy"):
        assert word in serving
    assert "cpu.torch" not in serving
    assert "it is a pickled checkpoint" in failed
    assert "cpu.numpy" not in failed
    assert "lower case" in refused


@pytest.mark.parametrize(
    ("workload", "params", "name"),
    [
        ("ml.model", {"model": "credit"}, "ml.model/credit"),
        ("ml.model", {"model": "credit", "version": 3}, "ml.model/credit@3"),
        ("ml.model", {"model": "demo"}, "ml.model"),
        ("ml.model", {}, "ml.model"),
        ("linalg.gemm", {"model": "credit"}, "linalg.gemm"),
    ],
)
def test_a_task_is_described_by_what_it_runs(workload: str, params: dict[str, Any], name: str) -> None:
    assert declared_name(workload, params) == name
