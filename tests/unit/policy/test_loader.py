"""Finding, merging and resolving policy files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from routerd.errors import InvalidPolicy
from routerd.policy import Policy, Vocabulary, load_policy
from routerd.policy.model import Admission, Choice, Default, Exploration, Fallback, Record

Load = Callable[..., Policy]
HEAD = "apiVersion: routerd/v1\nkind: Policy\n"


def test_an_almost_empty_policy_has_sensible_defaults(load: Load) -> None:
    policy = load("rules:\nconstraints: ~\ndefault:\n")
    assert (policy.constraints, policy.rules, policy.params, policy.name) == ((), (), {}, "unnamed")
    assert policy.default == Default(Choice({"latency": 1.0}))
    assert policy.fallback == Fallback(("unavailable", "out_of_memory", "timeout", "crash"), 3)
    assert policy.admission == Admission(30.0, 256)
    assert policy.record == Record("all", ("client.command",))
    assert policy.exploration == Exploration(0.01)
    assert policy.warnings == ()


def test_sections_are_read(load: Load) -> None:
    policy = load(
        "metadata: {name: desk, owner: risk, description: ours}\n"
        "default: {prefer: [cpu.torch, cpu], unless_slower_than: 1.5, objective: {energy: 3, latency: 1}, split: never}\n"
        "fallback: {on: [crash], max_attempts: 2}\n"
        "admission: {max_queue_ms: 1.5s, max_in_flight_per_client: 7}\n"
        "record: {decisions: runs, redact: []}\n"
        "exploration: {budget: 5%}\n"
    )
    assert policy.name == "desk"
    assert policy.default.choice == Choice({"latency": 0.25, "energy": 0.75}, ("cpu.torch", "cpu"), 1.5, "never")
    assert policy.default.where == "0.yaml:4"
    assert policy.fallback == Fallback(("crash",), 2)
    assert policy.admission == Admission(1.5, 7)
    assert policy.record == Record("runs", ())
    assert policy.exploration == Exploration(0.05)


def test_clauses_add_up_and_later_files_override_the_rest(load: Load) -> None:
    policy = load(
        "metadata: {name: base}\n"
        "params: {low: 1, high: 2}\n"
        "constraints: [{id: c0, deny: [hybrid]}]\n"
        "rules: [{id: r0, when: {task.work: {between: [$low, $high]}}, split: auto}]\n"
        "default: {prefer: [cpu], split: auto}\n"
        "fallback: {on: [crash], max_attempts: 5}\n"
        "admission: {max_queue_ms: 50, max_in_flight_per_client: 9}\n"
        "record: {decisions: none, redact: [client.uid]}\n"
        "exploration: {budget: 2%}\n",
        "metadata: {name: desk}\n"
        "params: {high: 20}\n"
        "constraints: [{id: c1, deny: [cluster]}]\n"
        "rules: [{id: r1, when: {task.work: $high}, split: auto}]\n"
        "default: {objective: {energy: 1}}\n"
        "fallback: {max_attempts: 1}\n"
        "admission: {max_queue_ms: 70}\n"
        "record: {decisions: runs}\n",
    )
    assert policy.name == "base+desk"
    assert policy.files == ("0.yaml", "1.yaml")
    assert [constraint.id for constraint in policy.constraints] == ["c0", "c1"]
    assert [rule.id for rule in policy.rules] == ["r0", "r1"]
    assert policy.params == {"low": 1, "high": 20}
    assert policy.rules[0].when[0].operands == (1, 20)
    assert policy.default.choice == Choice({"energy": 1.0})
    assert policy.fallback == Fallback(("crash",), 1)
    assert policy.admission == Admission(0.07, 9)
    assert policy.record == Record("runs", ("client.uid",))
    assert policy.exploration == Exploration(0.02)


@pytest.mark.parametrize(
    ("written", "budget"), [("0", 0.0), ("0%", 0.0), ("0.01", 0.01), ("1%", 0.01), ("1.5 %", 0.015), ("$share", 0.2)]
)
def test_an_exploration_budget_is_a_share(load: Load, written: str, budget: float) -> None:
    policy = load(f"params: {{share: 20%}}\nexploration: {{budget: {written}}}\n")
    assert policy.exploration.budget == budget
    assert policy.to_dict()["exploration"] == {"budget": budget}


def test_the_last_exploration_budget_counts(load: Load) -> None:
    assert load("exploration: {budget: 1%}\n", "exploration: {budget: 0}\n").exploration == Exploration(0.0)


def test_a_parameter_of_an_earlier_file_may_come_from_a_later_one(load: Load) -> None:
    policy = load("rules: [{id: r, when: {task.work: $limit}, split: auto}]\n", "params: {limit: 3}\n")
    assert policy.rules[0].when[0].operands == (3,)


def test_an_id_may_not_come_back_in_another_file(load: Load) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        load("constraints: [{id: same, deny: [cpu]}]\n", "rules: [{id: same, split: auto}]\n")
    assert caught.value.message == "1.yaml:3:14: the id same is taken (first in 0.yaml, line 3)"


def test_a_directory_gives_its_yaml_files_by_name(
    write: Callable[..., list[Path]], vocabulary: Vocabulary, flags: Mapping[str, Any]
) -> None:
    write()
    directory = Path("policies")
    (directory / "tests").mkdir(parents=True)
    for name, rule in {"20-b": "b", "10-a": "a", "tests/no": "no", ".hidden": "no"}.items():
        (directory / f"{name}.yaml").write_text(f"{HEAD}rules: [{{id: {rule}, when: {{task.work: 1}}, split: auto}}]\n")
    (directory / "README.md").write_text("not a policy")
    last = Path("extra.yaml")
    last.write_text(f"{HEAD}rules: [{{id: z, when: {{task.work: 3}}, split: auto}}]\n")
    policy = load_policy([directory, last], vocabulary, flags)
    assert [rule.id for rule in policy.rules] == ["a", "b", "z"]
    assert policy.files == ("policies/10-a.yaml", "policies/20-b.yaml", "extra.yaml")


def test_nothing_to_load_is_an_error(
    write: Callable[..., list[Path]], vocabulary: Vocabulary, flags: Mapping[str, Any]
) -> None:
    write()
    Path("empty").mkdir()
    with pytest.raises(InvalidPolicy, match=r"empty:1:1: the directory holds no policy file"):
        load_policy([Path("empty")], vocabulary, flags)
    with pytest.raises(InvalidPolicy, match=r"no policy file is configured"):
        load_policy([], vocabulary, flags)
    with pytest.raises(InvalidPolicy, match=r"none\.yaml:1:1: no such file"):
        load_policy([Path("none.yaml")], vocabulary, flags)
    with pytest.raises(InvalidPolicy, match=r"cannot be read: embedded null byte"):
        load_policy([Path("null\0.yaml")], vocabulary, flags)
    with pytest.raises(InvalidPolicy, match=r"File name too long"):
        load_policy([Path("x" * 5000)], vocabulary, flags)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every directory")
def test_a_closed_directory_is_an_error(
    write: Callable[..., list[Path]], vocabulary: Vocabulary, flags: Mapping[str, Any]
) -> None:
    write()
    Path("closed").mkdir(mode=0)
    with pytest.raises(InvalidPolicy, match=r"closed:1:1: cannot be read: Permission denied"):
        load_policy([Path("closed")], vocabulary, flags)


# -- references -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "flags", "operand"),
    [
        ("${LARGE_DATA_THRESHOLD:int=5}", {"LARGE_DATA_THRESHOLD": None}, 5),
        ("${LARGE_DATA_THRESHOLD:int=5}", {"LARGE_DATA_THRESHOLD": 7}, 7),
        ("${LARGE_DATA_THRESHOLD:int=1e6}", {"LARGE_DATA_THRESHOLD": None}, 1_000_000),
        ("${LARGE_DATA_THRESHOLD:float=0.5}", {"LARGE_DATA_THRESHOLD": None}, 0.5),
        ("${LARGE_DATA_THRESHOLD:int}", {"LARGE_DATA_THRESHOLD": 7}, 7),
        ("${LARGE_DATA_THRESHOLD}", {"LARGE_DATA_THRESHOLD": 7}, 7),
        ("${LARGE_DATA_THRESHOLD=3}", {"LARGE_DATA_THRESHOLD": None}, 3),
        ("${LARGE_DATA_THRESHOLD}000", {"LARGE_DATA_THRESHOLD": 7}, 7000),
    ],
)
def test_flags_inside_values(load: Load, written: str, flags: dict[str, Any], operand: float) -> None:
    policy = load(f'rules: [{{id: r, when: {{task.work: "{written}"}}, split: auto}}]\n', **flags)
    assert policy.rules[0].when[0].operands == (operand,)
    assert policy.flags == flags


def test_flags_of_other_types(load: Load) -> None:
    policy = load(
        "params:\n  on: ${GPU_ACCELERATION:bool=false}\n  level: ${METAL_GPU_PRIORITY:str=LOW}\n  unset: ${GPU_DEBUG:bool=yes}\n"
        "rules:\n- id: r\n  split: auto\n  when: {hardware.on_battery: $on, client.name: $level, flags.GPU_DEBUG: $unset}\n"
    )
    assert policy.params == {"on": True, "level": "MEDIUM", "unset": True}
    assert [condition.operands for condition in policy.rules[0].when] == [(True,), ("MEDIUM",), (True,)]
    assert policy.flags == {"GPU_ACCELERATION": True, "GPU_DEBUG": None, "METAL_GPU_PRIORITY": "MEDIUM"}


def test_parameters_stand_for_values_lists_and_parts_of_text(load: Load) -> None:
    policy = load(
        "params: {size: 2GiB, order: [metal_gpu, cpu], who: batch, states: [serious, critical], bounds: [1, 2]}\n"
        "rules:\n"
        "- id: r\n"
        "  when:\n"
        "    task.bytes: {gte: $size}\n"
        '    client.name: "$who-*"\n'
        "    hardware.thermal: {in: $states}\n"
        "    task.work: {between: $bounds}\n"
        "  prefer: $order\n"
    )
    assert [condition.operands for condition in policy.rules[0].when] == [
        (2 * 1024**3,),
        ("batch-*",),
        ("serious", "critical"),
        (1, 2),
    ]
    assert policy.rules[0].choice.prefer == ("metal_gpu", "cpu")
    assert policy.params["order"] == ("metal_gpu", "cpu")


def test_a_doubled_dollar_is_a_dollar_wherever_it_stands(load: Load) -> None:
    policy = load(
        "params: {one: 'a$$b', many: ['c$$d']}\n"
        "rules:\n- id: r\n  split: auto\n  when: {client.name: {in: [$one, 'e$$f']}}\n"
        "- id: s\n  split: auto\n  when: {client.name: {in: $many}}\n"
    )
    assert policy.params == {"one": "a$b", "many": ("c$d",)}
    assert [rule.when[0].operands for rule in policy.rules] == [("a$b", "e$f"), ("c$d",)]


# -- meaning and digest -----------------------------------------------------------------------------------------------

FULL = (
    "metadata: {name: full}\n"
    "params: {many: [1, 2.5, 'x$$y', true]}\n"
    "constraints:\n- {id: c, when: {client.uid: {not_in: [self, 7]}, time.weekday: {between: [fri, mon]}}, allow: [cpu], deny: [hybrid]}\n"
    "rules:\n"
    "- id: r\n  on_missing: match\n  prefer: [cpu]\n  unless_slower_than: 1.1\n  split: auto\n"
    "  when: {task.work: {gte: 1_000, lt: 2e9}, client.name: 'a$$*', task.batch: {exists: false}, task.deadline_ms: 1.5us,\n"
    "    hardware.cpu.utilisation: {gt: 33%}, time.local: {between: [6:30, 24:00]}, hardware.on_battery: yes, flags.GPU_DEBUG: on}\n"
    "default: {objective: {latency: 1, throughput: 1, energy: 1}}\n"
    "admission: {max_queue_ms: 0.3}\n"
)


def test_the_effective_policy_loads_to_itself(load: Load) -> None:
    first = load(FULL)
    second = load(yaml.safe_dump(first.to_dict()), head=False)
    assert second.to_dict() == first.to_dict()
    assert second.digest == first.digest
    assert load(yaml.safe_dump(second.to_dict()), head=False).digest == first.digest


def test_the_digest_ignores_comments_layout_and_file_boundaries(load: Load) -> None:
    one = load("params: {p: 1000000}\nrules: [{id: r, when: {task.work: {gte: $p}}, split: auto}]\n")
    other = load(
        "# a comment\nparams:\n  p: 1e6  # the same number\n",
        "\n\nrules:\n  # another\n  - split: auto\n    id: r\n    when:\n      task.work: {gte: 1_000_000}\n",
    )
    assert other.rules[0].place.line != one.rules[0].place.line
    assert other.digest == one.digest
    assert len(one.digest) == 64 and int(one.digest, 16) > 0


BASE = 'params: {p: "${LARGE_DATA_THRESHOLD:int=5}"}\nrules: [{id: r, when: {task.work: $p}, split: auto}]\n'


def test_the_digest_follows_the_flags_that_are_used(load: Load) -> None:
    digest = load(BASE, LARGE_DATA_THRESHOLD=7).digest
    assert load(BASE, LARGE_DATA_THRESHOLD=8).digest != digest
    assert load(BASE, PARALLEL_THRESHOLD=8, LARGE_DATA_THRESHOLD=7).digest == digest
    conditional = "rules: [{id: r, when: {flags.GPU_DEBUG: true}, split: auto}]\n"
    assert load(conditional, GPU_DEBUG=True).digest != load(conditional, GPU_DEBUG=False).digest


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("$p", "7"),
        BASE.replace("id: r", "id: s"),
        BASE.replace("auto", "never"),
        BASE + "default: {objective: {energy: 1}}\n",
        BASE + "fallback: {max_attempts: 2}\n",
        BASE + "admission: {max_queue_ms: 1}\n",
        BASE + "record: {decisions: none}\n",
        BASE + "exploration: {budget: 0}\n",
        BASE + "constraints: [{id: c, deny: [cpu]}]\n",
        BASE.replace("split", "on_missing: match, split"),
    ],
)
def test_the_digest_follows_every_section(load: Load, changed: str) -> None:
    if changed == BASE.replace("$p", "7"):  # the same meaning, written without the parameter's name
        assert load(changed, LARGE_DATA_THRESHOLD=7).rules == load(BASE, LARGE_DATA_THRESHOLD=7).rules
    else:
        assert load(changed).digest != load(BASE).digest
