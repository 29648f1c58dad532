"""JSON that every parser takes, and tables that survive a pipe."""

from __future__ import annotations

import json
import math
import sys

import pytest

from routerd.cli import output
from routerd.types import Placed


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_json_is_strict(capsys):
    output.write_json({"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": (1, None), "d": {"e": "×"}})
    text = capsys.readouterr().out
    expected = {"a": None, "b": [None, None, 1.5], "c": [1, None], "d": {"e": "×"}}
    assert json.loads(text, parse_constant=refuse) == expected


def test_json_keeps_full_precision_and_writes_structs_as_objects(capsys):
    output.write_json([0.1 + 0.2, Placed("cpu.numpy", "cpu")])
    assert json.loads(capsys.readouterr().out) == [0.1 + 0.2, {"backend": "cpu.numpy", "device_kind": "cpu"}]


def test_json_lines_are_single_lines(capsys):
    output.write_json({"a": [1, 2], "b": "x\ny"}, lines=True)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_piped_table_has_no_escape_codes_and_cuts_nothing(capsys):
    table = output.table(["name", "reason"], wrap=("reason",))
    name, reason = "n" * 200, "word " * 200
    table.add_row(output.styled(name, "bold red"), reason)
    output.show(table, output.state("ready"))
    header, row, state = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "reason"]
    assert row == f"{name}  {reason}".rstrip()
    assert state == "ready"


@pytest.fixture
def terminal(monkeypatch):
    """Call it for a standard output that claims to be a terminal of 40 columns."""

    def pretend():  # the stream of a fixture is not yet the stream of its test
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return pretend


def _wide_table():
    table = output.table(["id", "reason"], wrap=("reason",))
    table.add_row(output.styled("i" * 60, "green"), "some words that wrap over several lines")
    return table


def test_a_key_column_is_never_cut_on_a_narrow_terminal(terminal, capsys):
    terminal()
    output.show(_wide_table())
    text = capsys.readouterr().out
    assert "i" * 60 in text
    assert "…" not in text
    assert "\x1b[" in text


def test_no_color_means_no_escape_codes(terminal, capsys, monkeypatch):
    terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    output.show(_wide_table(), output.styled("bold", "bold"))
    assert "\x1b" not in capsys.readouterr().out


def test_brackets_in_messages_are_not_markup(capsys):
    output.show("denied [bold]here[/bold]", output.fields([("a", "[red]x"), ("empty", "")]))
    assert capsys.readouterr().out == "denied [bold]here[/bold]\na  [red]x\n"


def test_an_error_goes_to_standard_error_and_with_json_to_standard_output_too(capsys):
    output.error("timeout", "too slow", {"limit": math.inf}, as_json=True)
    captured = capsys.readouterr()
    assert captured.err == "routerctl: timeout: too slow\n"
    assert json.loads(captured.out) == {"error": {"code": "timeout", "message": "too slow", "detail": {"limit": None}}}


def test_problems_of_several_lines_start_on_a_line_of_their_own(capsys):
    output.error("invalid_policy", "a.yaml:1:2: x\nb.yaml:3:4: y", {}, as_json=False)
    assert capsys.readouterr().err.splitlines() == ["routerctl: invalid_policy:", "a.yaml:1:2: x", "b.yaml:3:4: y"]
