"""Shaders with a fault in their text: the proof finds it, the pair is quarantined with the reason, and work is done elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from routerd.client import Router
from routerd.testing.examples import contract_outputs, sample
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error
from routerd_metal.fused import FUSED
from routerd_metal.launching import SHADERS
from tests.processes import DaemonProcess, install_plugin

EUROPEAN, ASIAN = "options.monte_carlo_european", "options.monte_carlo_asian"
HISTORICAL, CONFLATION = "risk.var_historical", "websocket.conflate_fanout"
WORKLOADS = {workload.name: workload for workload in builtin_workloads() if workload.name in FUSED}


class Fault(NamedTuple):
    """What is written instead of what stands in a shader, and the workloads that then are computed wrongly."""

    right: str
    wrong: str
    workloads: tuple[str, ...]


FAULTS = {
    "philox_off_by_one": Fault("return 10;", "return 9;", (EUROPEAN,)),
    "philox_wrong_shift": Fault("1.0f / 4294967296.0f", "1.0f / 2147483648.0f", (EUROPEAN,)),
    "paths_off_by_one": Fault(
        "lane < 4; ++lane) {\n        // Without", "lane < 3; ++lane) {\n        // Without", (EUROPEAN, ASIAN)
    ),
    "paths_wrong_shift": Fault("range[1] - 1u) / 4u", "range[1] - 1u) >> 3", (EUROPEAN, ASIAN)),
    "scenarios_off_by_one": Fault("uint asset = lane;", "uint asset = lane + 1u;", (HISTORICAL,)),
    "scenarios_wrong_shift": Fault("(32u - histogram_bits)", "(33u - histogram_bits)", (HISTORICAL,)),
    "conflation_off_by_one": Fault("symbol[index], index + 1u)", "symbol[index], index)", (CONFLATION,)),
    "conflation_wrong_shift": Fault("+ 1u] - first;", "+ 1u] - first >> 1;", (CONFLATION,)),
}
PAIRS = [(name, workload) for name, fault in FAULTS.items() for workload in fault.workloads]

PLUGIN = '''
from types import SimpleNamespace

from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec
from routerd.types import Device

class AlteredLauncher:
    """Runs shaders on the processor, with other words in their text."""

    def __init__(self, right, wrong):
        from routerd.testing.metal import HostLauncher

        self._host, self._right, self._wrong = HostLauncher(), right, wrong

    def launch(self, shader, inputs, outputs, *, threads, group):
        altered = SimpleNamespace(
            name=shader.name, entry=shader.entry, inputs=shader.inputs, outputs=shader.outputs, zeroed=shader.zeroed,
            text=shader.text.replace(self._right, self._wrong) if self._right else shader.text,
        )
        return self._host.launch(altered, inputs, outputs, threads=threads, group=group)

class ShaderBackend:
    """The plugin's shaders without its GPU, for the workloads that are named."""

    def __init__(self, right="", wrong="", workloads=""):
        from routerd_metal.fused import FUSED

        self._fused = {name: FUSED[name] for name in workloads.split()}
        self._launcher = AlteredLauncher(right, wrong)

    def probe(self):
        return Device(kind="cpu", name="Metal text on the processor")

    def supports(self, workload):
        return workload.name in self._fused

    def prepare(self, workload):
        pass

    def execute(self, workload, params, inputs, into):
        from routerd.interfaces import Execution
        from routerd.namespaces.execution import execute_kernel
        from routerd.namespaces.numpy import NumpyNamespace

        outputs = self._fused[workload.name].run(self._launcher, params, inputs)
        if outputs is None:
            return execute_kernel(NumpyNamespace(into), workload, params, inputs, into)
        return Execution(outputs, 0.0, 0.0)

    def close(self):
        pass

@hookimpl
def routerd_backends(settings):
    return [
        BackendSpec(name=name, device_kind="cpu", precision="float32", factory="shim_backends:ShaderBackend",
                    group="shim", options=options)
        for name, options in SPECS.items()
    ]

SPECS = {}
'''


def plugin() -> str:
    """The plugin with one backend whose shaders are as they are written and one for each fault."""
    specs: dict[str, dict[str, str]] = {"shim.metal": {"workloads": " ".join(WORKLOADS)}}
    for name, fault in FAULTS.items():
        specs[f"shim.{name}"] = {"right": fault.right, "wrong": fault.wrong, "workloads": " ".join(fault.workloads)}
    return PLUGIN.replace("SPECS = {}", f"SPECS = {specs!r}")


@pytest.fixture(scope="module")
def router(module_daemon: Callable[..., DaemonProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A client of a daemon that would use the faulty backends before any other, after all proofs."""
    folder = tmp_path_factory.mktemp("shim")
    install_plugin(folder, "shim", plugin())
    policy = folder / "policy.yaml"
    preferred = ", ".join([*(f"shim.{name}" for name in FAULTS), "shim.metal"])
    policy.write_text(
        "apiVersion: routerd/v1\nkind: Policy\nmetadata: {name: shaders}\n"
        f"rules: [{{id: shaders, prefer: [{preferred}]}}]\n"
    )
    process = module_daemon(
        environment={"PYTHONPATH": str(folder)},
        policy_paths=policy,
        plugins_allow="shim",
        calibration_run_seconds=0.005,
    ).start()
    with process.connect(name="client", table=False) as connection:
        connection.call("calibrate", {"workloads": list(WORKLOADS)})
        yield connection


def pair(router: Router, backend: str, workload: str) -> dict[str, Any]:
    state = next(one for one in router.call("backends")["backends"] if one["name"] == backend)
    return next(one for one in state["workloads"] if one["workload"] == workload)


def test_every_fault_is_in_a_text_once() -> None:
    texts = [file.read_text() for file in sorted(SHADERS.glob("*.metal"))]
    for name, fault in FAULTS.items():
        assert sum(text.count(fault.right) for text in texts) == 1, name


@pytest.mark.parametrize("workload", WORKLOADS)
def test_shaders_as_they_are_written_are_proved(router: Router, workload: str) -> None:
    proved = pair(router, "shim.metal", workload)
    assert proved["state"] == "calibrated", proved
    assert 0.0 <= proved["error"] <= WORKLOADS[workload].tolerance


@pytest.mark.parametrize(("name", "workload"), PAIRS)
def test_a_fault_is_found_by_the_proof(router: Router, name: str, workload: str) -> None:
    found = pair(router, f"shim.{name}", workload)
    assert found["state"] == "quarantined", found
    assert found["reason"].startswith(("quarantined: relative error ", "quarantined: scenario_losses: its histogram "))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_work_is_done_elsewhere_and_right(router: Router, workload: str) -> None:
    declared = WORKLOADS[workload]
    task = sample(declared, declared.work_range[0])
    result = router.run(workload, **task.task.params, **task.inputs)
    assert result.ran_on.backend == "shim.metal"
    outputs = {array.name: result[array.name] for array in declared.outputs}
    assert relative_error(declared, outputs, contract_outputs(declared, task)) <= declared.tolerance
    reasons = {one.backend: one.reason for one in result.decision.rejected}
    for name in (name for name, of in PAIRS if of == workload):
        assert reasons[f"shim.{name}"].startswith("quarantined: ")
