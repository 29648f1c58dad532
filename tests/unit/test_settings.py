from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from routerd import resources
from routerd.errors import ConfigurationError
from routerd.paths import MAX_SOCKET_PATH_BYTES, check_socket_path, default_socket_path
from routerd.resources import shipped
from routerd.settings import Settings, load_settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(config: Path, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config, environ)
    problems = caught.value.detail["problems"]
    assert caught.value.message == "\n".join(problems)
    return list(problems)


def test_the_shipped_file_is_valid_and_changes_no_default() -> None:
    settings = load_settings(None, {"XDG_RUNTIME_DIR": "/run/user/7"})

    assert settings == Settings(socket=Path("/run/user/7/routerd/routerd.sock"))
    assert settings.max_connections == 20_000
    assert settings.max_frame_bytes == 1024**2
    assert settings.policy_paths == (shipped("policies"),)
    assert settings.plugins_allow is None


def test_the_shipped_file_lists_every_setting_with_its_default() -> None:
    text = shipped("config", "routerd.yaml").read_text(encoding="utf-8")
    listed = re.findall(r"^# ([a-z_]+):(?: (.*))?$", text, flags=re.MULTILINE)
    values = yaml.safe_load("\n".join(f"{name}: {value}" for name, value in listed if value))
    defaults = Settings()

    assert sorted(name for name, _ in listed) == sorted(Settings.model_fields)
    constant = {
        name for name, field in Settings.model_fields.items() if field.default is not None and not field.default_factory
    }
    assert constant <= values.keys()
    given = Settings(**values)  # what depends on the machine may be shown by an example
    assert all(getattr(given, name) == getattr(defaults, name) for name in constant)


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_file_wins_over_defaults_and_the_environment_over_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "log_level: warning\nmax_connections: 5\ndrain_seconds: 1.5\n")

    settings = load_settings(config, {"ROUTERD_MAX_CONNECTIONS": "7"})

    assert (settings.log_level, settings.max_connections, settings.drain_seconds) == ("warning", 7, 1.5)
    assert settings.max_arrays_per_task == 32


def test_the_file_can_be_named_by_a_variable_and_an_argument_wins(tmp_path: Path) -> None:
    named = write(tmp_path, "log_level: debug\n")
    other = tmp_path / "other.yaml"
    other.write_text("log_level: error\n")
    environ = {"ROUTERD_CONFIG": str(named)}

    assert load_settings(None, environ).log_level == "debug"
    assert load_settings(other, environ).log_level == "error"


def test_sizes_lists_and_modes_can_be_written_for_people(tmp_path: Path) -> None:
    environ = {
        "ROUTERD_MAX_FRAME_BYTES": "2MiB",
        "ROUTERD_PLUGINS_ALLOW": "cpu, metal",
        "ROUTERD_ADMIN_UIDS": "501,502",
        "ROUTERD_SOCKET_MODE": "0660",
        "ROUTERD_CALIBRATE_WHEN_IDLE": "no",
    }

    settings = load_settings(write(tmp_path, ""), environ)

    assert settings.max_frame_bytes == 2 * 1024**2
    assert settings.plugins_allow == ("cpu", "metal")
    assert settings.admin_uids == (501, 502)
    assert settings.socket_mode == 0o660
    assert settings.calibrate_when_idle is False


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("device_watts: {cpu: 65, metal_gpu: 40.5}\n", {}),
        ("device_watts: {cpu: 1}\n", {"ROUTERD_DEVICE_WATTS": "cpu=65, metal_gpu=40.5"}),
        ("", {"ROUTERD_DEVICE_WATTS": " cpu = 65,metal_gpu=40.5,"}),
    ],
)
def test_watts_are_given_by_device_kind(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    assert load_settings(write(tmp_path, text), environ).device_watts == {"cpu": 65.0, "metal_gpu": 40.5}


def test_work_in_a_clients_process_can_be_switched_off(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, ""), {}).in_process_seconds == 200e-6
    assert load_settings(write(tmp_path, "in_process_seconds: 0\n"), {}).in_process_seconds == 0.0


@pytest.mark.parametrize("text", ["0660", "'0660'", "0o660"])
def test_a_mode_is_octal_however_it_is_written(tmp_path: Path, text: str) -> None:
    assert load_settings(write(tmp_path, f"socket_mode: {text}\n"), {}).socket_mode == 0o660


def test_paths_in_a_file_count_from_its_directory(tmp_path: Path) -> None:
    config = write(
        tmp_path, "state_dir: state\nmodels_dir: models\npolicy_paths: [mine, /etc/routerd]\nsocket: r.sock\n"
    )

    settings = load_settings(config, {"HOME": "/home/x"})

    assert settings.state_dir == tmp_path / "state"
    assert settings.models_dir == tmp_path / "models"
    assert settings.policy_paths == (tmp_path / "mine", Path("/etc/routerd"))
    assert settings.socket == tmp_path / "r.sock"


def test_a_key_without_a_value_and_an_empty_variable_leave_the_default(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "log_level:\n"), {"ROUTERD_LOG_FORMAT": ""}).log_format == "auto"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().log_level = "debug"


def test_settings_made_directly_do_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTERD_LOG_LEVEL", "error")

    assert Settings().log_level == "info"


def test_every_problem_is_told_with_its_place(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "log_levl: info\nmax_connections: lots\nlog_format: json\nread_uids: [1, -2]\nlog_format: json\ndrain_seconds: .inf\n",
    )
    environ = {
        "ROUTERD_LOG_LEVEL": "loud",
        "ROUTERD_LOG_FORMT": "json",
        "ROUTERD_MAX_FRAME_BYTES": "9TiB",
        "OTHER": "x",
    }

    problems = problems_of(config, environ)

    expected = [
        rf"{config}:1: log_levl: no such setting \(did you mean log_level\?\)",
        rf"{config}:2: max_connections: .*integer.*'lots'",
        rf"{config}:4: read_uids\[1\]: .*greater than or equal to 0.*-2",
        rf"{config}:5: log_format: given twice, first at {config}:3",
        rf"{config}:6: drain_seconds: .*finite",
        r"ROUTERD_LOG_LEVEL: .*'debug', 'info', 'warning' or 'error', got 'loud'",
        r"ROUTERD_LOG_FORMT: no such setting \(did you mean ROUTERD_LOG_FORMAT\?\)",
        r"ROUTERD_MAX_FRAME_BYTES: .*less than or equal to 67108864, got '9TiB'",
    ]
    assert [pattern for pattern in expected if not any(re.match(pattern, line) for line in problems)] == []
    assert len(problems) == len(expected)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("socket_mode: 0644\n", "socket_mode: must be 0600 or 0660"),
        ("max_segment_bytes: 2GiB\nmax_segment_bytes_per_client: 1GiB\n", "max_segment_bytes must not exceed"),
        ("inline_array_bytes: 1MiB\n", "at most half of max_frame_bytes"),
        ("policy_paths: []\n", "policy_paths: .*at least 1"),
        ("plugins_allow: {a: 1}\n", "plugins_allow: .*tuple"),
        (
            "device_watts: {metal_gup: 40}\n",
            r"device_watts: unknown device metal_gup \(did you mean metal_gpu\?\); use cpu",
        ),
        ("device_watts: {in_process: 40}\n", "device_watts: unknown device in_process"),
        ("device_watts: {cpu: -1}\n", "the watts of cpu must be a number above 0 and at most 1e.06, not -1"),
        ("device_watts: {cpu: .nan}\n", "the watts of cpu must be a number above 0"),
        ("device_watts: {cpu: yes}\n", "the watts of cpu must be a number above 0 .*, not True"),
        ("device_watts: {cpu: [1]}\n", "the watts of cpu must be a number above 0"),
        ("device_watts: 65\n", r"device_watts: must be watts by device kind, such as \{cpu: 65, metal_gpu: 40\}"),
        ("in_process_seconds: -0.1\n", "in_process_seconds: .*greater than or equal to 0"),
        ("in_process_seconds: 2\n", "in_process_seconds: .*less than or equal to 1"),
        ("state_dir: !!python/name:os.system\n", "settings.yaml:1: state_dir: could not determine a constructor"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, text: str, pattern: str) -> None:
    (problem,) = problems_of(write(tmp_path, text), {})

    assert re.search(pattern, problem)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("log_level: [info\n", r"settings.yaml:2:1: not valid YAML: "),
        ("- log_level\n", "expected a mapping"),
        ("just words\n", "expected a mapping"),
        ("a: \x00\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=pattern):
        load_settings(write(tmp_path, text), {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone.yaml: cannot be read \(No such file"):
        load_settings(None, {"ROUTERD_CONFIG": str(tmp_path / "gone.yaml")})


def test_the_socket_is_looked_for_in_order() -> None:
    everything = {"ROUTERD_SOCKET": "/srv/r.sock", "XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/Users/x"}
    without_own = {name: everything[name] for name in ("XDG_RUNTIME_DIR", "HOME")}

    assert default_socket_path(everything, "linux") == Path("/srv/r.sock")
    assert default_socket_path(without_own, "darwin") == Path("/run/user/7/routerd/routerd.sock")
    assert default_socket_path({"HOME": "/Users/x"}, "darwin") == Path(
        "/Users/x/Library/Application Support/routerd/routerd.sock"
    )
    assert default_socket_path({"HOME": "/home/x"}, "linux") == Path(f"/tmp/routerd-{os.getuid()}/routerd.sock")


def test_the_daemon_and_its_clients_agree_on_the_socket(tmp_path: Path) -> None:
    config = write(tmp_path, "")
    for environ in ({"ROUTERD_SOCKET": "/srv/r.sock"}, {"XDG_RUNTIME_DIR": "/run/user/7"}, {"HOME": "/home/x"}):
        assert load_settings(config, environ).socket == default_socket_path(environ)


def test_a_socket_path_may_be_as_long_as_the_platform_takes_and_no_longer(tmp_path: Path) -> None:
    longest = Path("/" + "x" * (MAX_SOCKET_PATH_BYTES - 1))

    assert check_socket_path(longest, "test") == longest
    with pytest.raises(ConfigurationError, match=r"XDG_RUNTIME_DIR: .* 120 bytes.*at most 103"):
        default_socket_path({"XDG_RUNTIME_DIR": "/" + "x" * (120 - 1 - len("/routerd/routerd.sock"))}, "linux")
    with pytest.raises(ConfigurationError, match=r"ROUTERD_SOCKET: .*at most 103"):
        load_settings(write(tmp_path, ""), {"ROUTERD_SOCKET": f"{longest}é"})
    with pytest.raises(ConfigurationError, match=r"settings.yaml:1: socket: .*at most 103"):
        load_settings(write(tmp_path, f"socket: {longest}x\n"), {})


def test_a_client_finds_the_socket_without_heavy_imports() -> None:
    code = "import sys, routerd.paths; print({'pydantic', 'yaml', 'structlog', 'numpy'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_shipped_files_are_found_in_a_wheel_and_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "routerd"
    monkeypatch.setattr(resources, "_PACKAGE", package)
    (tmp_path / "config").mkdir()
    assert shipped("config") == tmp_path / "config"

    (package / "_data" / "config").mkdir(parents=True)
    assert shipped("config") == package / "_data" / "config"

    with pytest.raises(ConfigurationError, match=r"config/gone.yaml .* install routerd again"):
        shipped("config", "gone.yaml")
