"""``docs/backends/metal.md`` says what is true: its reasons, backends, refusals, shaders, variables and facts are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from routerd.settings import Settings
from routerd.workloads import builtin_workloads
from routerd_metal import apple_gpu, mlx_backend, presence, routerd_backends, sensor, torch_backend
from routerd_metal.fused import FUSED
from routerd_metal.launching import SHADERS

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "docs" / "backends"
PAGE = (DIRECTORY / "metal.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of every row of the section's tables, headings included."""
    return [re.split(r" \| ", line.strip("| ")) for line in section(heading).splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("darwin", "x86_64")])
def test_the_reasons_of_a_machine_are_explained(system: str, machine: str) -> None:
    assert presence.why_absent(system, machine) in [row[0] for row in rows("Is it there?")]


def test_the_reasons_of_a_framework_are_the_code_s() -> None:
    source = "".join(Path(module.__file__).read_text() for module in (mlx_backend, torch_backend))
    reasons = [row[0] for row in rows("Is it there?")]
    raised = re.findall(r'raise Unavailable\("([^;"]+);', source)
    assert len(raised) == 3
    assert set(raised) <= set(reasons)


def test_every_backend_is_listed_with_its_worker() -> None:
    listed = {row[0].strip("`"): row[2].strip("`") for row in rows("What runs where") if len(row) == 3}
    for spec in routerd_backends(Settings()):
        assert listed[spec.name] == f"{spec.device_kind}/{spec.group}"


def test_the_workloads_that_are_refused_are_listed() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from routerd.namespaces.execution import refusal
    from routerd.namespaces.mlx import MlxNamespace
    from routerd_metal.torch_namespace import MetalTorchNamespace

    known = {workload.name for workload in builtin_workloads()}
    cells = " ".join(row[0] for row in rows("What runs where"))
    listed = known & set(re.findall(r"`([\w.]+)`", cells))
    for namespace in (MlxNamespace("cpu"), MetalTorchNamespace("cpu")):
        assert listed == {one.name for one in builtin_workloads() if refusal(one, namespace) is not None}


def test_every_shader_is_listed_with_its_flag() -> None:
    listed = {row[0].strip("`"): row[1:3] for row in rows("Shaders") if ".metal`" in "".join(row)}
    assert {name: flag.strip("`") for name, (_file, flag) in listed.items()} == {
        name: fused.flag for name, fused in FUSED.items()
    }
    for file, _flag in listed.values():
        assert (SHADERS / file.strip("`")).exists(), file


def test_every_variable_and_fact_is_listed() -> None:
    environ: dict[str, str] = {}
    apple_gpu.prepare_environment(environ, "15.0")
    assert {row[0].strip("`"): row[1].split(",")[0].strip("`") for row in rows("Environment")[1:]} == environ
    told = set(re.findall(r'"(hardware\.\w+\.\w+)"', Path(sensor.__file__).read_text()))
    assert {row[0].strip("`") for row in rows("Sensor")[1:]} == told


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DIRECTORY / link).resolve().exists(), link
