"""``docs/models.md`` says what is true: its snippets make models that load, and it names every format, layer, key and state."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from routerd.interfaces import ModelId
from routerd.models.config import ArrayConfig, Config
from routerd.models.loading import load_model
from routerd.models.repository import FORMATS, scan
from routerd.namespaces.execution import contract_namespace, execute_kernel
from routerd.settings import Settings
from routerd.workloads.networks import Layer

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def first_column(heading: str) -> set[str]:
    section = PAGE.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}


def test_every_snippet_makes_a_version_of_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    namespace: dict[str, Any] = {}
    try:
        for snippet in SNIPPETS[1:]:  # the first one asks a daemon
            exec(snippet, namespace)
    finally:
        os.umask(before)
    found = scan(Path("models"))
    assert found.refusals == ()
    assert [file.suffix for file in found.files] == [".safetensors", ".pt2", ".pt"]
    x = np.random.default_rng(0).standard_normal((5, 8))
    expected = namespace["model"].double()(namespace["torch"].as_tensor(x)).detach().numpy()
    for file in found.files:
        loaded = load_model(Path("models"), ModelId(file.model, file.version), file.file, "ml.model/a@1", limit=1 << 20)
        workload = loaded.workload
        inputs = {workload.inputs[0].name: x}
        (result,) = execute_kernel(contract_namespace(workload), workload, {}, inputs).outputs.values()
        np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_every_format_layer_and_key_is_explained() -> None:
    assert first_column("## Formats") == set(FORMATS)
    assert first_column("### safetensors") == set(get_args(get_type_hints(Layer)["type"]))
    assert first_column("### config.json") == set(Config.__struct_fields__)
    for key in (*ArrayConfig.__struct_fields__, *Layer.__struct_fields__):
        assert f"`{key}`" in PAGE or f'"{key}"' in PAGE, key


def test_settings_and_errors_have_the_names_of_the_page() -> None:
    assert Settings.model_fields["max_model_bytes"].default == 1 << 30
    for word in (
        "models_dir",
        "ROUTERD_MODELS_DIR",
        "max_model_bytes",
        "unknown_model",
        "unavailable",
        "retry_after_seconds",
    ):
        assert word in PAGE


def test_every_state_is_explained() -> None:
    assert first_column("## The directory") == {"loading", "proving", "serving", "standby", "failed", "refused"}
