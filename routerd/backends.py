"""From a backend's announcement to the backend itself. For workers: it knows nothing of plugins or hooks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from routerd.errors import PluginError, Unavailable
from routerd.interfaces import Backend, BackendSpec

#: Modules that backends import, and the extra of routerd that installs each.
_EXTRAS = {
    "array_api_compat": "torch",
    "coremltools": "ane",
    "dwave": "annealer",
    "mlx": "metal",
    "safetensors": "models",
    "torch": "torch",
}


def create_backend(spec: BackendSpec) -> Backend:
    """Import the factory of ``spec`` and call it with its options. For workers.

    Raises ``Unavailable`` where something the backend needs is not installed or it says itself that it cannot be here,
    and ``PluginError`` where the factory is broken or gives something that is no ``Backend``.
    """
    module_name, _, class_name = spec.factory.partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module_name), class_name)
        backend = factory(**spec.options)
    except Unavailable:
        raise
    except ImportError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise PluginError(f"{spec.name}: its factory {spec.factory} names a module that does not exist") from error
        raise Unavailable(_missing(error), backend=spec.name) from error
    except Exception as error:  # a third party's code: whatever it raises is its own failure, reported under its name
        raise PluginError(f"{spec.name}: its factory {spec.factory} failed: {describe(error)}") from error
    if not isinstance(backend, Backend):
        missing = [name for name in ("probe", "supports", "prepare", "execute", "close") if not hasattr(backend, name)]
        raise PluginError(
            f"{spec.name}: its factory {spec.factory} gave a {type(backend).__name__}, which is no Backend: "
            f"it lacks {', '.join(missing)}"
        )
    return backend


def _missing(error: ImportError) -> str:
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not module:
        return f"cannot import {module or 'a library'}: {describe(error)}"
    if module in _EXTRAS:
        return f"{module} is not installed; pip install 'routerd[{_EXTRAS[module]}]'"
    return f"{module} is not installed; install it where routerd runs"


def describe(error: BaseException) -> str:
    """One line: reasons are shown in tables."""
    text = " ".join(str(error).split())
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
