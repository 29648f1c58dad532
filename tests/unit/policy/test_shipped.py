"""The policy that ships with routerd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from routerd.flags import load_flags
from routerd.interfaces import DEVICE_KINDS
from routerd.policy import CompiledPolicy, Policy, Vocabulary, compile_policy, load_policy
from routerd.types import Scalar
from routerd.workloads import builtin_workloads

ROOT = Path(__file__).resolve().parents[3]
SELF = 501


@pytest.fixture(scope="module")
def policy(vocabulary: Vocabulary, flags: dict[str, Scalar | None]) -> Policy:
    return load_policy([ROOT / "policies"], vocabulary, flags)


@pytest.fixture(scope="module")
def compiled(policy: Policy) -> CompiledPolicy:
    return compile_policy(policy, self_uid=SELF)


def test_it_has_no_warnings(policy: Policy) -> None:
    assert policy.warnings == ()
    assert policy.name == "default"


def test_it_loads_on_a_machine_that_sets_no_flag(vocabulary: Vocabulary, flags: dict[str, Scalar | None]) -> None:
    assert load_policy([ROOT / "policies"], vocabulary, dict.fromkeys(flags)).params == {"gpu_min_work": 1_000_000}


def test_it_fits_the_real_flags_and_catalogue() -> None:
    workloads = {workload.name: workload for workload in builtin_workloads()}
    vocabulary = Vocabulary(
        workloads=frozenset(workloads),
        families=frozenset(workload.family for workload in workloads.values()),
        engines=frozenset(engine for workload in workloads.values() for engine in workload.engines),
        backends=frozenset(),
        device_kinds=frozenset(DEVICE_KINDS),
    )
    assert load_policy([ROOT / "policies"], vocabulary, load_flags({}).as_mapping()).warnings == ()


def test_the_threshold_of_large_data_is_the_flag(vocabulary: Vocabulary, flags: dict[str, Scalar | None]) -> None:
    changed = load_policy([ROOT / "policies"], vocabulary, {**flags, "LARGE_DATA_THRESHOLD": 5000})
    compiled = compile_policy(changed, self_uid=SELF)
    assert compiled.verdict({"task.work": 5000}).rule.startswith("large-data ")
    assert compiled.verdict({"task.work": 4999}).rule.startswith("default ")


def test_measurement_decides_unless_something_speaks_against_it(compiled: CompiledPolicy) -> None:
    verdict = compiled.verdict({"workload.name": "linalg.gemm", "task.work": 10.0, "client.uid": SELF})
    assert (verdict.prefer, verdict.split, dict(verdict.objective), verdict.limits) == ((), None, {"latency": 1.0}, ())


def test_preferences_are_bounded_by_measurement(policy: Policy) -> None:
    for choice in [rule.choice for rule in policy.rules] + [policy.default.choice]:
        assert not choice.prefer or choice.unless_slower_than is not None


def test_strangers_stay_on_the_cpu(compiled: CompiledPolicy) -> None:
    stranger = compiled.verdict({"client.uid": 7})
    assert stranger.objection("metal.mlx", "metal_gpu") is not None
    assert stranger.objection("cpu.numpy", "cpu") is None
    assert stranger.objection("in_process.numpy", "in_process") is None
    for uid in (SELF, 0):
        assert compiled.verdict({"client.uid": uid}).objection("metal.mlx", "metal_gpu") is None


@pytest.mark.parametrize("kind", ["metal_gpu", "neural_engine"])
def test_a_hot_machine_rests_its_accelerators(compiled: CompiledPolicy, kind: str) -> None:
    for state, rests in (("nominal", False), ("fair", False), ("serious", True), ("critical", True)):
        verdict = compiled.verdict({"hardware.thermal": state, "client.uid": SELF})
        assert (verdict.objection("x.y", kind) is not None) is rests


def test_batch_clients_save_energy_at_night(compiled: CompiledPolicy) -> None:
    facts: dict[str, Scalar] = {"client.name": "batch-7", "task.work": 1e9}
    assert compiled.verdict({**facts, "time.local": "23:30"}).objective["energy"] > 0.5
    assert compiled.verdict({**facts, "time.local": "12:00"}).rule.startswith("large-data ")


def test_every_rule_can_win(compiled: CompiledPolicy, policy: Policy) -> None:
    situations: list[dict[str, Scalar]] = [
        {"workload.name": "ml.mlp_inference", "task.batch": 64},
        {"client.name": "batch-1", "time.local": "01:00"},
        {"task.work": 1e7},
    ]
    assert [compiled.verdict(facts).rule.split()[0] for facts in situations] == [rule.id for rule in policy.rules]


def test_yamllint_finds_nothing() -> None:
    yamllint = shutil.which("yamllint", path=str(Path(sys.executable).parent)) or shutil.which("yamllint")
    if yamllint is None:
        pytest.skip("yamllint is not installed")
    done = subprocess.run([yamllint, "--strict", "policies"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
