"""The fingerprint that measurements are kept under: they hold only for the same hardware, system, packages and kernels."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from routerd import __version__
from routerd.interfaces import BackendSpec, Workload
from routerd.types import Device

_CATALOGUE = Path(__file__).parent.parent / "workloads"
_MODELS = Path(__file__).parent.parent / "models"


def fingerprint(spec: BackendSpec, device: Device, code: str) -> str:
    """32 hex digits over host, device (as probed, package versions included), backend and kernel code."""
    parts: list[object] = [platform.system(), platform.release(), platform.machine(), platform.python_version()]
    parts += [__version__, spec.name, spec.precision, sorted(spec.options.items())]
    parts += [device.kind, device.name, device.memory_bytes, sorted(device.detail.items())]
    parts += [code, _digest(_factory_files(spec))]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def kernel_digest(workload: Workload) -> str:
    """A digest of what a proof of this workload is about: its own file's package, the namespaces, and its content.

    The built-in families share modules, so each counts the whole catalogue; so does a user's model, and what loads it.
    """
    own = Path(workload.kernel.__code__.co_filename).parent
    if _CATALOGUE in own.parents:
        own = _CATALOGUE
    more = (_CATALOGUE,) if own == _MODELS else ()
    return _digest_directories((own, *more, _CATALOGUE.parent / "namespaces")) + workload.content


@lru_cache(maxsize=64)
def _digest_directories(directories: tuple[Path, ...]) -> str:
    return _digest(file for directory in directories for file in sorted(directory.rglob("*.py")))


def _factory_files(spec: BackendSpec) -> list[Path]:
    found = importlib.util.find_spec(spec.factory.partition(":")[0])
    if found is None or found.origin is None:
        return []
    return sorted(Path(found.origin).parent.glob("*.py"))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
