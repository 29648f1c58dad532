from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from routerd import logs
from routerd.flag_table import FLAGS
from routerd.flags import load_flags
from routerd.logs import DEBUG_SUBSYSTEMS, LineOutput, configure_logs, decision_scope, get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, setup = root.handlers[:], root.level, logs._setup
    yield
    root.handlers[:], logs._setup = handlers, setup
    root.setLevel(level)
    for logger in logs._loggers.values():
        (setup or logs._wait_for_setup)(logger)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_that_begins_with_what_every_line_has() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)

    get_logger("server").info("client joined", client="desk", method="decide")

    (line,) = lines_of(stream)
    assert list(line)[:4] == ["timestamp", "level", "subsystem", "event"]
    assert line["timestamp"].endswith("Z")
    del line["timestamp"]
    assert line == {
        "level": "info", "subsystem": "server", "event": "client joined", "client": "desk", "method": "decide",
    }  # fmt: skip


def test_auto_is_json_unless_the_stream_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream, terminal = io.StringIO(), Terminal()

    configure_logs(stream=stream)
    get_logger("server").info("serving", socket="/s")
    configure_logs(stream=terminal)
    get_logger("server").info("serving", socket="/s")

    assert lines_of(stream)[0]["event"] == "serving"
    assert "[info" in terminal.getvalue()
    assert "socket=/s" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_the_console_can_be_asked_for_without_a_terminal() -> None:
    stream = io.StringIO()
    configure_logs("info", "console", stream=stream)

    get_logger("server").warning("slow reader", client="desk")

    assert "slow reader" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    configure_logs("warning", "json", stream=stream)
    log = get_logger("server")

    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")

    assert [line["event"] for line in lines_of(stream)] == ["c", "d"]


def test_a_logger_made_before_follows_each_configuration() -> None:
    log = get_logger("made-early")
    first, second = io.StringIO(), io.StringIO()

    configure_logs("error", "json", stream=first)
    log.info("quiet")
    configure_logs("info", "json", stream=second)
    log.info("heard")

    assert first.getvalue() == ""
    assert [line["event"] for line in lines_of(second)] == ["heard"]


def test_unconfigured_logs_go_to_standard_error_and_import_nothing_until_then() -> None:
    code = (
        "import sys; from routerd.logs import get_logger; log = get_logger('x'); assert 'structlog' not in sys.modules;"
        "log.debug('unseen'); log.info('seen', method='m')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    (line,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert (line["event"], line["method"]) == ("seen", "m")
    assert done.stdout == ""


@pytest.mark.parametrize(("flag", "subsystems"), DEBUG_SUBSYSTEMS.items(), ids=str)
def test_a_debug_flag_opens_its_subsystems_and_no_other(flag: str, subsystems: frozenset[str]) -> None:
    stream = io.StringIO()
    configure_logs("info", "json", load_flags({flag: "true"}), stream)

    for subsystem in subsystems - {"*"}:
        get_logger(subsystem).debug("opened")
        get_logger(f"worker-x.{subsystem}").debug("opened")
    get_logger("elsewhere").debug("not opened")

    everything = "*" in subsystems
    assert len(lines_of(stream)) == (1 if everything else 2 * len(subsystems))
    assert any(line["subsystem"] == "elsewhere" for line in lines_of(stream)) is everything


def test_every_debug_flag_opens_something() -> None:
    assert {flag.name for flag in FLAGS if flag.name.endswith("_DEBUG")} == set(DEBUG_SUBSYSTEMS)


def test_lines_of_a_request_carry_its_decision() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)
    log = get_logger("router")

    with decision_scope("d-1"):
        log.info("inside")
        with structlog.contextvars.bound_contextvars(client="desk"):
            log.info("other", decision_id="d-2")
    log.info("outside")

    inside, other, outside = lines_of(stream)
    assert inside["decision_id"] == "d-1"
    assert (other["decision_id"], other["client"]) == ("d-2", "desk")
    assert "decision_id" not in outside


def test_secrets_are_not_written_at_any_depth() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)
    headers = {"Authorization": "Bearer hunter2", "accept": "json"}

    get_logger("gateway").info(
        "request", token="hunter2", db_password="hunter2", headers=headers, nested={"a": {"SECRET": 1}}
    )

    (line,) = lines_of(stream)
    assert "hunter2" not in stream.getvalue()
    assert line["headers"] == {"Authorization": "[redacted]", "accept": "json"}
    assert line["nested"] == {"a": {"SECRET": "[redacted]"}}
    assert headers["Authorization"] == "Bearer hunter2"


@pytest.mark.parametrize("format", ["json", "console"])
def test_an_exception_brings_its_traceback(format: logs.Format) -> None:
    stream = io.StringIO()
    configure_logs("info", format, stream=stream)

    try:
        raise ValueError("no such thing")
    except ValueError:
        get_logger("server").exception("internal error", method="decide")

    assert "Traceback (most recent call last)" in stream.getvalue()
    assert "no such thing" in stream.getvalue()
    assert "decide" in stream.getvalue()


@pytest.mark.parametrize("value", [{(1, 2): 3}, 2**80, "\ud800", object(), {1, 2}, b"\xff", float("nan")], ids=repr)
def test_odd_values_never_break_a_line(value: object) -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)

    get_logger("server").info("odd", value=value)

    (line,) = lines_of(stream)
    assert line["event"] == "odd"
    assert "value" in line


def test_the_standard_library_logs_into_the_same_stream() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream=stream)

    logging.getLogger("asyncio").error("task %s failed", "t1", exc_info=ValueError("boom"))
    logging.getLogger("lib").warning("bad %d", "arguments")
    logging.getLogger("lib").debug("unseen")

    first, second = lines_of(stream)
    assert (first["subsystem"], first["event"], first["level"]) == ("python.asyncio", "task t1 failed", "error")
    assert "boom" in first["exception"]
    assert "arguments" in second["event"]


def test_a_stream_that_goes_away_is_counted_and_does_no_harm() -> None:
    stream = io.StringIO()
    output = configure_logs("info", "json", stream=stream)
    stream.close()

    get_logger("server").info("to nobody")

    assert isinstance(output, LineOutput)
    assert output.lost == 1
