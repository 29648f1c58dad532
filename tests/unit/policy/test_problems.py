"""Every kind of mistake in a policy, with the exact place where it is reported.

In each text ``«`` stands right before the place that the problem must name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from routerd.errors import InvalidPolicy
from routerd.policy import Policy, Vocabulary, load_policy

RULE = "rules:\n- id: r\n  prefer: [cpu]\n"


def when(text: str) -> str:
    return f"{RULE}  when: {{{text}}}\n"


CASES: dict[str, tuple[str, str]] = {
    # keys and sections
    "unknown section": ("«rule: []\n", "a policy has no key rule (did you mean rules?)"),
    "nothing alike": ("«zzz: []\n", "a policy has no key zzz; it has apiVersion, kind, metadata, params, constraints, rules, default, fallback, admission, record, exploration"),
    "unknown rule key": ("rules:\n- id: r\n  «prefr: [cpu]\n  objective: {latency: 1}\n", "a rule has no key prefr (did you mean prefer?)"),
    "unknown constraint key": ("constraints:\n- id: c\n  deny: [cpu]\n  «alow: [cpu]\n", "a constraint has no key alow (did you mean allow?)"),
    "unknown metadata key": ("metadata: {«nam: x}\n", "metadata has no key nam (did you mean name?)"),
    "unknown default key": ("default: {objective: {latency: 1}, «splt: auto}\n", "default has no key splt (did you mean split?)"),
    "unknown fallback key": ("fallback: {«max_attempt: 3}\n", "fallback has no key max_attempt (did you mean max_attempts?)"),
    "unknown admission key": ("admission: {«max_queue: 3}\n", "admission has no key max_queue (did you mean max_queue_ms?)"),
    "unknown record key": ("record: {«redacted: []}\n", "record has no key redacted (did you mean redact?)"),
    "unknown exploration key": ("exploration: {«buget: 1%}\n", "exploration has no key buget (did you mean budget?)"),
    "rules not a list": ("rules: «{id: r}\n", "rules must be a list, not a mapping"),
    "rule not a mapping": ("rules: [«r]\n", "each of rules must be a mapping, not the value 'r'"),
    "params not a mapping": ("params: «[a]\n", "params must be a mapping, not a list"),
    "default not a mapping": ("default: «latency\n", "default must be a mapping, not the value 'latency'"),
    "metadata value a list": ("metadata: {name: «[a]}\n", "metadata.name must be a single value, not a list"),
    # ids
    "no id": ("rules:\n- «prefer: [cpu]\n", "a rule needs an id; decisions and traces quote it"),
    "empty id": ("rules:\n- id:«\n  prefer: [cpu]\n", "the id of a rule has no value"),
    "bad id": ("rules:\n- id: «two words\n  prefer: [cpu]\n", "'two words' cannot be an id; use up to 64 letters, digits, '.', '_' and '-'"),
    "reserved id": ("rules:\n- id: «default\n  prefer: [cpu]\n", "the id default is reserved"),
    "id twice": ("constraints:\n- id: r\n  deny: [cpu]\nrules:\n- id: «r\n  prefer: [cpu]\n", "the id r is taken (first in 0.yaml, line 4)"),
    # devices and backends
    "unknown device": ("rules:\n- id: r\n  prefer: [«metal_gup, cpu]\n", "unknown device metal_gup (did you mean metal_gpu?)"),
    "unknown backend": ("rules:\n- id: r\n  prefer: [cpu, «cpu.numpi]\n", "unknown backend cpu.numpi (did you mean cpu.numpy?)"),
    "device twice": ("rules:\n- id: r\n  prefer: [cpu, «cpu]\n", "prefer names cpu twice"),
    "no devices": ("constraints:\n- id: c\n  deny: «[]\n", "deny is an empty list; name device kinds or backends, or leave deny out"),
    "prefer one name": ("rules:\n- id: r\n  prefer: «cpu\n", "prefer must be a list, not the value 'cpu'"),
    "prefer nested": ("rules:\n- id: r\n  prefer: [«[cpu]]\n", "each of prefer must be a single value, not a list"),
    "allowed and denied": ("constraints:\n- id: c\n  allow: [cpu]\n  «deny: [cpu]\n", "cpu is both allowed and denied"),
    "idle constraint": ("constraints:\n- «id: c\n", "a constraint needs allow or deny"),
    "idle rule": ("rules:\n- «id: r\n", "a rule needs prefer, objective or split"),
    # choices
    "bound too small": ("rules:\n- id: r\n  prefer: [cpu]\n  unless_slower_than: «0.5\n", "unless_slower_than must be between 1 and 1e+06, not 0.5"),
    "bound no number": ("rules:\n- id: r\n  prefer: [cpu]\n  unless_slower_than: «twice\n", "unless_slower_than: 'twice' is not a number"),
    "bound alone": ("rules:\n- id: r\n  split: auto\n  «unless_slower_than: 2\n", "unless_slower_than bounds a preference; add prefer or leave it out"),
    "unknown objective": ("default: {objective: {«latancy: 1, energy: 1}}\n", "objective has no key latancy (did you mean latency?)"),
    "negative weight": ("default: {objective: {latency: «-1, energy: 1}}\n", "objective.latency must be between 0 and 1e+06, not -1"),
    "no weight": ("default: {objective: «{latency: 0}}\n", "objective needs a weight above 0 for one of latency, throughput, energy"),
    "objective a word": ("default: {objective: «latency}\n", "objective must be a mapping, not the value 'latency'"),
    "unknown split": ("rules:\n- id: r\n  split: «automatic\n", "split must be one of auto, never, not automatic (did you mean auto?)"),
    "unknown on_missing": ("rules:\n- id: r\n  split: auto\n  on_missing: «matches\n", "on_missing must be one of skip, match, not matches (did you mean match?)"),
    # the other sections
    "unknown cause": ("fallback: {on: [timeout, «out_of_memry]}\n", "each of fallback.on must be one of unavailable, out_of_memory, timeout, crash, not out_of_memry (did you mean out_of_memory?)"),
    "cause twice": ("fallback: {on: «[crash, crash]}\n", "fallback.on names something twice"),
    "half an attempt": ("fallback: {max_attempts: «1.5}\n", "fallback.max_attempts must be a whole number, not 1.5"),
    "no attempts": ("fallback: {max_attempts: «0}\n", "fallback.max_attempts must be between 1 and 64, not 0"),
    "attempts empty": ("fallback:\n  max_attempts:« \n", "fallback.max_attempts has no value"),
    "bad queue unit": ("admission: {max_queue_ms: «2GiB}\n", "max_queue_ms: unknown unit GiB in '2GiB'; use one of ns, us, µs, ms, s, min, h"),
    "unknown recording": ("record: {decisions: «everything}\n", "record.decisions must be one of all, runs, none, not everything"),
    "unknown redaction": ("record: {redact: [«client.comand]}\n", "each of record.redact must be one of client.command, client.name, client.uid, client.gid, client.pid, task.params, not client.comand (did you mean client.command?)"),
    "too much exploration": ("exploration: {budget: «30%}\n", "exploration.budget must be between 0 and 0.2, not 30%"),
    "negative exploration": ("exploration: {budget: «-0.01}\n", "exploration.budget must be between 0 and 0.2, not -0.01"),
    "exploration in seconds": ("exploration: {budget: «1s}\n", "exploration.budget: unknown unit s in '1s'; use one of %"),
    "exploration a number": ("exploration: «1%\n", "exploration must be a mapping, not the value '1%'"),
    # facts and operators
    "power in bytes": (when("hardware.cpu.watts: {gt: «1GB}"), "hardware.cpu.watts: unknown unit GB in '1GB'; use one of mW, W, kW"),
    "unknown fact": (when("«task.wrok: 1"), "unknown fact task.wrok (did you mean task.work?)"),
    "unknown hardware fact": (when("«hardware.cpu.free_byte: 1"), "unknown fact hardware.cpu.free_byte (did you mean hardware.cpu.free_bytes?)"),
    "the placeholder itself": (when("«hardware.<device>.available: true"), "unknown device <device>"),
    "unknown device in fact": (when("«hardware.metal_gup.available: true"), "unknown device metal_gup (did you mean metal_gpu?)"),
    "unknown flag fact": (when("«flags.GPU_ACCELERATIN: true"), "unknown flag GPU_ACCELERATIN (did you mean GPU_ACCELERATION?)"),
    "unknown operator": (when("task.work: {«gteq: 1}"), "unknown operator gteq (did you mean gte?)"),
    "operator of numbers": (when("client.name: {«gt: x}"), "client.name is a name and cannot be tested with gt; use one of in, not_in, exists"),
    "no operator": (when("client.name: «{}"), "client.name has no operator; use one of in, not_in, exists"),
    "a bare list": (when("client.name: «[a, b]"), "client.name cannot be compared with a list; write {in: […]}"),
    "no value": (when("client.name: «~"), "client.name has no value"),
    "when empty": (f"{RULE}  when:« \n", "when has no conditions; leave it out to match always"),
    "when a list": (f"{RULE}  when: «[a]\n", "when must be a mapping, not a list"),
    "in without list": (when("client.name: {in: «a}"), "in must be a list, not the value 'a'"),
    "in nothing": (when("client.name: {in: «[]}"), "in is an empty list"),
    "one bound": (when("task.work: {between: «[1]}"), "between takes two bounds, [low, high], not 1"),
    "bounds swapped": (when("task.work: {between: «[2, 1]}"), "task.work: the lower bound 2 is above the upper bound 1; swap them"),
    "no time": (when('time.local: {between: «["08:00", "8:00"]}'), "time.local: from 08:00 until 08:00 is no time at all; leave it out for the whole day"),
    "exists what": (when("client.name: {exists: «maybe}"), "exists: 'maybe' is neither true nor false"),
    # values
    "not a number": (when("task.work: {gte: «big}"), "task.work: 'big' is not a number"),
    "unit of nothing": (when("task.work: «2GiB"), "task.work: unknown unit GiB in '2GiB'; the value has no unit"),
    "wrong unit": (when("task.bytes: {gte: «2GIB}"), "task.bytes: unknown unit GIB in '2GIB'; use one of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, kB (did you mean GiB?)"),
    "too large": (when("task.work: «1e999"), "task.work: '1e999' is too large"),
    "not a truth": (when("hardware.on_battery: «maybe"), "hardware.on_battery: 'maybe' is neither true nor false"),
    "not a time": (when('time.local: {between: [«"25:00", "06:00"]}'), "time.local: '25:00' is not a time of day; write \"HH:MM\""),
    "not a day": (when("time.weekday: «mno"), "time.weekday: 'mno' is not a day of the week; use mon, tue, wed, thu, fri, sat, sun (did you mean mon?)"),
    "not a state": (when("hardware.thermal: «hot"), "hardware.thermal: 'hot' is none of nominal, fair, serious, critical"),
    "not a user": (when("client.uid: «rot"), "client.uid: 'rot' is not a user id; use a number, self or root (did you mean root?)"),
    "unknown workload": (when("workload.name: «linalg.gem"), "unknown workload linalg.gem (did you mean linalg.gemm?)"),
    "unknown family": (when("workload.family: {in: [ml, «risks]}"), "unknown family risks (did you mean risk?)"),
    "unknown engine": (when("workload.engine: «Risks"), "unknown engine Risks (did you mean Risk?)"),
    "text for unset flag": (when("flags.PARALLEL_THRESHOLD: {gt: «many}"), "flags.PARALLEL_THRESHOLD: gt compares with a number"),
    "texts around unset flag": (when("flags.PARALLEL_THRESHOLD: {between: «[a, b]}"), "flags.PARALLEL_THRESHOLD: both bounds of between must be numbers"),
    # references
    "unknown parameter": ("params: {gpu_min_work: 1}\n" + when("task.work: «$gpu_min_wrok"), "unknown parameter $gpu_min_wrok (did you mean gpu_min_work?)"),
    "unknown flag": ('params: {p: «"${LARGE_DATA_THRESOLD:int=1}"}\n', "unknown flag LARGE_DATA_THRESOLD (did you mean LARGE_DATA_THRESHOLD?)"),
    "parameter in braces": ("params: {p: 1}\n" + when('task.work: «"${p}"'), "unknown flag p; a parameter is written $p"),
    "unknown type": ('params: {p: «"${LARGE_DATA_THRESHOLD:itn=1}"}\n', "unknown type 'itn' for flag LARGE_DATA_THRESHOLD; use int, float, bool, str (did you mean int?)"),
    "bad default": ('params: {p: «"${PARALLEL_THRESHOLD:int=many}"}\n', "default of flag PARALLEL_THRESHOLD: 'many' is not a number"),
    "bad default of a set flag": ('params: {p: «"${LARGE_DATA_THRESHOLD:int=1.5}"}\n', "default of flag LARGE_DATA_THRESHOLD: '1.5' is not a whole number"),
    "flag of another type": ('params: {p: «"${METAL_GPU_PRIORITY:int=1}"}\n', "value of flag METAL_GPU_PRIORITY: 'MEDIUM' is not a number"),
    "flag not set": ('params: {p: «"${PARALLEL_THRESHOLD:int}"}\n', "flag PARALLEL_THRESHOLD is not set and has no default; write ${PARALLEL_THRESHOLD:int=default}"),
    "no reference": ('params: {p: «"${ }"}\n', "${ } is not a flag reference; write ${FLAG:type=default}"),
    "lonely dollar": (when("client.name: «cash$"), "a $ must begin a reference ($name, ${FLAG:type=default}); write $$ for the sign itself"),
    "parameter of parameters": ("params: {a: 1, b: «$a}\n", "a parameter cannot refer to another one ($a); flags can be used here"),
    "parameter a mapping": ("params: {a: «{b: 1}}\n", "the parameter a must be a value or a list of values"),
    "parameter name": ("params: {«a-b: 1}\n", "'a-b' cannot be a parameter; use letters, digits and _"),
    "list in text": ("params: {a: [x]}\n" + when("client.name: «batch-$a"), "$a is a list and cannot stand inside a text"),
    "list for a value": ("params: {a: [1, 2]}\n" + when("task.work: {gte: «$a}"), "task.work must be a single value, not a list"),
    "parameter of a wrong kind": ("params: {a: big}\n" + when("task.work: {gte: «$a}"), "task.work: 'big' is not a number"),
    "too many rules": ("rules:\n" + "".join(f"- {'«' if n == 500 else ''}{{id: r{n}, split: auto}}\n" for n in range(502)), "more than 500 rules, the limit of a policy"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES.keys())
def test_the_problem_and_its_place(load: Callable[..., Policy], text: str, message: str) -> None:
    before = text[: text.index("«")]
    line, column = before.count("\n") + 3, len(before) - (before.rfind("\n") + 1) + 1
    with pytest.raises(InvalidPolicy) as caught:
        load(text.replace("«", ""))
    assert caught.value.message == f"0.yaml:{line}:{column}: {message}"
    assert caught.value.detail["problems"] == [{"file": "0.yaml", "line": line, "column": column, "message": message}]


HEADS = {
    "wrong version": ("apiVersion: «routerd/v2\nkind: Policy\n", "apiVersion must be routerd/v1, not routerd/v2"),
    "wrong kind": ("apiVersion: routerd/v1\nkind: «Polcy\n", "kind must be Policy, not Polcy"),
    "no version": ("«kind: Policy\n", "apiVersion is missing; a policy starts with 'apiVersion: routerd/v1'"),
    "no kind": ("«apiVersion: routerd/v1\n", "kind is missing; a policy starts with 'kind: Policy'"),
    "kind a list": ("apiVersion: routerd/v1\nkind: «[Policy]\n", "kind must be Policy, not a list or mapping"),
}


@pytest.mark.parametrize(("text", "message"), HEADS.values(), ids=HEADS.keys())
def test_the_head_must_be_right(load: Callable[..., Policy], text: str, message: str) -> None:
    before = text[: text.index("«")]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    with pytest.raises(InvalidPolicy) as caught:
        load(text.replace("«", ""), head=False)
    assert caught.value.message == f"0.yaml:{line}:{column}: {message}"


def test_another_kind_of_document_is_not_searched_for_mistakes(load: Callable[..., Policy]) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        load("apiVersion: routerd/v1\nkind: PolicyTest\nrules: [x]\n", head=False)
    assert len(caught.value.detail["problems"]) == 1


def test_all_problems_of_all_files_at_once_in_order(load: Callable[..., Policy]) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        load("default: {splt: auto}\nrules:\n- id: a\n  prefr: [cpu]\n- prefer: [gpu]\n", "record: {decisions: some}\n")
    places = [(item["file"], item["line"], item["column"]) for item in caught.value.detail["problems"]]
    assert places == [
        ("0.yaml", 3, 11),
        ("0.yaml", 6, 3),
        ("0.yaml", 7, 3),
        ("0.yaml", 7, 12),
        ("1.yaml", 3, 21),
    ]
    assert caught.value.message.count("\n") == 4
    assert caught.value.exit_code == 3


def test_a_broken_file_does_not_make_its_parameters_unknown(load: Callable[..., Policy]) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        load("params: {limit: [1\n", when("task.work: {gte: $limit}"))
    assert [item["file"] for item in caught.value.detail["problems"]] == ["0.yaml"]


def test_a_wrong_parameter_is_reported_where_it_is_not_where_it_is_used(load: Callable[..., Policy]) -> None:
    text = 'params: {p: "${NO_SUCH_FLAG_AT_ALL}", q: "${NO_SUCH_FLAG_AT_ALL}"}\n'
    tests = "task.work: {gte: $p, in: $p, between: $p, lt: 5}, client.name: x$p, task.batch: {in: [$q]}"
    with pytest.raises(InvalidPolicy) as caught:
        load(text + when(tests) + "- {id: s, prefer: $p}\n")
    assert [item["line"] for item in caught.value.detail["problems"]] == [3, 3]


@pytest.mark.parametrize("name", ["cpu.numpy", "tpu.jax"])
def test_without_plugins_any_backend_name_of_the_right_shape_is_taken(
    write: Callable[..., list[Path]], vocabulary: Vocabulary, flags: Mapping[str, Any], name: str
) -> None:
    offline = Vocabulary(
        vocabulary.workloads, vocabulary.families, vocabulary.engines, frozenset(), vocabulary.device_kinds
    )
    paths = write(f"rules:\n- id: r\n  prefer: [{name}]\n")
    assert load_policy(paths, offline, flags).rules[0].choice.prefer == (name,)


@pytest.mark.parametrize("name", ["gpu", "cpu.", "cpu.a.b", "cpu.*"])
def test_without_plugins_other_names_are_still_wrong(
    write: Callable[..., list[Path]], vocabulary: Vocabulary, flags: Mapping[str, Any], name: str
) -> None:
    offline = Vocabulary(
        vocabulary.workloads, vocabulary.families, vocabulary.engines, frozenset(), vocabulary.device_kinds
    )
    with pytest.raises(InvalidPolicy, match=r"0\.yaml:5:12: unknown"):
        load_policy(write(f"rules:\n- id: r\n  prefer: [{name}]\n"), offline, flags)
