"""Plugins, loaded once at start: each one alone, whole or not at all, and reported either way.

The only user of pluggy beside :mod:`routerd.hookspecs`. Nothing numeric is imported here; a backend's factory is
imported by :mod:`routerd.backends`, which only workers use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from routerd import hookspecs
from routerd.backends import describe
from routerd.errors import ConfigurationError, PluginError, UnknownBackend, suggest
from routerd.interfaces import (
    CONTRACT_BACKEND,
    DEVICE_KINDS,
    BackendSpec,
    Bus,
    Placement,
    Sensor,
    Workload,
)
from routerd.workloads import builtin_workloads

if TYPE_CHECKING:
    from routerd.settings import Settings

GROUP = "routerd"

#: The plugin that holds the contract. It loads first, whatever the allow-list says, and cannot be denied.
CONTRACT_PLUGIN = CONTRACT_BACKEND.partition(".")[0]

#: What each hook collects: its name, and what an object needs to be one (a class, or methods beside ``name``).
_KINDS: dict[str, tuple[str, type | tuple[str, ...]]] = {
    "routerd_backends": ("BackendSpec", BackendSpec),
    "routerd_placements": ("Placement", ("probe", "apply")),
    "routerd_buses": ("Bus", ("probe",)),
    "routerd_sensors": ("Sensor", ("read",)),
    "routerd_workloads": ("Workload", Workload),
}
_HOOKS = tuple(_KINDS)

_DOTTED_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginReport:
    """What became of one plugin. ``reason`` says why it is not loaded; ``backends`` names what it brought."""

    name: str
    state: Literal["loaded", "failed", "denied"]
    version: str = ""
    distribution: str = ""
    reason: str = ""
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRegistry:
    """Everything that the loaded plugins announced, and a report on every plugin found.

    ``workload_modules`` are the plugins that add to the built-in workloads; a worker imports them for their kernels.
    """

    backends: tuple[BackendSpec, ...]
    backend_plugin: Mapping[str, str]
    placements: tuple[Placement, ...]
    buses: tuple[Bus, ...]
    sensors: tuple[Sensor, ...]
    workloads: tuple[Workload, ...]
    reports: tuple[PluginReport, ...]
    workload_modules: tuple[str, ...] = ()

    def backend(self, name: str) -> BackendSpec:
        """The backend of that name. Raises ``UnknownBackend`` with the nearest spelling."""
        for spec in self.backends:
            if spec.name == name:
                return spec
        known = [spec.name for spec in self.backends]
        raise UnknownBackend(
            f"no plugin offers the backend {name}{suggest(name, known)}; loaded are {', '.join(known) or 'none'}",
            backend=name,
        )


@dataclass(slots=True)
class _Collection:
    """Objects by hook and name, in the order in which they were announced, and who announced them."""

    objects: dict[str, dict[str, Any]] = field(default_factory=lambda: {hook: {} for hook in _HOOKS})
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    workload_modules: list[str] = field(default_factory=list)

    def add(self, plugin: str, announced: Mapping[str, Sequence[Any]]) -> None:
        """Take all that a plugin announced, or nothing: raises ``PluginError`` where a name is taken."""
        fresh: dict[tuple[str, str], Any] = {}
        for hook, objects in announced.items():
            for item in objects:
                key = (hook, item.name)
                if key in fresh:
                    raise PluginError(f"{hook} announces {item.name} twice")
                if key in self.owners:
                    raise PluginError(f"{hook}: {item.name} is already announced by {self.owners[key]}; rename it")
                fresh[key] = item
        for (hook, name), item in fresh.items():
            self.objects[hook][name] = item
            self.owners[hook, name] = plugin

    def of(self, hook: str) -> tuple[Any, ...]:
        return tuple(self.objects[hook].values())


def load_plugins(settings: Settings, *, entry_points: Iterable[metadata.EntryPoint] | None = None) -> PluginRegistry:
    """Load every plugin that ``settings`` allow, ordered by name with the contract's plugin first.

    A plugin that cannot be imported, breaks a hook or announces something invalid contributes nothing and is reported
    as failed with its reason; the others are not affected. A plugin that ``plugins_deny`` names, or that
    ``plugins_allow`` leaves out, is never imported. Raises ``ConfigurationError`` where ``plugins_deny`` names the
    contract's plugin.
    """
    if CONTRACT_PLUGIN in settings.plugins_deny:
        raise ConfigurationError(
            f"plugins_deny names {CONTRACT_PLUGIN}, whose {CONTRACT_BACKEND} is what every other backend is proved "
            f"against; remove it from the list (a policy can keep tasks off it)"
        )
    found = _in_order(metadata.entry_points(group=GROUP) if entry_points is None else entry_points)
    collection = _Collection()
    collection.add("routerd itself", {"routerd_workloads": builtin_workloads()})
    reports: dict[str, PluginReport] = {}
    surplus: list[PluginReport] = []
    for entry_point in found:
        if entry_point.name in reports:
            first = reports[entry_point.name].distribution or "another distribution"
            surplus.append(
                _report(
                    entry_point, "failed", f"{first} already provides a plugin named {entry_point.name}; uninstall one"
                )
            )
        else:
            reports[entry_point.name] = _load(entry_point, settings, collection)
    for name in settings.plugins_allow or ():
        if name not in reports:
            reason = f"plugins_allow names it, but it is not installed{suggest(name, reports)}"
            surplus.append(PluginReport(name=name, state="failed", reason=reason))
    backends = collection.of("routerd_backends")
    return PluginRegistry(
        backends=backends,
        backend_plugin=MappingProxyType(
            {spec.name: collection.owners["routerd_backends", spec.name] for spec in backends}
        ),
        placements=collection.of("routerd_placements"),
        buses=collection.of("routerd_buses"),
        sensors=collection.of("routerd_sensors"),
        workloads=tuple(sorted(collection.of("routerd_workloads"), key=lambda workload: workload.name)),
        reports=(*reports.values(), *surplus),
        workload_modules=tuple(collection.workload_modules),
    )


def _in_order(entry_points: Iterable[metadata.EntryPoint]) -> list[metadata.EntryPoint]:
    """By name, the contract's first; where two distributions use one name, routerd's own comes first."""

    def rank(entry_point: metadata.EntryPoint) -> tuple[bool, str, bool, str]:
        distribution = entry_point.dist.name if entry_point.dist else ""
        return (entry_point.name != CONTRACT_PLUGIN, entry_point.name, distribution != "routerd", distribution)

    return sorted(entry_points, key=rank)


def _load(entry_point: metadata.EntryPoint, settings: Settings, collection: _Collection) -> PluginReport:
    allowed = settings.plugins_allow
    if entry_point.name in settings.plugins_deny:
        return _report(entry_point, "denied", "plugins_deny names it")
    if allowed is not None and entry_point.name not in allowed and entry_point.name != CONTRACT_PLUGIN:
        return _report(entry_point, "denied", "plugins_allow does not name it")
    try:
        announced = _announced(entry_point.name, entry_point.load(), settings)
        collection.add(entry_point.name, announced)
        if announced.get("routerd_workloads"):
            collection.workload_modules.append(entry_point.module)
    except (Exception, SystemExit) as error:  # a third party's code: one broken plugin fails alone, and is reported
        return _report(entry_point, "failed", describe(error))
    backends = tuple(spec.name for spec in announced.get("routerd_backends", ()))
    return _report(entry_point, "loaded", "", backends)


def _announced(name: str, plugin: Any, settings: Settings) -> dict[str, list[Any]]:
    """What one plugin's hooks return, checked. Each plugin has a manager of its own, so a failure has one author."""
    if not isinstance(plugin, ModuleType):
        raise PluginError(f"its entry point names {_article(plugin)}; a plugin is a module")
    _check_marks(plugin)
    manager = pluggy.PluginManager("routerd")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    for hook, caller in vars(manager.hook).items():
        if not hook.startswith("_") and not caller.has_spec():
            raise PluginError(f"there is no hook {hook}{suggest(hook, _HOOKS)}; hooks are {', '.join(_HOOKS)}")
    announced: dict[str, list[Any]] = {}
    for hook in _HOOKS:
        caller = getattr(manager.hook, hook)
        implementations = caller.get_hookimpls()
        if not implementations:
            continue
        if not hasattr(plugin, hook):  # workers call it by this name
            raise PluginError(f"the function for {hook} has another name; call it {hook}")
        arguments = {"settings": settings} if "settings" in caller.spec.argnames else {}
        results = caller(**arguments)
        if len(results) != len(implementations):
            raise PluginError(f"{hook} returned None; return a list, empty where there is nothing to announce")
        announced[hook] = [item for result in results for item in _checked(hook, result)]
    if not announced:
        raise PluginError(f"it has no hook; mark at least one of {', '.join(_HOOKS)} with @hookimpl")
    return announced


def _check_marks(plugin: ModuleType) -> None:
    """A hook without its mark would be passed over in silence."""
    for hook in _HOOKS:
        function = getattr(plugin, hook, None)
        if callable(function) and not hasattr(function, "routerd_impl"):
            raise PluginError(f"{hook} is not marked; put @hookimpl (from routerd.hookspecs) above it")


def _checked(hook: str, result: Any) -> Sequence[Any]:
    """The objects a hook returned; raises ``PluginError`` for a wrong type, device kind, name, factory or option."""
    kind, needs = _KINDS[hook]
    if not isinstance(result, list | tuple):
        raise PluginError(f"{hook} returned {_article(result)}; return a list of {kind}")
    for item in result:
        if isinstance(needs, type):
            fits = isinstance(item, needs)
        else:
            fits = not isinstance(item, type) and all(callable(getattr(item, method, None)) for method in needs)
        if not fits or not isinstance(getattr(item, "name", None), str):
            wanted = "" if isinstance(needs, type) else f", which has a name and {', '.join(f'{m}()' for m in needs)}"
            raise PluginError(f"{hook} returned a list with {_article(item)} in it; return a list of {kind}{wanted}")
        if isinstance(item, BackendSpec):
            _check_spec(item)
        if isinstance(item, Workload) and not _DOTTED_NAME.fullmatch(item.name):
            raise PluginError(f"{hook}: the workload name {item.name!r} is not of the form family.operation")
    return result


def _check_spec(spec: BackendSpec) -> None:
    if not _DOTTED_NAME.fullmatch(spec.name):
        raise PluginError(
            f"the backend name {spec.name!r} is not of the form plugin.backend, such as {CONTRACT_BACKEND}"
        )
    kinds = [kind for kind in DEVICE_KINDS if kind != "in_process"]  # that one is the client's own
    if spec.device_kind not in kinds:
        raise PluginError(
            f"{spec.name}: there is no device kind {spec.device_kind!r}{suggest(str(spec.device_kind), kinds)}; "
            f"use one of {', '.join(kinds)}"
        )
    if not _FACTORY.fullmatch(spec.factory):
        raise PluginError(f"{spec.name}: the factory {spec.factory!r} is not of the form module:Class")
    if not isinstance(spec.absent, str) or "\n" in spec.absent:
        raise PluginError(f"{spec.name}: absent is {spec.absent!r}; give the reason in one line, or leave it empty")
    for option, value in spec.options.items():
        if not isinstance(value, bool | int | float | str):
            raise PluginError(
                f"{spec.name}: the option {option} is {_article(value)}; options travel to the worker, "
                f"so they are bool, int, float or str"
            )


def _article(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _report(
    entry_point: metadata.EntryPoint,
    state: Literal["loaded", "failed", "denied"],
    reason: str,
    backends: tuple[str, ...] = (),
) -> PluginReport:
    distribution = entry_point.dist
    return PluginReport(
        name=entry_point.name,
        state=state,
        version=distribution.version if distribution else "",
        distribution=distribution.name if distribution else "",
        reason=reason,
        backends=backends,
    )
