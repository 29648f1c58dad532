"""The daemon's settings: defaults, then a YAML file, then ``ROUTERD_*`` variables; the later one wins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import yaml
from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PositiveInt, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from routerd.errors import ConfigurationError, suggest
from routerd.interfaces import DEVICE_KINDS
from routerd.paths import check_socket_path, default_socket_path
from routerd.resources import shipped

PREFIX: Final = "ROUTERD_"

#: Variables with the prefix that are no settings.
OTHER_VARIABLES: Final = frozenset({"ROUTERD_CONFIG"})

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_MOST_WATTS = 1e6

#: Device kinds that draw power of their own; a client's process runs on the processor.
_POWERED_KINDS = tuple(kind for kind in DEVICE_KINDS if kind != "in_process")


def _split(value: Any) -> Any:
    """``"a, b"`` as a list: how an environment variable writes several values."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _octal(value: Any) -> Any:
    """``"0660"`` or ``"0o660"`` as the mode that it means; YAML reads ``0660`` that way by itself."""
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if mode not in (0o600, 0o660):
        raise ValueError("must be 0600 or 0660 (octal)")
    return mode


def _device_watts(value: Any) -> Any:
    """Watts by device kind; ``"cpu=65, metal_gpu=40"`` is how a variable writes them."""
    if isinstance(value, str):
        value = dict(part.partition("=")[::2] for part in _split(value))
    if not isinstance(value, dict):
        raise ValueError("must be watts by device kind, such as {cpu: 65, metal_gpu: 40}")
    return {_powered_kind(kind): _watts(kind, watts) for kind, watts in value.items()}


def _powered_kind(kind: Any) -> str:
    name = str(kind).strip()
    if name not in _POWERED_KINDS:
        raise ValueError(f"unknown device {name}{suggest(name, _POWERED_KINDS)}; use {', '.join(_POWERED_KINDS)}")
    return name


def _watts(kind: Any, value: Any) -> float:
    try:
        watts = float(value)
    except (TypeError, ValueError):
        watts = 0.0
    if isinstance(value, bool) or not 0.0 < watts <= _MOST_WATTS:
        raise ValueError(f"the watts of {kind} must be a number above 0 and at most {_MOST_WATTS:g}, not {value!r}")
    return watts


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _default_worker_memory() -> ByteSize:
    return ByteSize(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5)


def _state_directory() -> Path:
    import platformdirs

    return platformdirs.user_state_path("routerd", appauthor=False)


def _models_directory() -> Path:
    import platformdirs

    return platformdirs.user_data_path("routerd", appauthor=False) / "models"


def _default_socket() -> Path:
    return default_socket_path(os.environ, sys.platform)


UserPath: TypeAlias = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_split)]
Ids: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_split)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _bytes(default: int, low: int, high: int, description: str) -> Any:
    return Field(default=ByteSize(default), ge=low, le=high, description=description)


class Settings(BaseSettings):
    """How one daemon runs. Sizes take units (``8MiB``); lists and pairs in variables are separated by commas.

    ``Settings(...)`` takes its arguments and the defaults only; :func:`load_settings` reads file and environment.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, enable_decoding=False)

    # Where
    socket: UserPath = Field(
        default_factory=_default_socket,
        description="Unix socket; at most 103 bytes. Clients look at $ROUTERD_SOCKET, so set it there when you move it.",
    )
    socket_mode: Annotated[Literal[0o600, 0o660], BeforeValidator(_octal)] = Field(
        default=0o600, description="Mode of the socket: 0600 for its owner alone, 0660 for its group too."
    )
    state_dir: UserPath = Field(
        default_factory=_state_directory,
        description="Directory of the SQLite database: calibration, decisions, policies.",
    )
    policy_paths: Annotated[tuple[UserPath, ...], BeforeValidator(_split), Field(min_length=1)] = Field(
        default_factory=lambda: (shipped("policies"),),
        description="Policy files and directories, merged in this order.",
    )

    models_dir: UserPath = Field(
        default_factory=_models_directory,
        description="Directory of users' models for ml.model, <name>/<version>/; it may be absent.",
    )

    # Plugins
    plugins_allow: Names | None = Field(
        default=None,
        description="Names of the plugins to load, nothing else is imported; unset loads every installed one.",
    )
    plugins_deny: Names = Field(default=(), description="Names of plugins that are not imported.")

    # Work
    cpu_threads: int = Field(
        default_factory=_usable_cores, ge=1, le=4096, description="Threads that CPU backends may use together."
    )
    device_watts: Annotated[Mapping[str, float], BeforeValidator(_device_watts)] = Field(
        default={},
        description="Watts that a device kind draws while it computes, for the objective energy; a sensor's reading wins.",
    )
    decision_table: bool = Field(
        default=True,
        description="Give clients the decision table, from which they decide without asking; false: all decisions are asked "
        "for, and so recorded as the policy says.",
    )
    in_process_seconds: float = Field(
        default=200e-6,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Longest predicted kernel that a client may run in its own process; 0 keeps all work in workers.",
    )
    worker_start_seconds: Seconds = Field(
        default=60.0, description="Time a worker has to start and load its framework."
    )
    worker_silence_seconds: Seconds = Field(
        default=5.0, description="Time after which a worker that does not answer while idle, or is stopped, is ended."
    )
    worker_memory_bytes: ByteSize = Field(
        default_factory=_default_worker_memory,
        ge=0,
        le=1024 * _GIB,
        description="Private memory of one worker, beyond which its allocations fail or it is restarted; 0: no limit. "
        "Unset: four fifths of the machine's.",
    )
    task_timeout_seconds: Seconds = Field(default=300.0, description="Longest run of any one task.")
    hang_factor: float = Field(
        default=50.0,
        ge=2,
        le=10_000,
        allow_inf_nan=False,
        description="A task counts as hung, and its worker is ended, after this many times its predicted duration.",
    )
    hang_floor_seconds: Seconds = Field(default=10.0, description="No task counts as hung before.")
    batching: bool = Field(
        default=True, description="Join requests of several clients into one run where the workload allows it."
    )
    calibration_run_seconds: Seconds = Field(default=0.2, description="Longest single timed run of a calibration.")
    calibrate_when_idle: bool = Field(default=True, description="Measure pairs that are not yet in use while idle.")
    drain_seconds: Seconds = Field(default=10.0, description="Time that running work has to end at shutdown.")

    # Limits
    max_connections: int = Field(default=20_000, ge=1, le=1_000_000, description="Clients connected at one time.")
    max_in_flight_per_client: int = Field(
        default=256, ge=1, le=65_536, description="Requests of one client that may await their reply."
    )
    max_queued_per_backend: int = Field(
        default=1024, ge=1, le=1_000_000, description="Tasks that may wait for one worker; further ones are refused."
    )
    max_arrays_per_task: int = Field(default=32, ge=1, le=64, description="Input arrays of one task.")
    max_frame_bytes: ByteSize = _bytes(_MIB, 4 * _KIB, 64 * _MIB, "Largest message.")
    inline_array_bytes: ByteSize = _bytes(
        8 * _KIB, 0, 16 * _MIB, "Arrays up to this size travel inside the message, larger ones by shared memory."
    )
    max_segment_bytes: ByteSize = _bytes(4 * _GIB, 64 * _KIB, 1024 * _GIB, "Largest shared-memory segment.")
    max_segment_bytes_per_client: ByteSize = _bytes(
        8 * _GIB, 64 * _KIB, 4096 * _GIB, "All shared-memory segments of one client together."
    )
    max_output_buffer_bytes: ByteSize = _bytes(
        8 * _MIB,
        64 * _KIB,
        _GIB,
        "Replies waiting for a client that does not read; beyond it the client is disconnected.",
    )

    max_model_bytes: ByteSize = _bytes(_GIB, 64 * _KIB, 256 * _GIB, "Largest model file that is loaded.")

    # Records
    decision_buffer: PositiveInt = Field(
        default=10_000,
        le=10_000_000,
        description="Decisions waiting to be written; further ones are dropped and counted.",
    )
    decisions_kept: PositiveInt = Field(
        default=100_000, le=100_000_000, description="Decisions kept in the database; the oldest go first."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console for people, json for machines; auto takes console on a terminal."
    )

    # Access. The daemon's own user and root are always admin; whoever is in no list is refused.
    admin_uids: Ids = Field(default=(), description="Users who may also change policy and calibrate.")
    execute_uids: Ids = Field(default=(), description="Users who may run work.")
    allow_gids: Ids = Field(default=(), description="Groups whose members may run work.")
    read_uids: Ids = Field(default=(), description="Users who may ask and look, not run.")

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.max_segment_bytes > self.max_segment_bytes_per_client:
            raise ValueError("max_segment_bytes must not exceed max_segment_bytes_per_client")
        if self.inline_array_bytes > self.max_frame_bytes // 2:
            raise ValueError("inline_array_bytes must be at most half of max_frame_bytes")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: ``load_settings`` merges the sources, so that each error can name file, line or variable."""
        return (init_settings,)


class _Given(NamedTuple):
    """A value from a source, and what to call that source in a message."""

    value: Any
    origin: str


def load_settings(config: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from ``config`` (else ``$ROUTERD_CONFIG``, else the shipped file) and ``ROUTERD_*`` variables.

    Raises ``ConfigurationError`` with one line per problem; each names the file and line or the variable.
    """
    path = config or (Path(named).expanduser() if (named := environ.get("ROUTERD_CONFIG")) else None)
    problems: list[str] = []
    given = _from_file(path or shipped("config", "routerd.yaml"), problems)
    given |= _from_environment(environ, problems)
    if "socket" not in given:
        given["socket"] = _Given(default_socket_path(environ, sys.platform), "socket")
    try:
        settings = Settings(**{name: entry.value for name, entry in given.items()})
    except ValidationError as error:
        problems += [_describe(dict(detail), given) for detail in error.errors(include_url=False)]
    if problems:
        raise ConfigurationError("\n".join(problems), problems=problems)
    socket = check_socket_path(settings.socket, given["socket"].origin)
    return settings.model_copy(update={"socket": socket})


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    variables = {PREFIX + name.upper(): name for name in Settings.model_fields}
    known = variables.keys() | OTHER_VARIABLES
    problems += [
        f"{name}: no such setting{suggest(name, known)}; {shipped('config', 'routerd.yaml')} lists all"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): environ[name] for name in variables if environ.get(name)}
    return {name: _Given(value, PREFIX + name.upper()) for name, value in source().items()}


def _from_file(path: Path, problems: list[str]) -> dict[str, _Given]:
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}); give a readable file or unset ROUTERD_CONFIG", path=str(path)
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{_place(path, error)}: not valid YAML: {_one_line(error)}", path=str(path)
        ) from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(f"{path}:1: expected a mapping of settings, such as `log_level: info`", path=str(path))
    given: dict[str, _Given] = {}
    for key_node, value_node in root.value:
        name, origin = str(key_node.value), f"{path}:{key_node.start_mark.line + 1}: {key_node.value}"
        if name not in Settings.model_fields:
            problems.append(f"{origin}: no such setting{suggest(name, Settings.model_fields)}")
        elif name in given:
            problems.append(f"{origin}: given twice, first at {given[name].origin.rpartition(': ')[0]}")
        else:
            try:
                value = loader.construct_object(value_node, deep=True)
            except yaml.YAMLError as error:
                problems.append(f"{origin}: {_one_line(error)}")
                continue
            if value is not None:  # a key without a value leaves the default
                given[name] = _Given(_relative_to(path, name, value), origin)
    return given


def _relative_to(file: Path, name: str, value: Any) -> Any:
    """A path in a file counts from that file's directory."""

    def anchor(part: Any) -> Any:
        return part if not isinstance(part, str) or part.startswith("~") else str(file.absolute().parent / part)

    if name in ("socket", "state_dir", "models_dir"):
        return anchor(value)
    if name == "policy_paths":
        parts = _split(value)
        return [anchor(part) for part in parts] if isinstance(parts, list) else parts
    return value


def _describe(error: dict[str, Any], given: Mapping[str, _Given]) -> str:
    loc = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not loc:
        return f"settings: {message}"
    origin = given[loc[0]].origin if loc[0] in given else str(loc[0])
    index = "".join(f"[{part}]" for part in loc[1:] if isinstance(part, int))
    return f"{origin}{index}: {message}, got {error['input']!r}"


def _place(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)


def _one_line(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
