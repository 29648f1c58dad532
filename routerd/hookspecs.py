"""The hooks a plugin may implement: one hook and one type for each kind of plugin.

They are called once, when the daemon starts, to collect objects; none is on the path of a request.
A plugin is a module named by an entry point of group ``routerd``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

from routerd.interfaces import BackendSpec, Bus, Placement, Sensor, Workload

if TYPE_CHECKING:
    from routerd.settings import Settings

hookspec = pluggy.HookspecMarker("routerd")
hookimpl = pluggy.HookimplMarker("routerd")


@hookspec
def routerd_backends(settings: Settings) -> Sequence[BackendSpec]:  # type: ignore[empty-body]
    """Announce compute backends.

    ::

        @hookimpl
        def routerd_backends(settings):
            return [BackendSpec(name="cpu.numpy", device_kind="cpu", precision="float64",
                                factory="routerd_cpu.numpy_backend:NumpyBackend", group="numpy")]
    """


@hookspec
def routerd_placements(settings: Settings) -> Sequence[Placement]:  # type: ignore[empty-body]
    """Announce ways to place threads on cores.

    ::

        @hookimpl
        def routerd_placements(settings):
            return [AffinityPlacement()]
    """


@hookspec
def routerd_buses(settings: Settings) -> Sequence[Bus]:  # type: ignore[empty-body]
    """Announce message transports between engines.

    ::

        @hookimpl
        def routerd_buses(settings):
            return [RingBus()]
    """


@hookspec
def routerd_sensors(settings: Settings) -> Sequence[Sensor]:  # type: ignore[empty-body]
    """Announce sources of hardware facts.

    ::

        @hookimpl
        def routerd_sensors(settings):
            return [BatterySensor()]
    """


@hookspec
def routerd_workloads() -> Sequence[Workload]:  # type: ignore[empty-body]
    """Announce workloads beside the built-in catalogue.

    ::

        @hookimpl
        def routerd_workloads():
            return [Workload(name="desk.book_value", ...)]
    """
