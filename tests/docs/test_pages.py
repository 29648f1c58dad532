"""What the pages claim: every error code, method and file they name exists, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from routerd.errors import BY_CODE

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))


def test_every_error_code_is_documented_and_no_other():
    assert first_column(section(PROTOCOL, "Errors")) == set(BY_CODE)


def test_every_method_is_documented_with_its_role_and_no_other():
    source = (ROOT / "routerd" / "methods.py").read_text()
    coded = dict(re.findall(r'"([\w.]+)": (?:Method|_at_once|_later)\(\s*"(\w+)"', source))
    documented = dict(re.findall(r"^\| `([\w.]+)` \| (\w+) \|", section(PROTOCOL, "Methods"), re.MULTILINE))
    assert coded == documented


def test_every_limit_is_documented():
    from routerd.protocol import Limits

    assert first_column(section(PROTOCOL, "hello")) == set(Limits.__struct_fields__)


@pytest.mark.parametrize(
    ("struct", "module"), [("Decision", "types"), ("Result", "types"), ("Candidate", "types"), ("Timing", "types")]
)
def test_every_field_is_documented(struct, module):
    import importlib

    for name in getattr(importlib.import_module(f"routerd.{module}"), struct).__struct_fields__:
        assert name in PROTOCOL, f"{struct}.{name} is not in docs/protocol.md"


def test_every_file_is_in_the_table_of_layers():
    table = section(ARCHITECTURE, "Layers")
    for path in (ROOT / "routerd").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.stem
        if path.name.startswith(("__init__", "__pycache__", "_data", "py.typed")):
            continue
        assert name in table, f"{name} is not in docs/architecture.md"


def test_every_file_that_the_journey_names_exists():
    names = re.findall(r"`([\w/]+\.py)`", ARCHITECTURE)
    assert names
    for name in names:
        assert (ROOT / "routerd" / name).exists() or (ROOT / name).exists(), name
