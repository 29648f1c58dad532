"""``docs/backends/cuda.md`` says what is true: its reasons, facts, refusals, policy and commands are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from routerd.flags import load_flags
from routerd.interfaces import DEVICE_KINDS
from routerd.policy import Vocabulary, load_policy
from routerd.workloads import builtin_workloads
from routerd_cuda import card, driver, torch_backend

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "docs" / "backends"
PAGE = (DIRECTORY / "cuda.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_column(heading: str) -> list[str]:
    return list(re.findall(r"^\| ([^|]+?) \|", section(heading), re.MULTILINE))[1:]


@pytest.mark.parametrize(("node", "library"), [(False, False), (True, False), (False, True)])
def test_every_reason_of_a_driver_is_explained(monkeypatch: pytest.MonkeyPatch, node: bool, library: bool) -> None:
    def load(name: str) -> object:
        if not library:
            raise OSError(name)
        return object()

    monkeypatch.setattr(driver, "place", lambda: "linux/x86_64")
    problem = driver.driver_problem(load, lambda path: node and path == "/dev/nvidiactl")
    assert problem is not None
    assert any(problem.startswith(reason) for reason in first_column("Is it there?")), problem


def test_the_other_reasons_are_the_code_s() -> None:
    source = Path(torch_backend.__file__).read_text(encoding="utf-8")
    for words in ("is built without CUDA", "CUDA does not start: ", "bfloat16 matrix units come with 8.0 (Ampere)"):
        assert words in source
        assert any(words.strip() in reason for reason in first_column("Is it there?"))


def test_the_workloads_that_are_refused_are_listed() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from routerd.namespaces.execution import refusal
    from routerd_cuda.namespace import CudaNamespace

    namespace = CudaNamespace("cpu")
    refused = {workload.name for workload in builtin_workloads() if refusal(workload, namespace) is not None}
    assert set(re.findall(r"`([\w.]+)`", " ".join(first_column("What runs where")))) == refused


def test_every_fact_of_the_sensor_is_listed_with_its_function() -> None:
    sources = [(ROOT / "plugins" / "routerd_cuda" / name).read_text() for name in ("sensor.py", "nvml.py")]
    rows = dict(re.findall(r"^\| `(hardware[\w.]+)` \| `(nvml\w+)` \|", section("Sensor"), re.MULTILINE))
    assert set(rows) == set(re.findall(r'"(hardware[\w.]+)": nvml', sources[0]))
    for function in rows.values():
        assert f'"{function}"' in sources[1]


def test_the_figures_of_the_memory_rules_are_the_code_s() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    import inspect

    from routerd_cuda.staging import Staging

    defaults = {name: one.default for name, one in inspect.signature(Staging).parameters.items()}
    assert (card.MOST_OF_MEMORY, "nine tenths" in PAGE) == (0.9, True)
    assert {4: "four"}[defaults["slots"]] + f" page-locked buffers of {defaults['slot_bytes'] >> 20} MiB" in PAGE


def test_its_policy_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "policy.yaml"
    path.write_text(example, encoding="utf-8")
    vocabulary = Vocabulary(frozenset(), frozenset(), frozenset(), frozenset(), frozenset(DEVICE_KINDS))
    assert load_policy([path], vocabulary, load_flags({})).warnings == ()


def test_every_file_and_module_that_it_names_exists() -> None:
    for name in re.findall(r"\b(tests/[\w/.]*\w)", PAGE):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (benchmarks\.\w+)", PAGE):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DIRECTORY / link).resolve().exists(), link
    for anchor in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert f"\n## {anchor.replace('-', ' ').capitalize()}\n" in PAGE
