"""The plugin of docs/plugins.md, taken from the page, installed, loaded, checked and tested."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from routerd import hookspecs
from routerd.interfaces import DEVICE_KINDS
from routerd.plugins import GROUP, load_plugins
from routerd.settings import Settings
from routerd.testing import check_backend, null

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EntryPoint:
    """The page's files in a directory on the path, and the entry point that its pyproject declares."""
    files = dict(re.findall(r"^`([\w.]+)` [^\n]*:\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    assert files.keys() == {"pyproject.toml", "routerd_acme.py", "test_routerd_acme.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ((name, value),) = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"][GROUP].items()
    return EntryPoint(name=name, value=value, group=GROUP)


def test_the_plugin_loads_and_keeps_its_contract(installed: EntryPoint) -> None:
    registry = load_plugins(Settings(), entry_points=[installed])
    assert [(report.state, report.reason) for report in registry.reports] == [("loaded", "")]
    report = check_backend(registry.backend("acme.single"))
    report.raise_for_problems()
    executed = [finding for finding in report.findings if finding.check == "execute"]
    assert executed
    assert all(0.0 < finding.error < 1e-5 for finding in executed if finding.error is not None)


def test_its_own_test_passes(installed: EntryPoint, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "6 passed" in ran.stdout


def test_every_hook_device_kind_and_failure_is_documented() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("routerd_")]
    assert len(hooks) == 5
    for word in (*(f"`{hook}(" for hook in hooks), *(f"`{kind}`" for kind in DEVICE_KINDS)):
        assert word in PAGE, word
    for failure in filter(None, null.FAILURES):
        assert f'"{failure}"' in PAGE, failure
