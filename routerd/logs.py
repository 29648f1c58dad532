"""Structured logs: readable on a terminal, JSON lines otherwise; one logger per subsystem, cheap where disabled."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, TypeAlias

if TYPE_CHECKING:
    from routerd.flags import Flags

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]
_Event: TypeAlias = MutableMapping[str, Any]

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_METHODS: Final = ("debug", "info", "warning", "error", "exception")
_SECRET: Final = ("token", "password", "passwd", "secret", "authorization", "api_key")

#: Subsystems that a debug flag sets to level debug. A logger named ``worker.gpu`` belongs to ``worker`` and to ``gpu``.
DEBUG_SUBSYSTEMS: Final[Mapping[str, frozenset[str]]] = {
    "BREAKTHROUGH_DEBUG": frozenset({"*"}),
    "KERNEL_DEBUG": frozenset({"worker", "kernel"}),
    "GPU_DEBUG": frozenset({"gpu", "metal_gpu", "cuda_gpu"}),
    "QUANTUM_DEBUG": frozenset({"quantum_annealer"}),
    "NETWORK_DEBUG": frozenset({"server"}),
    "M4_MAX_DEBUG": frozenset({"router", "calibration"}),
    "METAL_DEBUG": frozenset({"metal_gpu"}),
    "CPU_OPTIMIZATION_DEBUG": frozenset({"cpu"}),
}

#: The decision that the running task works for; every line that it logs carries the id.
current_decision: ContextVar[str | None] = ContextVar("decision_id", default=None)


class Logger:
    """The log of one subsystem. May be made at import: it follows each later :func:`configure_logs`.

    ``log.info("backend ready", backend=name)``: a short constant event, then facts by name. ``exception`` adds the
    traceback of the exception being handled. A method below the subsystem's level is an empty function.
    """

    debug: Callable[..., None]
    info: Callable[..., None]
    warning: Callable[..., None]
    error: Callable[..., None]
    exception: Callable[..., None]

    def __init__(self, subsystem: str) -> None:
        self.subsystem = subsystem


class LineOutput:
    """Writes lines to a stream whose reader may vanish: logging must never end the daemon. ``lost`` counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.lost = 0

    def write(self, line: str) -> None:
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, the disk is full, or the stream is closed: nowhere to tell
            self.lost += 1

    debug = info = warning = error = exception = write


_loggers: dict[str, Logger] = {}
_setup: Callable[[Logger], None] | None = None


def get_logger(subsystem: str) -> Logger:
    """The logger of a subsystem such as ``server`` or ``worker``; the same one each time."""
    logger = _loggers.get(subsystem)
    if logger is None:
        logger = _loggers[subsystem] = Logger(subsystem)
        (_setup or _wait_for_setup)(logger)
    return logger


@contextmanager
def decision_scope(decision_id: str) -> Iterator[None]:
    """Lines logged inside carry ``decision_id``."""
    token = current_decision.set(decision_id)
    try:
        yield
    finally:
        current_decision.reset(token)


def configure_logs(
    level: Level = "info", format: Format = "auto", flags: Flags | None = None, stream: TextIO | None = None
) -> LineOutput:
    """Send every log line of the process, the standard library's included, to ``stream`` (standard error).

    ``auto`` is ``console`` on a terminal and ``json`` otherwise. Debug flags lower the level of their subsystems.
    May be called again; existing loggers follow.
    """
    global _setup  # noqa: PLW0603 -- a process has one log
    import structlog

    stream = stream or sys.stderr
    output = LineOutput(stream)
    on_terminal = stream.isatty()
    processors = _processors(as_json=format == "json" or (format == "auto" and not on_terminal), colors=on_terminal)
    chosen: set[str] = set()
    if flags is not None:
        chosen = {name for flag, names in DEBUG_SUBSYSTEMS.items() if flags[flag] for name in names}

    def connect(logger: Logger) -> None:
        number = _LEVELS["debug"] if chosen & {"*", *logger.subsystem.split(".")} else _LEVELS[level]
        bound = structlog.wrap_logger(
            output,
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(number),
            subsystem=logger.subsystem,
        ).bind()
        for method in _METHODS:
            setattr(logger, method, getattr(bound, method))

    _setup = connect
    for logger in _loggers.values():
        connect(logger)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(_LEVELS["debug"] if "*" in chosen else max(_LEVELS[level], logging.INFO))
    return output


def _wait_for_setup(logger: Logger) -> None:
    """Until the process configures its logs, the first line does so with the defaults."""

    def first(method: str, /, *args: Any, **facts: Any) -> None:
        configure_logs()
        getattr(logger, method)(*args, **facts)

    for method in _METHODS:
        setattr(logger, method, functools.partial(first, method))


def _processors(*, as_json: bool, colors: bool) -> list[Callable[[Any, str, _Event], Any]]:
    import structlog

    shared: list[Callable[[Any, str, _Event], Any]] = [
        structlog.contextvars.merge_contextvars,
        _add_decision,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    if as_json:
        return [*shared, structlog.processors.format_exc_info, _render_json]
    return [
        *shared,
        structlog.dev.ConsoleRenderer(
            colors=colors and "NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _add_decision(_logger: Any, _method: str, event: _Event) -> _Event:
    decision_id = current_decision.get()
    if decision_id is not None:
        event.setdefault("decision_id", decision_id)
    return event


def redact(_logger: Any, _method: str, event: _Event) -> _Event:
    """Replace what a key calls a secret, at any depth of mappings."""
    for key, value in event.items():
        if any(word in str(key).lower() for word in _SECRET):
            event[key] = "[redacted]"
        elif isinstance(value, Mapping):
            event[key] = redact(_logger, _method, dict(value))
    return event


def _render_json(_logger: Any, _method: str, event: _Event) -> str:
    import msgspec

    ordered = {name: event.pop(name, None) for name in ("timestamp", "level", "subsystem", "event")}
    ordered.update(event)
    try:
        return msgspec.json.encode(ordered, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError):  # odd keys, lone surrogates, huge integers: show them, lose nothing
        shown = {
            name: value if isinstance(value, str) and value.isascii() else ascii(value)
            for name, value in ordered.items()
        }
        return msgspec.json.encode(shown).decode()


class _Bridge(logging.Handler):
    """Brings lines of the standard library's ``logging`` (asyncio, plugins' frameworks) into the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        name = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        try:
            message = record.getMessage()
        except (TypeError, ValueError) as error:  # arguments that do not fit the format
            message = f"{record.msg!r} {record.args!r} ({error})"
        facts = {"exc_info": record.exc_info} if record.exc_info else {}
        getattr(get_logger(f"python.{record.name}"), name)(message, **facts)
