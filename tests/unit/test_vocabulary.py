"""The names that a policy may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routerd.errors import InvalidPolicy
from routerd.interfaces import BackendSpec
from routerd.policy import load_policy
from routerd.vocabulary import vocabulary
from routerd.workloads import builtin_workloads

NUMPY = BackendSpec(name="cpu.numpy", device_kind="cpu", precision="float64", factory="x:Y")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    def load(target: str, *backends: BackendSpec) -> Any:
        path = tmp_path / "p.yaml"
        path.write_text(f"apiVersion: routerd/v1\nkind: Policy\nconstraints: [{{id: c, deny: [{target}]}}]\n")
        registry: Any = SimpleNamespace(workloads=builtin_workloads(), backends=backends)
        return load_policy([path], vocabulary(registry), {})

    return load


@pytest.mark.parametrize("target", ["in_process", "in_process.numpy", "cpu.numpy", "cpu", "metal_gpu"])
def test_plugins_and_the_clients_own_process_can_be_named(load: Callable[..., Any], target: str) -> None:
    assert load(target, NUMPY).constraints[0].deny == (target,)


@pytest.mark.parametrize(
    ("target", "hint"), [("in_process.nunpy", "in_process.numpy"), ("in_proces", "in_process"), ("cpu.torch", "")]
)
def test_other_names_are_refused(load: Callable[..., Any], target: str, hint: str) -> None:
    with pytest.raises(InvalidPolicy, match=f"unknown .*{hint}"):
        load(target, NUMPY)


def test_without_plugins_any_backend_can_be_named(load: Callable[..., Any]) -> None:
    assert load("cpu.torch").constraints[0].deny == ("cpu.torch",)


def test_workloads_families_and_engines_are_those_of_the_catalogue() -> None:
    registry: Any = SimpleNamespace(workloads=builtin_workloads(), backends=(NUMPY,))
    names = vocabulary(registry)
    assert "linalg.gemm" in names.workloads
    assert "linalg" in names.families
    assert "Risk" in names.engines
