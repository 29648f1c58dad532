"""``docs/scoring.md`` says what is true: it explains every option and every chooser, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer.main

from routerd.cli.app import app
from routerd.scoring.metrics import BINS, CLOSE
from routerd.scoring.report import baselines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scoring.md").read_text(encoding="utf-8")


def command():
    return typer.main.get_command(app).commands["bench"].commands["routing"]


def test_every_option_is_explained():
    documented = set(re.findall(r"`(--\w+)`", PAGE))
    offered = {one for parameter in command().params for one in parameter.opts if one.startswith("--")}
    assert documented == offered - {"--socket", "--help"}


def test_every_chooser_is_explained():
    section = PAGE.split("\n## Whom it is compared with\n", 1)[1].split("\n## ", 1)[0]
    names = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert names == [one.name for one in baselines([], [], 0)]


def test_every_command_can_be_parsed():
    commands = re.findall(r"^routerctl bench routing(.*?)(?: +#.*| +>.*)?$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for words in commands:
        command().make_context("routing", shlex.split(words))


def test_the_figures_of_its_definitions_are_those_of_the_code():
    assert f"at most {CLOSE:.0%} longer".replace("%", " %") in PAGE
    assert {10: "ten"}[BINS] + " bins" in PAGE


def test_every_file_that_it_names_exists():
    for name in re.findall(r"`(routerd/[\w/]+\.py)`", PAGE):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((\w+\.md)[)#]", PAGE):
        assert (ROOT / "docs" / name).exists(), name
