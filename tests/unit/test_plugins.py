"""Loading plugins: what is announced, and every way in which one plugin can fail without the others."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, metadata
from pathlib import Path

import pytest

from routerd import backends, plugins
from routerd.backends import create_backend
from routerd.errors import ConfigurationError, PluginError, Unavailable, UnknownBackend
from routerd.interfaces import BackendSpec
from routerd.plugins import PluginRegistry, PluginReport, load_plugins
from routerd.settings import Settings
from routerd.testing import NullBackend, null_backend_spec
from routerd.workloads import builtin_workloads

HEADER = """
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec, Workload
from routerd.testing import null_backend_spec
from routerd.workloads import builtin_workloads
import dataclasses
"""

GOOD = """
@hookimpl
def routerd_backends(settings):
    return [null_backend_spec("good.null")]
"""

Install = Callable[..., EntryPoint]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Writes a plugin module and gives its entry point; the modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, source: str, attribute: str = "") -> EntryPoint:
        module = f"plugin_{tmp_path.name.replace('-', '_')}_{name}"
        (tmp_path / f"{module}.py").write_text(HEADER + textwrap.dedent(source))
        return EntryPoint(name=name, value=module + (f":{attribute}" if attribute else ""), group=plugins.GROUP)

    yield write
    for module in set(sys.modules) - before:
        if module.startswith("plugin_"):
            del sys.modules[module]


def load(*entry_points: EntryPoint, **settings: object) -> PluginRegistry:
    return load_plugins(Settings(**settings), entry_points=entry_points)


def report(registry: PluginRegistry, name: str) -> PluginReport:
    (found,) = [one for one in registry.reports if one.name == name]
    return found


def test_the_installed_cpu_plugin_brings_the_contract() -> None:
    registry = load_plugins(Settings(plugins_allow=()))
    assert registry.backends[0].name == "cpu.numpy"
    assert registry.backend_plugin["cpu.numpy"] == "cpu"
    cpu = report(registry, "cpu")
    assert (cpu.state, cpu.distribution, cpu.reason) == ("loaded", "routerd", "")
    assert cpu.backends == ("cpu.numpy", "cpu.torch", "cpu.torch_bf16")


def test_the_built_in_catalogue_is_there_without_any_plugin() -> None:
    assert load().workloads == builtin_workloads()
    assert load().workload_modules == ()


def test_every_kind_of_object_is_collected(install: Install) -> None:
    entry_point = install(
        "all",
        GOOD
        + """
class Thing:
    name = "thing"
    def probe(self): ...
    def apply(self, role): ...
    def read(self): ...

@hookimpl
def routerd_placements(settings): return [Thing()]

@hookimpl
def routerd_buses(settings): return (Thing(),)

@hookimpl
def routerd_sensors(): return [Thing()]

@hookimpl
def routerd_workloads(): return [dataclasses.replace(builtin_workloads()[0], name="aaa.mine")]
""",
    )
    registry = load(entry_point)
    assert report(registry, "all").reason == ""
    assert [spec.name for spec in registry.backends] == ["good.null"]
    assert [thing.name for thing in (*registry.placements, *registry.buses, *registry.sensors)] == ["thing"] * 3
    assert registry.workloads[0].name == "aaa.mine"
    assert len(registry.workloads) == len(builtin_workloads()) + 1
    assert registry.workload_modules == (entry_point.module,)


def test_hooks_are_given_the_settings(install: Install) -> None:
    source = """
@hookimpl
def routerd_backends(settings):
    return [null_backend_spec("good.null", delay_seconds=settings.task_timeout_seconds)]
"""
    registry = load(install("good", source), task_timeout_seconds=7.0)
    assert registry.backend("good.null").options["delay_seconds"] == 7.0


BROKEN = {
    "a missing import": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "a syntax error": ("def", "SyntaxError"),
    "an exit at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "no hook": ("x = 1", "it has no hook; mark at least one of routerd_backends"),
    "a hook that raises": (
        "@hookimpl\ndef routerd_backends(settings): raise ValueError('first line\\nsecond line')",
        "ValueError: first line second line",
    ),
    "an unknown hook": (
        "@hookimpl\ndef routerd_backend(settings): return []",
        "there is no hook routerd_backend (did you mean routerd_backends?)",
    ),
    "a wrong signature": ("@hookimpl\ndef routerd_backends(config): return []", "Argument(s) {'config'}"),
    "a hook without its mark": ("def routerd_backends(settings): return []", "routerd_backends is not marked"),
    "a hook under another name": (
        "@hookimpl(specname='routerd_backends')\ndef mine(settings): return []",
        "the function for routerd_backends has another name",
    ),
    "nothing returned": ("@hookimpl\ndef routerd_sensors(settings): pass", "routerd_sensors returned None"),
    "no list": (
        "@hookimpl\ndef routerd_backends(settings): return null_backend_spec()",
        "routerd_backends returned a BackendSpec; return a list of BackendSpec",
    ),
    "a wrong object": (
        "@hookimpl\ndef routerd_backends(settings): return ['cpu.fast']",
        "routerd_backends returned a list with a str in it",
    ),
    "a class in place of an object": (
        "class Mine:\n    name = 'mine'\n    def read(self): ...\n@hookimpl\ndef routerd_sensors(settings): return [Mine]",
        "the class Mine in it; return a list of Sensor, which has a name and read()",
    ),
    "a method too few": (
        "class Mine:\n    name = 'mine'\n    def probe(self): ...\n"
        "@hookimpl\ndef routerd_placements(settings): return [Mine()]",
        "a Mine in it; return a list of Placement, which has a name and probe(), apply()",
    ),
    "an unknown device kind": (
        "@hookimpl\ndef routerd_backends(settings): return [null_backend_spec(device_kind='metal')]",
        "test.null: there is no device kind 'metal'",
    ),
    "the client's own device kind": (
        "@hookimpl\ndef routerd_backends(settings): return [null_backend_spec(device_kind='in_process')]",
        "there is no device kind 'in_process'",
    ),
    "a backend name without a dot": (
        "@hookimpl\ndef routerd_backends(settings): return [null_backend_spec('null')]",
        "the backend name 'null' is not of the form plugin.backend",
    ),
    "a factory without a class": (
        "@hookimpl\ndef routerd_backends(settings):\n"
        "    return [BackendSpec(name='a.b', device_kind='cpu', precision='float64', factory='module')]",
        "a.b: the factory 'module' is not of the form module:Class",
    ),
    "an option that cannot travel": (
        "@hookimpl\ndef routerd_backends(settings): return [null_backend_spec(fail=['raise'])]",
        "test.null: the option fail is a list",
    ),
    "one backend twice": (
        "@hookimpl\ndef routerd_backends(settings): return [null_backend_spec(), null_backend_spec()]",
        "routerd_backends announces test.null twice",
    ),
    "a workload of the catalogue": (
        "@hookimpl\ndef routerd_workloads(): return builtin_workloads()[:1]",
        "is already announced by routerd itself",
    ),
    "a workload name without a family": (
        "@hookimpl\ndef routerd_workloads(): return [dataclasses.replace(builtin_workloads()[0], name='mine')]",
        "the workload name 'mine' is not of the form family.operation",
    ),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_fails_alone_and_says_why(install: Install, source: str, reason: str) -> None:
    registry = load(install("broken", source), install("good", GOOD))
    broken = report(registry, "broken")
    assert broken.state == "failed"
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert broken.backends == ()
    assert report(registry, "good").state == "loaded"
    assert [spec.name for spec in registry.backends] == ["good.null"]


def test_a_plugin_that_fails_late_contributes_nothing(install: Install) -> None:
    registry = load(install("half", GOOD + "@hookimpl\ndef routerd_sensors(settings): raise OSError('no sensors')"))
    assert report(registry, "half").reason == "OSError: no sensors"
    assert registry.backends == ()


def test_an_object_is_no_plugin(install: Install) -> None:
    registry = load(install("object", "class Plugin: ...", "Plugin"))
    assert report(registry, "object").reason == "its entry point names the class Plugin; a plugin is a module"


def test_a_taken_backend_name_fails_the_later_plugin(install: Install) -> None:
    registry = load(install("zeta", GOOD), install("beta", GOOD))
    assert report(registry, "beta").backends == ("good.null",)
    assert "good.null is already announced by beta" in report(registry, "zeta").reason


def test_cpu_comes_first_whatever_the_order(install: Install) -> None:
    mine = "@hookimpl\ndef routerd_backends(settings): return [null_backend_spec('{}.null')]"
    registry = load(install("alpha", mine.format("alpha")), install("cpu", mine.format("cpu")))
    assert [spec.name for spec in registry.backends] == ["cpu.null", "alpha.null"]
    assert [one.name for one in registry.reports] == ["cpu", "alpha"]


def test_two_plugins_of_one_name_are_told_apart(install: Install) -> None:
    entry_point = install("good", GOOD)
    registry = load(entry_point, entry_point)
    first, second = registry.reports
    assert (first.state, second.state) == ("loaded", "failed")
    assert "already provides a plugin named good" in second.reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"plugins_deny": ("bad",)}, "plugins_deny names it"),
        ({"plugins_allow": ("good",)}, "plugins_allow does not name it"),
        ({"plugins_allow": ("good", "bad"), "plugins_deny": ("bad",)}, "plugins_deny names it"),
    ],
)
def test_a_denied_plugin_is_never_imported(install: Install, settings: dict[str, object], reason: str) -> None:
    entry_point = install("bad", "raise RuntimeError('imported')")
    registry = load(entry_point, install("good", GOOD), **settings)
    assert (report(registry, "bad").state, report(registry, "bad").reason) == ("denied", reason)
    assert entry_point.module not in sys.modules
    assert report(registry, "good").state == "loaded"


def test_an_allow_list_always_includes_the_contract(install: Install) -> None:
    registry = load(install("cpu", GOOD), plugins_allow=("other",))
    assert report(registry, "cpu").state == "loaded"


def test_the_contract_cannot_be_denied() -> None:
    with pytest.raises(ConfigurationError, match=r"plugins_deny names cpu, whose cpu\.numpy"):
        load(plugins_deny=("cpu",))


def test_an_allowed_plugin_that_is_not_installed_is_reported(install: Install) -> None:
    registry = load(install("metal", GOOD), plugins_allow=("metl",))
    assert report(registry, "metl").reason == "plugins_allow names it, but it is not installed (did you mean metal?)"


def test_an_unknown_backend_is_named_with_its_nearest_spelling(install: Install) -> None:
    registry = load(install("good", GOOD))
    assert registry.backend("good.null").name == "good.null"
    with pytest.raises(UnknownBackend, match=r"good\.nul \(did you mean good\.null\?\)"):
        registry.backend("good.nul")


def test_loading_imports_nothing_numeric() -> None:
    """In a process of its own, because this one has imported everything."""
    program = """
import sys
from routerd.plugins import load_plugins
from routerd.settings import Settings
registry = load_plugins(Settings())
assert [report.state for report in registry.reports if report.name == "cpu"] == ["loaded"], registry.reports
heavy = {"torch", "mlx", "coremltools", "numpy"} & sys.modules.keys()
assert not heavy, heavy
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def spec_of(factory: str, **options: object) -> BackendSpec:
    return BackendSpec(name="test.made", device_kind="cpu", precision="float64", factory=factory, options=options)


def test_a_backend_is_created_with_its_options() -> None:
    backend = create_backend(null_backend_spec(fail="unavailable"))
    assert isinstance(backend, NullBackend)
    with pytest.raises(Unavailable, match="asked to be absent"):
        backend.probe()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ModuleNotFoundError('x', name='torch')", "torch is not installed; pip install 'routerd[torch]'"),
        ("raise ModuleNotFoundError('x', name='mlx.core')", "mlx is not installed; pip install 'routerd[metal]'"),
        ("raise ModuleNotFoundError('x', name='acme')", "acme is not installed; install it where routerd runs"),
        ("raise ImportError('libacme.so: cannot open', name='acme')", "cannot import acme: ImportError: libacme.so"),
        ("from routerd.errors import Unavailable\nraise Unavailable('no such card')", "no such card"),
    ],
)
def test_a_missing_library_makes_a_backend_unavailable(install: Install, source: str, message: str) -> None:
    module = install("lazy", "class Lazy:\n    def __init__(self):\n" + textwrap.indent(source, " " * 8)).value
    with pytest.raises(Unavailable) as caught:
        create_backend(spec_of(f"{module}:Lazy"))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_module:Class", "no_such_module:Class names a module that does not exist"),
        ("routerd.types:NoSuchClass", "has no attribute 'NoSuchClass'"),
        ("routerd.types:Device", "missing"),
        ("builtins:object", "gave a object, which is no Backend: it lacks probe, supports"),
        ("builtins:print", "gave a NoneType, which is no Backend"),
    ],
)
def test_a_broken_factory_is_named(factory: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        create_backend(spec_of(factory))
    assert caught.value.message.startswith("test.made: ")
    assert message.lower() in caught.value.message.lower()


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(PluginError, match=r"unexpected keyword argument 'speed'"):
        create_backend(null_backend_spec(speed=2.0))


def test_every_extra_that_users_are_told_to_install_exists() -> None:
    extras = metadata("routerd").get_all("Provides-Extra") or []
    assert set(backends._EXTRAS.values()) <= set(extras)
