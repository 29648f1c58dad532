"""``policy check`` needs no daemon."""

from __future__ import annotations

import json
import re

import pytest

from routerd.cli import app

GOOD = """\
apiVersion: routerd/v1
kind: Policy
metadata: {name: mine}
rules:
  - id: big
    when: {task.work: {gte: 1000}}
    prefer: [cpu]
"""


@pytest.fixture
def policy_file(tmp_path, monkeypatch):
    monkeypatch.delenv("ROUTERD_CONFIG", raising=False)

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_valid_policy(policy_file, capsys):
    assert app.run(["policy", "check", policy_file(GOOD)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("policy mine is valid: 0 constraints, 1 rules, digest ")
    assert captured.err == ""


def test_the_shipped_policy_is_checked_where_no_path_is_given(capsys, monkeypatch):
    monkeypatch.delenv("ROUTERD_POLICY_PATHS", raising=False)
    assert app.run(["policy", "check"]) == 0
    assert "policy default is valid" in capsys.readouterr().out


def test_every_problem_is_named_with_its_place_and_the_right_spelling(policy_file, capsys):
    path = policy_file(GOOD.replace("task.work", "task.wrok").replace("[cpu]", "[cpuu]"))
    assert app.run(["policy", "check", path]) == 3
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [re.match(r"(.*):(\d+):(\d+): ", line).groups() for line in lines] == [(path, "6", "12"), (path, "7", "14")]
    assert "did you mean task.work?" in lines[0]
    assert "did you mean cpu" in lines[1]
    assert captured.err == "routerctl: invalid_policy: 2 problems\n"


def test_problems_as_json(policy_file, capsys):
    path = policy_file(GOOD.replace("task.work", "task.wrok"))
    assert app.run(["policy", "check", "--json", path]) == 3
    (problem,) = json.loads(capsys.readouterr().out)
    assert {"severity": "error", "file": path, "line": 6, "column": 12}.items() <= problem.items()


def test_a_warning_is_shown_and_accepted(policy_file, capsys):
    path = policy_file("params: {unused: 3}\n" + GOOD)
    assert app.run(["policy", "check", path]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}:1:10: warning: ")
    assert "is valid" in last
    assert app.run(["policy", "check", "--json", path]) == 0
    assert [one["severity"] for one in json.loads(capsys.readouterr().out)] == ["warning"]


def test_flags_come_from_the_environment(policy_file, capsys, monkeypatch):
    path = policy_file(GOOD.replace("1000", '"${LARGE_DATA_THRESHOLD:int=5}"'))
    digests = []
    for value in ("7", "8"):
        monkeypatch.setenv("LARGE_DATA_THRESHOLD", value)
        assert app.run(["policy", "check", path]) == 0
        digests.append(capsys.readouterr().out)
    assert digests[0] != digests[1]


def test_a_missing_file_is_a_problem_with_a_place(tmp_path, capsys):
    path = tmp_path / "none.yaml"
    assert app.run(["policy", "check", str(path)]) == 3
    assert capsys.readouterr().out == f"{path}:1:1: no such file\n"


def test_a_broken_flag_or_setting_is_a_configuration_error(policy_file, capsys, monkeypatch):
    path = policy_file(GOOD)
    monkeypatch.setenv("LARGE_DATA_THRESHOLD", "many")
    assert app.run(["policy", "check", path]) == 3
    assert capsys.readouterr().err.startswith("routerctl: invalid_flag: LARGE_DATA_THRESHOLD")
