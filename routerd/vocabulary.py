"""The names that a policy may use here: what the catalogue and the loaded plugins offer."""

from __future__ import annotations

from routerd.interfaces import DEVICE_KINDS
from routerd.plugins import PluginRegistry
from routerd.policy import Vocabulary


def vocabulary_of(registry: PluginRegistry) -> Vocabulary:
    """Workloads, families, engines, backends and device kinds."""
    workloads = registry.workloads
    return Vocabulary(
        workloads=frozenset(workload.name for workload in workloads),
        families=frozenset(workload.family for workload in workloads),
        engines=frozenset(engine for workload in workloads for engine in workload.engines),
        backends=frozenset(spec.name for spec in registry.backends),
        device_kinds=frozenset(DEVICE_KINDS),
    )
