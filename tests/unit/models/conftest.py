"""A directory of models, and files to put there: good ones, and ones that would do harm."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routerd.interfaces import ModelId
from routerd.models.loading import LoadedModel, load_model

X8 = {"inputs": [{"name": "x", "shape": ["batch", 8]}]}
LAYERS = {
    "layers": [
        {"type": "linear", "name": "0"},
        {"type": "relu"},
        {"type": "layer_norm", "name": "2"},
        {"type": "linear", "name": "3"},
        {"type": "softmax"},
    ]
}


class Directory:
    """A directory of models whose permissions do not depend on the umask of whoever runs the tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o755, exist_ok=True)

    def put(self, model: str, version: int | str, file: str, content: bytes, config: Any = None) -> Path:
        place = self.root / model / str(version)
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content)
        if config is not None:
            (place / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        for path in (self.root / model, place, *place.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return place / file

    def load(self, model: str, file: str, version: int = 1, limit: int = 1 << 24) -> LoadedModel:
        return load_model(self.root, ModelId(model, version), file, f"ml.model/{model}@{version}", limit=limit)


@pytest.fixture
def models(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "models")


@pytest.fixture
def loaded(models: Directory) -> Callable[..., LoadedModel]:
    """Puts one file there and loads it."""

    def load(file: str, content: bytes, config: Any = None) -> LoadedModel:
        models.put("tried", 1, file, content, config)
        return models.load("tried", file)

    return load


@pytest.fixture(scope="session")
def network() -> Any:
    """A small network of torch, in evaluation mode."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(5)
    layers = (torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 2))
    return torch.nn.Sequential(*layers, torch.nn.Softmax(-1)).eval()


def script(module: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def exported(module: Any, *inputs: Any, dynamic: bool = True, largest: int | None = None) -> bytes:
    import torch

    batch = torch.export.Dim("batch", max=largest) if largest else torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    """Functions and constants that tests cannot import from here."""
    return SimpleNamespace(script=script, exported=exported, x8=X8, layers=LAYERS)
