"""The README and the protocol page, executed: every command and snippet runs against a real daemon."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("    #")[0].strip() for block in blocks(README, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("routerctl ")]


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        arguments, env={**environment, "PATH": path}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", commands())
def test_every_command_works(daemon, command):
    finished = run(shlex.split(command), daemon.env)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip()


def test_the_engine_snippet_runs(daemon):
    (snippet,) = [block for block in blocks(README, "python") if "from routerd import connect" in block]
    finished = run([sys.executable, "-c", snippet], daemon.env)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^6\.0\d+ ± 0\.011\d+ on cpu\.", finished.stdout, re.MULTILINE), finished.stdout


def test_the_asyncio_snippet_runs(daemon):
    (snippet,) = [block for block in blocks(README, "python") if "routerd.aio" in block]
    finished = run([sys.executable, "-c", snippet], daemon.env)
    assert finished.returncode == 0, finished.stderr
    first, second = finished.stdout.splitlines()
    assert re.fullmatch(r"cpu\.\w+ \(2, 6\)", first)
    assert float(second) == pytest.approx(6.04, abs=0.2)


def test_the_policy_snippet_is_valid(daemon, tmp_path):
    (snippet,) = blocks(README, "yaml")
    path = tmp_path / "desk.yaml"
    path.write_text(snippet)
    finished = run(["routerctl", "policy", "check", str(path)], daemon.env)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_plugin_snippet_announces_a_backend():
    (snippet,) = [block for block in blocks(README, "python") if "hookimpl" in block]
    scope: dict[str, object] = {}
    exec(snippet, scope)
    (spec,) = scope["routerd_backends"](None)
    assert spec.name == "acme.fpga"


def test_a_client_written_from_the_protocol_page_alone_works(daemon):
    (snippet,) = blocks(PROTOCOL, "python")
    finished = run([sys.executable, "-c", snippet], daemon.env)
    assert finished.returncode == 0, finished.stderr
    backend, price = finished.stdout.split()[0], float(finished.stdout.split()[-1])
    assert backend.startswith("cpu.")
    assert price == pytest.approx(6.04, abs=0.2)


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
