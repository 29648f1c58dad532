from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from routerd.errors import InvalidFlag
from routerd.flag_table import FLAGS, Flag
from routerd.flags import Flags, FlagState, load_flags, why_inert

ROOT = Path(__file__).resolve().parents[2]

NAMES = [
    "BREAKTHROUGH_OPTIMIZATIONS",
    "KERNEL_BYPASS",
    "GPU_ACCELERATION",
    "QUANTUM_ALGORITHMS",
    "DPDK_NETWORK",
    "M4_MAX_OPTIMIZED",
    "NEURAL_ENGINE_DIRECT",
    "ANE_DEVICE_ACCESS",
    "REDIS_KERNEL_BYPASS",
    "CPU_PINNING_MANAGER",
    "METAL_GPU_SHADERS",
    "ZERO_COPY_MEMORY",
    "GPU_MESSAGEBUS",
    "QUANTUM_PORTFOLIO",
    "QUANTUM_RISK",
    "QUANTUM_PRECISION_HIGH",
    "NEURAL_ENGINE_QUANTUM",
    "ZERO_COPY_NETWORKING",
    "DPDK_MESSAGEBUS",
    "HARDWARE_PACKET_PROCESSING",
    "NETWORK_OPTIMIZATIONS",
    "METAL_ACCELERATION",
    "NEURAL_ENGINE_ENABLED",
    "CPU_OPTIMIZATION",
    "UNIFIED_MEMORY_OPTIMIZATION",
    "AUTO_HARDWARE_ROUTING",
    "HYBRID_ACCELERATION",
    "NEURAL_ENGINE_PRIORITY",
    "METAL_GPU_PRIORITY",
    "GPU_FALLBACK_ENABLED",
    "NEURAL_ENGINE_FALLBACK",
    "LARGE_DATA_THRESHOLD",
    "PARALLEL_THRESHOLD",
    "BREAKTHROUGH_DEBUG",
    "KERNEL_DEBUG",
    "GPU_DEBUG",
    "QUANTUM_DEBUG",
    "NETWORK_DEBUG",
    "M4_MAX_DEBUG",
    "METAL_DEBUG",
    "CPU_OPTIMIZATION_DEBUG",
    "PERFORMANCE_MONITORING",
    "HARDWARE_MONITORING",
]

EVERY_DEVICE = ("cpu", "metal_gpu", "cuda_gpu", "neural_engine", "quantum_annealer")


def state_of(flags: Flags, name: str, devices: tuple[str, ...] = ("cpu",)) -> FlagState:
    (state,) = [state for state in flags.report(devices) if state.name == name]
    return state


def test_every_flag_exists_once() -> None:
    assert sorted(flag.name for flag in FLAGS) == sorted(NAMES)


def test_what_masters_switch_on_are_flags_without_a_circle() -> None:
    flags = load_flags(dict.fromkeys(["BREAKTHROUGH_OPTIMIZATIONS", "M4_MAX_OPTIMIZED"], "true"))

    assert {name for flag in FLAGS for name in flag.sets} <= set(NAMES)
    assert all(flags[name] is True for flag in FLAGS for name in flag.sets)


def test_without_an_environment_every_flag_has_its_default_and_nobody_set_it() -> None:
    flags = load_flags({})

    assert {flag.name: flags[flag.name] for flag in FLAGS} == {flag.name: flag.default for flag in FLAGS}
    assert {flags.source(name) for name in NAMES} == {"default"}
    assert flags.as_mapping() == dict.fromkeys(NAMES)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("AUTO_HARDWARE_ROUTING", "false", False),
        ("AUTO_HARDWARE_ROUTING", "0", False),
        ("CPU_OPTIMIZATION", "Off", False),
        ("KERNEL_DEBUG", "TRUE", True),
        ("KERNEL_DEBUG", "1", True),
        ("KERNEL_DEBUG", " yes ", True),
        ("METAL_GPU_PRIORITY", "high", "HIGH"),
        ("LARGE_DATA_THRESHOLD", "5_000", 5000),
        ("PARALLEL_THRESHOLD", "0", 0),
    ],
)
def test_values_are_typed(name: str, text: str, value: object) -> None:
    flags = load_flags({name: text})

    assert flags[name] == value
    assert type(flags[name]) is type(value)
    assert flags.as_mapping()[name] == value
    assert flags.source(name) == "environment"


def test_an_empty_value_counts_as_not_given() -> None:
    assert load_flags({"LARGE_DATA_THRESHOLD": ""}).source("LARGE_DATA_THRESHOLD") == "default"


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_no_flag_takes_banana(flag: Flag) -> None:
    with pytest.raises(InvalidFlag) as caught:
        load_flags({flag.name: "banana"})

    assert caught.value.message.startswith(f"{flag.name}=banana: must be ")
    assert flag.accepted in caught.value.message


@pytest.mark.parametrize("text", ["-1", "1.5", "1e6", str(2**60)])
def test_numbers_have_bounds(text: str) -> None:
    with pytest.raises(InvalidFlag, match=r"LARGE_DATA_THRESHOLD=.*an integer from 0 to"):
        load_flags({"LARGE_DATA_THRESHOLD": text})


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(InvalidFlag) as caught:
        load_flags({"METAL_GPU_PRIORITY": "URGENT", "KERNEL_DEBUG": "2", "CPU_OPTIMIZATION": "true"})

    assert caught.value.detail["flags"] == ["METAL_GPU_PRIORITY", "KERNEL_DEBUG"]
    assert "METAL_GPU_PRIORITY=URGENT: must be HIGH, MEDIUM or LOW" in caught.value.message


def test_a_master_switches_on_its_flags_unless_they_are_given() -> None:
    flags = load_flags({"GPU_ACCELERATION": "true", "GPU_MESSAGEBUS": "false"})

    assert flags["METAL_GPU_SHADERS"] is True
    assert flags.source("METAL_GPU_SHADERS") == "implied by GPU_ACCELERATION"
    assert flags.as_mapping()["METAL_GPU_SHADERS"] is True
    assert flags["GPU_MESSAGEBUS"] is False
    assert flags.source("GPU_MESSAGEBUS") == "environment"


def test_the_top_master_reaches_all_phases_and_stops_at_a_master_that_is_given() -> None:
    flags = load_flags({"BREAKTHROUGH_OPTIMIZATIONS": "true", "QUANTUM_ALGORITHMS": "false"})

    assert flags.source("DPDK_MESSAGEBUS") == "implied by BREAKTHROUGH_OPTIMIZATIONS"
    assert flags["DPDK_MESSAGEBUS"] is True
    assert flags["QUANTUM_RISK"] is False
    assert flags.source("QUANTUM_RISK") == "default"


def test_a_master_given_as_false_leaves_the_defaults() -> None:
    flags = load_flags({"M4_MAX_OPTIMIZED": "false", "BREAKTHROUGH_OPTIMIZATIONS": "false"})

    assert flags["CPU_OPTIMIZATION"] is True
    assert flags["GPU_ACCELERATION"] is True


def test_a_name_that_is_no_flag_is_refused_with_the_nearest() -> None:
    with pytest.raises(KeyError, match="did you mean KERNEL_DEBUG"):
        load_flags({})["KERNEL_DEBUGG"]


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.devices], ids=lambda flag: flag.name)
def test_a_flag_of_a_device_acts_only_where_the_device_is(flag: Flag) -> None:
    flags = load_flags({})

    without, there = state_of(flags, flag.name), state_of(flags, flag.name, flag.devices[:1])

    assert without.state == "inert"
    assert flag.devices[0] in without.reason
    assert (there.state, there.reason) == ("active", "")


def test_a_flag_that_nothing_acts_on_says_so_on_every_machine() -> None:
    flags = load_flags({"BREAKTHROUGH_OPTIMIZATIONS": "true"})

    for name in ("ANE_DEVICE_ACCESS", "DPDK_MESSAGEBUS", "QUANTUM_RISK"):
        state = state_of(flags, name, EVERY_DEVICE)
        assert state.state == "inert"
        assert len(state.reason) > 20


def test_what_always_holds_is_active_as_true_and_says_why_it_cannot_be_false() -> None:
    assert state_of(load_flags({}), "ZERO_COPY_MEMORY").state == "active"

    state = state_of(load_flags({"ZERO_COPY_MEMORY": "false"}), "ZERO_COPY_MEMORY")

    assert (state.value, state.state) == (False, "inert")
    assert "inline_array_bytes" in state.reason


@pytest.mark.parametrize(
    ("name", "devices", "expected"),
    [
        ("KERNEL_BYPASS", EVERY_DEVICE, "inert"),
        ("M4_MAX_OPTIMIZED", ("cpu",), "active"),
        ("BREAKTHROUGH_OPTIMIZATIONS", ("cpu",), "inert"),
        ("BREAKTHROUGH_OPTIMIZATIONS", ("cpu", "metal_gpu"), "active"),
        ("GPU_ACCELERATION", ("cpu",), "inert"),
    ],
)
def test_a_master_acts_where_something_it_switches_on_acts(name: str, devices: tuple[str, ...], expected: str) -> None:
    assert state_of(load_flags({}), name, devices).state == expected


def test_every_flag_that_can_act_is_read_somewhere() -> None:
    tables = {"flag_table.py", "flags.py"}
    files = [
        path for folder in ("routerd", "plugins") for path in (ROOT / folder).rglob("*.py") if path.name not in tables
    ]
    code = "\n".join(path.read_text() for path in files)
    acting = [
        flag.name for flag in FLAGS if not flag.always and not flag.sets and not why_inert(flag, True, EVERY_DEVICE)
    ]

    assert [name for name in acting if f'"{name}"' not in code] == []


def test_the_page_is_current() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_flags.py"))
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")

    assert page == generator["render"](), "run: python docs/generate_flags.py"
    assert all(f"`{name}`" in page for name in NAMES)
