"""The example on the page about plugins runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[4] / "docs" / "plugins.md").read_text()


def test_the_example_of_a_shader_runs() -> None:
    section = PAGE.split("\n### Metal shaders without a Mac\n", 1)[1].split("\n## ", 1)[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "docs/plugins.md", "exec", dont_inherit=True), names)
    assert len(names["made"]["scaled"]) == 1000  # type: ignore[index]
