"""docs/workloads.md against the catalogue that it is generated from."""

from __future__ import annotations

import runpy
from pathlib import Path

from routerd.workloads import builtin_workloads

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "workloads.md").read_text()


def test_the_page_is_current() -> None:
    generator = runpy.run_path(str(DOCS / "generate_workloads.py"))
    assert generator["render"]() == PAGE, "run: python docs/generate_workloads.py"


def test_every_parameter_array_and_source_is_on_it() -> None:
    for workload in builtin_workloads():
        section = PAGE.split(f"\n### {workload.name}\n", 1)[1].split("\n### ", 1)[0]
        assert workload.source in section
        for one in (*workload.parameters, *workload.inputs, *workload.outputs):
            assert f"| `{one.name}` |" in section, f"{workload.name}: {one.name}"


def test_the_readme_names_every_workload_and_counts_them() -> None:
    readme = (DOCS.parent / "README.md").read_text()
    names = [workload.name for workload in builtin_workloads()]
    assert f"{len(names)} computations" in readme
    for name in names:
        assert f"`{name}`" in readme or f"`.{name.partition('.')[2]}`" in readme, name
