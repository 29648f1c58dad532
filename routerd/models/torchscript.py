"""TorchScript: a small language of its own, run by torch. Loading it takes no Python and unpickles no Python object.

What is left is what the language itself can do, and that includes two operators on files. A module that names one is
refused before torch reads it, as is any operator from outside torch.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from routerd.errors import InvalidModel, Unavailable
from routerd.interfaces import Arrays, Namespace, Params
from routerd.models.archives import Archive, opened_archive
from routerd.models.config import Config
from routerd.models.description import ArrayDescription
from routerd.models.loading import Opened, declared_inputs

#: Words that only an operator on files has; looked for anywhere, so that no way of writing it passes by.
_FILE_WORDS = re.compile(r"\b(from_file|save|load_tensor)\b")
_OPERATORS = re.compile(r"\bops\s*\.\s*(\w+)")
_OWN_OPERATORS = {"aten", "prim", "prims", "quantized"}


def open_torchscript(content: bytes, config: Config) -> Opened:
    """The module on inputs that ``config.json`` declares. Raises ``InvalidModel``."""
    with opened_archive(content, "TorchScript module") as archive:
        _check_code(archive)
    try:
        import torch
    except ImportError as error:
        raise Unavailable("torch is not installed; pip install 'routerd[torch]'") from error
    inputs = declared_inputs(config, "TorchScript")
    try:
        module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    except Exception as error:  # torch raises what it likes for a file that it cannot read
        raise InvalidModel(f"torch cannot load it: {' '.join(str(error).split())[:300]}") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return Opened(inputs, _Module(module, inputs))


def _check_code(archive: Archive) -> None:
    sources = [name for name in archive.names if name.endswith(".py")]
    if "constants.pkl" not in archive.names or not sources:
        raise InvalidModel("it is no TorchScript module; make one with torch.jit.script or torch.jit.trace")
    for name in sources:
        code = archive.text(name)
        word = _FILE_WORDS.search(code)
        if word is not None:
            raise InvalidModel(f"{name} uses {word[1]}, with which a model could read or write files")
        foreign = {found[1] for found in _OPERATORS.finditer(code)} - _OWN_OPERATORS
        if foreign:
            raise InvalidModel(f"{name} uses operators from outside torch: {', '.join(sorted(foreign))}")


class _Module:
    """The module as a kernel, with a copy of it for each device and precision."""

    def __init__(self, module: Any, inputs: Sequence[ArrayDescription]) -> None:
        self._module = module
        self._inputs = inputs
        self._placed: WeakKeyDictionary[Namespace, Any] = WeakKeyDictionary()

    def __call__(self, namespace: Any, params: Params, arrays: Arrays) -> dict[str, Any]:
        import torch

        del params
        module = self._placed.get(namespace)
        if module is None:
            module = copy.deepcopy(self._module).to(device=namespace.device, dtype=namespace.real)
            self._placed[namespace] = module
        with torch.inference_mode():
            return _named(module(*own_tensors(self._inputs, arrays)))


def own_tensors(inputs: Sequence[ArrayDescription], arrays: Arrays) -> list[Any]:
    """The inputs in order as tensors that a model may overwrite: a client's memory must not change, and cannot."""
    import torch

    tensors = []
    for array in inputs:
        tensor = arrays[array.name].clone()
        tensors.append(tensor if tensor.dtype.is_floating_point else tensor.to(getattr(torch, array.dtype)))
    return tensors


def _named(result: Any) -> dict[str, Any]:
    """Outputs by name: a mapping's own, ``y`` for one tensor, ``y0``, ``y1`` … for several."""
    import torch

    if isinstance(result, torch.Tensor):
        return {"y": result}
    if isinstance(result, Mapping):
        named = {str(name): value for name, value in result.items()}
    elif isinstance(result, tuple | list):
        named = {f"y{number}": value for number, value in enumerate(result)}
    else:
        named = {"y": result}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidModel(f"its output {name} is a {type(value).__name__}; outputs must be tensors")
    return named
