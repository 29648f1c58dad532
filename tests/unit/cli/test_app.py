"""Exit codes, error lines and quiet ends, without a daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from routerd import __version__
from routerd.cli import app, link, machine
from routerd.errors import BY_CODE, RouterdError

NOWHERE = "/tmp/routerd-no-such-directory/routerd.sock"


class FakeLink:
    """A connection whose every call gives one answer, or raises it."""

    answer: object = None
    sockets: ClassVar[list[Path | None]] = []

    def __init__(self, socket):
        self.sockets.append(socket)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def call(self, method, params=None):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def answer(monkeypatch):
    """Let ``status`` and ``flags`` get this answer."""

    def install(value):
        monkeypatch.setattr(FakeLink, "answer", value)
        monkeypatch.setattr(FakeLink, "sockets", [])
        monkeypatch.setattr(machine, "Link", FakeLink)

    return install


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_ends_with_its_exit_code_and_one_line(code, answer, capsys):
    error = BY_CODE[code]("what, where, what to do", fact=1)
    answer(error)
    assert app.run(["status"]) == type(error).exit_code
    captured = capsys.readouterr()
    assert captured.err == f"routerctl: {code}: what, where, what to do\n"
    assert captured.out == ""


def test_exit_codes_are_the_promised_ones():
    codes = {cls.code: cls.exit_code for cls in BY_CODE.values()}
    assert codes["internal"] == codes["execution_failed"] == 1
    assert codes["bad_request"] == codes["unknown_workload"] == codes["invalid_parameter"] == 2
    assert codes["invalid_policy"] == codes["invalid_configuration"] == codes["invalid_flag"] == 3
    assert codes["daemon_unreachable"] == codes["shutting_down"] == 6
    assert codes["permission_denied"] == 7


@pytest.mark.parametrize("arguments", [["status", "--json"], ["--json", "status"]])
def test_with_json_an_error_is_json_too(arguments, answer, capsys):
    answer(BY_CODE["no_candidate"]("none left", rejected=[{"backend": "cpu.numpy", "reason": "denied"}]))
    assert app.run(arguments) == 7
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "no_candidate"
    assert error["detail"]["rejected"][0]["backend"] == "cpu.numpy"


@pytest.mark.parametrize(
    "arguments", [["flags", "--json", "--socket", "/x.sock"], ["--socket", "/x.sock", "--json", "flags"]]
)
def test_common_options_go_after_or_before_the_command(arguments, answer, capsys):
    answer([])
    assert app.run(arguments) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert FakeLink.sockets == [Path("/x.sock")]


def test_the_option_after_the_command_wins(answer):
    answer([])
    assert app.run(["--socket", "/a.sock", "flags", "--socket", "/b.sock"]) == 0
    assert FakeLink.sockets == [Path("/b.sock")]


def test_common_options_before_a_group_reach_its_commands(monkeypatch, capsys):
    monkeypatch.setattr(link, "WAIT_SECONDS", 0.0)
    assert app.run(["--json", "--socket", NOWHERE, "policy", "show"]) == 6
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "daemon_unreachable"
    assert NOWHERE in error["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["status", "--no-such-option"],
        ["decide"],
        ["decisions", "tail", "--limit", "many"],
        ["decisions", "tail", "--limit", "0"],
        ["decide", "linalg.gemm", "--param", "x"],
        ["decide", "linalg.gemm", "--shape", "a=x"],
        ["run", "linalg.gemm", "--input", "a=/no/such/file.npy"],
        ["run", "linalg.gemm", "--param", "workload=1"],
    ],
)
def test_a_usage_error_exits_with_two_and_says_so_on_one_line(arguments, capsys):
    assert app.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("routerctl: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_usage_error_with_json(capsys):
    assert app.run(["status", "--what", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "usage"
    assert "--what" in error["message"]


@pytest.mark.parametrize("arguments", [[], ["policy"], ["decisions"]])
def test_no_command_shows_the_help_and_exits_with_two(arguments, capsys):
    assert app.run(arguments) == 2
    captured = capsys.readouterr()
    assert "Commands:" in captured.err + captured.out


def test_an_unexpected_exception_is_one_line(answer, capsys, monkeypatch):
    monkeypatch.delenv("ROUTERCTL_TRACEBACK", raising=False)
    answer(ZeroDivisionError("by zero"))
    assert app.run(["status"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("routerctl: internal: ZeroDivisionError: by zero;")
    assert "Traceback" not in captured.err


def test_the_traceback_can_be_asked_for(answer, monkeypatch):
    monkeypatch.setenv("ROUTERCTL_TRACEBACK", "1")
    answer(ZeroDivisionError("by zero"))
    with pytest.raises(ZeroDivisionError):
        app.run(["status"])


def test_an_interrupt_is_quiet(answer, capsys):
    answer(KeyboardInterrupt())
    assert app.run(["status"]) == 130
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_version(capsys):
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"routerctl {__version__}\n"


def test_a_socket_path_that_is_too_long_is_a_configuration_error(capsys):
    assert app.run(["status", "--socket", "/tmp/" + "x" * 200]) == 3
    assert "--socket" in capsys.readouterr().err


def test_every_command_takes_json_and_socket():
    import typer.main

    def commands(command, path=()):
        members = getattr(command, "commands", None)
        if members is None:
            yield path, command
            return
        for name, member in members.items():
            yield from commands(member, (*path, name))

    for path, command in commands(typer.main.get_command(app.app)):
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--socket"} <= options, path


def test_asking_the_daemon_loads_nothing_heavy():
    script = (
        "import sys; from routerd.cli.app import run; from routerd.cli import link; link.WAIT_SECONDS = 0.0\n"
        f"code = run(['status', '--json', '--socket', {NOWHERE!r}])\n"
        "print(code, *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, *modules = process.stderr.splitlines()[-1].split()
    assert code == "6"
    assert not {"numpy", "torch", "rich", "yaml", "pluggy", "structlog"} & set(modules)


def test_the_base_of_errors_is_internal(answer, capsys):
    answer(RouterdError("x"))
    assert app.run(["flags"]) == 1
    assert capsys.readouterr().err == "routerctl: internal: x\n"
