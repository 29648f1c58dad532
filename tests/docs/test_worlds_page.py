"""``docs/worlds.md`` says what is true: its snippets run, and it explains every field of a world."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from routerd.simulation.world import World, WorldBackend, WorldCurve

PAGE = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_there_is_a_snippet_for_each_use():
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["score", "stream", "record"])
def test_every_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    for path in tmp_path.iterdir():
        assert World.load(path).label == "recorded"


def test_every_field_is_explained():
    section = PAGE.split("\n## What a world is\n", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(World.__struct_fields__)
    for field in (*WorldBackend.__struct_fields__, *WorldCurve.__struct_fields__):
        assert f"`{field}`" in section
