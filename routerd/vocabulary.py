"""The names that a policy may use here: workloads, backends and devices, as the loaded plugins give them."""

from __future__ import annotations

from routerd.interfaces import DEVICE_KINDS, IN_PROCESS_BACKEND
from routerd.plugins import PluginRegistry
from routerd.policy import Vocabulary


def vocabulary(registry: PluginRegistry) -> Vocabulary:
    """The names that exist with these plugins; where none announces a backend, policies may name any."""
    backends = frozenset(spec.name for spec in registry.backends)
    return Vocabulary(
        workloads=frozenset(workload.name for workload in registry.workloads),
        families=frozenset(workload.family for workload in registry.workloads),
        engines=frozenset(engine for workload in registry.workloads for engine in workload.engines),
        backends=backends | {IN_PROCESS_BACKEND} if backends else backends,
        device_kinds=frozenset(DEVICE_KINDS),
    )
