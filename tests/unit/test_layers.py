"""The import layers: a file imports only from its own layer or a lower one, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "routerd"

#: The first matching prefix gives a module's layer.
LAYERS: list[tuple[str, int]] = [
    ("routerd.cli", 5),
    ("routerd.client", 3),
    ("routerd.aio", 3),
    ("routerd.testing", 3),
    ("routerd.scoring", 3),
    ("routerd.simulation", 3),
    ("routerd.plugins", 3),
    ("routerd.backends", 3),
    ("routerd.outbox", 3),
    ("routerd.models", 2),
    ("routerd.model_keeper", 4),
    ("routerd.releases", 4),
    ("routerd.worker", 4),
    ("routerd.workloads", 2),
    ("routerd.namespaces", 2),
    ("routerd.policy", 2),
    ("routerd.costs", 2),
    ("routerd.routing", 2),
    ("routerd.protocol", 2),
    ("routerd.hookspecs", 2),
    ("routerd.errors", 0),
    ("routerd.descriptors", 0),
    ("routerd.types", 0),
    ("routerd.paths", 0),
    ("routerd.resources", 0),
    ("routerd.interfaces", 1),
    ("routerd.settings", 1),
    ("routerd.flags", 1),
    ("routerd.flag_table", 1),
    ("routerd.logs", 1),
    ("routerd.memory", 1),
    ("routerd.heap", 1),
    ("routerd.session", 4),
    ("routerd.ledger", 4),
    ("routerd.router", 4),
    ("routerd.execution", 4),
    ("routerd.quarantine", 4),
    ("routerd.planner", 4),
    ("routerd.device_memory", 4),
    ("routerd.hybrid", 4),
    ("routerd.team_planner", 4),
    ("routerd.team_timing", 4),
    ("routerd.facts", 4),
    ("routerd.decisions", 4),
    ("routerd.calibrator", 4),
    ("routerd.measurement", 4),
    ("routerd.table", 4),
    ("routerd.reported", 4),
    ("routerd.recorder", 4),
    ("routerd.policies", 4),
    ("routerd.vocabulary", 4),
    ("routerd.store", 4),
    ("routerd.database", 4),
    ("routerd.access", 5),
    ("routerd.instance", 5),
    ("routerd.connection", 5),
    ("routerd.methods", 5),
    ("routerd.reports", 5),
    ("routerd.server", 5),
    ("routerd.daemon", 6),
    ("routerd.start", 6),
    ("routerd.__main__", 6),
]
#: What a plugin may import of routerd.
PUBLIC = (
    "errors",
    "types",
    "interfaces",
    "settings",
    "flags",
    "logs",
    "memory",
    "workloads",
    "namespaces",
    "hookspecs",
    "testing",
)


def layer_of(module: str) -> int | None:
    for prefix, layer in LAYERS:
        if module == prefix or module.startswith(prefix + "."):
            return layer
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports at run time, function-level imports included."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_imports_only_from_its_layer_or_below(path):
    own = layer_of(module_name(path))
    assert own is not None, f"{module_name(path)} has no layer; add it to the table here and to docs/architecture.md"
    for imported in imports(path):
        layer = layer_of(imported)
        if layer is not None:
            assert layer <= own, f"{module_name(path)} (layer {own}) imports {imported} (layer {layer})"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_core_never_imports_a_plugin(path):
    assert not [name for name in imports(path) if name.startswith("routerd_")]


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=module_name)
def test_a_plugin_imports_only_public_modules_and_no_other_plugin(path):
    own = path.relative_to(ROOT / "plugins").parts[0]
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == "routerd" and rest:
            assert rest.split(".")[0] in PUBLIC, f"{own} imports {name}"
        elif root.startswith("routerd_"):
            assert root == own


def loaded_by(code: str) -> set[str]:
    """Top-level modules loaded after running ``code`` in a fresh interpreter."""
    script = f"{code}\nimport sys; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(output.stdout.split())


def test_the_daemon_loads_no_numeric_package():
    heavy = {"torch", "mlx", "coremltools", "numpy", "scipy", "array_api_compat"}
    assert not heavy & loaded_by(
        "import routerd.daemon, routerd.plugins; import routerd.workloads as w; w.builtin_workloads()"
    )


def test_the_client_needs_numpy_and_little_else():
    loaded = loaded_by("from routerd import connect")
    assert "numpy" in loaded
    assert not {"pydantic", "pydantic_settings", "structlog", "yaml", "torch", "typer", "pluggy"} & loaded
