"""Policies, traces and problems as people read them."""

from __future__ import annotations

from collections.abc import Callable

from routerd.policy import Policy, Problem, compile_policy, render_policy, render_problems, render_trace

Load = Callable[..., Policy]

POLICY = """
metadata: {name: desk}
constraints:
- {id: cap, when: {hardware.thermal: {in: [serious, critical]}}, deny: [metal_gpu]}
rules:
- {id: night, when: {time.local: {between: ["22:00", "06:00"]}, task.batch: {exists: false}}, objective: {energy: 1}}
- {id: risk, when: {workload.engine: Risk, task.work: {gte: 1e6}}, on_missing: match, prefer: [metal_gpu, cpu]}
- {id: power, when: {hardware.on_battery: false}, split: never}
"""


def test_a_trace_reads_as_lines(load: Load) -> None:
    policy = load(POLICY)
    facts = {"time.local": "12:00", "workload.engine": ("Risk", "ML"), "hardware.on_battery": False}
    assert render_trace(compile_policy(policy, self_uid=1).trace(facts)) == [
        f"policy desk ({policy.digest[:12]})",
        "✗ constraint cap (0.yaml:6): deny metal_gpu",
        "    ✗ hardware.thermal in [serious, critical] (missing)",
        "✗ rule night (0.yaml:8): objective energy 1",
        "    ✗ time.local between 22:00 and 06:00 (is 12:00)",
        "    ✓ task.batch is missing (missing)",
        "✓ rule risk (0.yaml:9): prefer metal_gpu, then cpu; objective latency 1",
        "    ✓ workload.engine is Risk (is Risk, ML)",
        "    ✓ task.work >= 1000000 (missing, on_missing: match)",
        "· rule power (0.yaml:10): objective latency 1; split never",
        "    ✓ hardware.on_battery is false (is false)",
        "· default default (built in): objective latency 1",
        "decided by risk (0.yaml:9)",
    ]


def test_a_policy_is_rendered_with_its_origins_and_loads_again(load: Load) -> None:
    policy = load(POLICY + "params: {p: '${GPU_DEBUG:bool=no}'}\n", "default: {prefer: [cpu]}\n")
    text = render_policy(policy)
    assert text.splitlines()[:8] == [
        f"# policy desk, digest {policy.digest}",
        "# file 0.yaml",
        "# file 1.yaml",
        "# flag GPU_DEBUG = not set",
        "# cap: 0.yaml:6",
        "# night: 0.yaml:8",
        "# risk: 0.yaml:9",
        "# power: 0.yaml:10",
    ]
    assert load(text, head=False).to_dict() == policy.to_dict()


def test_problems_read_like_those_of_a_compiler() -> None:
    problems = [Problem("a.yaml", 3, 7, "wrong")]
    assert render_problems(problems) == ["a.yaml:3:7: wrong"]
    assert render_problems(problems, "warning") == ["a.yaml:3:7: warning: wrong"]
