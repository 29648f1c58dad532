"""The environment flags as a table: what each one is, what it does, and where nothing can act on it, why."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from routerd.types import Scalar

FlagType = Literal["bool", "int", "priority"]

PRIORITIES: Final = ("HIGH", "MEDIUM", "LOW")

MASTERS = "Masters"
PHASE_1 = "Phase 1: kernel bypass"
PHASE_2 = "Phase 2: GPU acceleration"
PHASE_3 = "Phase 3: quantum algorithms"
PHASE_4 = "Phase 4: network"
FOUNDATION = "Foundation"
ROUTING = "Routing"
DEBUG = "Debug and monitoring"


class Flag(Struct, frozen=True, kw_only=True):
    """One flag. ``owner`` is the part that acts on it.

    ``devices``: the flag acts only where one of these device kinds was found. ``inert``: why nothing in this version
    acts on it. ``always``: why ``false`` cannot be had although ``true`` holds. ``sets``: for a master, the flags that
    are true by default while it is given as true.
    """

    name: str
    group: str
    type: FlagType = "bool"
    default: Scalar = False
    effect: str
    owner: str
    minimum: int = 0
    maximum: int = 2**53
    devices: tuple[str, ...] = ()
    inert: str = ""
    always: str = ""
    sets: tuple[str, ...] = ()

    @property
    def accepted(self) -> str:
        """What a value may be, in words."""
        if self.type == "int":
            return f"an integer from {self.minimum} to {self.maximum}"
        return "HIGH, MEDIUM or LOW" if self.type == "priority" else "true or false (also 1/0, yes/no, on/off)"


def _debug(name: str, subsystems: str, devices: tuple[str, ...] = ()) -> Flag:
    effect = f"Log {subsystems} at level debug."
    return Flag(name=name, group=DEBUG, owner="logs", effect=effect, devices=devices)


_METAL: Final = ("metal_gpu",)
_GPU: Final = ("metal_gpu", "cuda_gpu")
_NEURAL: Final = ("neural_engine",)

_NO_PRIVATE_ANE = (
    "macOS has no public interface for direct Neural Engine access; "
    "the nearest public path is Core ML, through a neural_engine plugin, and this version ships none"
)
_NO_DPDK = "DPDK has no macOS support, and routerd opens no network device: its clients are local, on a Unix socket"
_NO_SAMPLER = "this version has no annealing or quantum workload and no sampler to run one"

FLAGS: Final[tuple[Flag, ...]] = (
    # -- Masters ------------------------------------------------------------------------------------------------------
    Flag(
        name="BREAKTHROUGH_OPTIMIZATIONS",
        group=MASTERS,
        owner="flags",
        effect="True switches on the masters of all four phases.",
        sets=("KERNEL_BYPASS", "GPU_ACCELERATION", "QUANTUM_ALGORITHMS", "DPDK_NETWORK"),
    ),
    Flag(
        name="KERNEL_BYPASS",
        group=MASTERS,
        owner="flags",
        effect="True switches on the flags of phase 1.",
        sets=("NEURAL_ENGINE_DIRECT", "ANE_DEVICE_ACCESS", "REDIS_KERNEL_BYPASS", "CPU_PINNING_MANAGER"),
    ),
    Flag(
        name="GPU_ACCELERATION",
        group=MASTERS,
        default=True,
        owner="router",
        effect="False keeps metal_gpu and cuda_gpu out of routing; given as true, it switches on the flags of phase 2.",
        devices=_GPU,
        sets=("METAL_GPU_SHADERS", "ZERO_COPY_MEMORY", "GPU_MESSAGEBUS"),
    ),
    Flag(
        name="QUANTUM_ALGORITHMS",
        group=MASTERS,
        owner="flags",
        effect="True switches on the flags of phase 3.",
        sets=("QUANTUM_PORTFOLIO", "QUANTUM_RISK", "QUANTUM_PRECISION_HIGH", "NEURAL_ENGINE_QUANTUM"),
    ),
    Flag(
        name="DPDK_NETWORK",
        group=MASTERS,
        owner="flags",
        effect="True switches on the flags of phase 4.",
        sets=("ZERO_COPY_NETWORKING", "DPDK_MESSAGEBUS", "HARDWARE_PACKET_PROCESSING", "NETWORK_OPTIMIZATIONS"),
    ),
    Flag(
        name="M4_MAX_OPTIMIZED",
        group=MASTERS,
        owner="flags",
        effect="True switches on the foundation flags.",
        sets=("METAL_ACCELERATION", "NEURAL_ENGINE_ENABLED", "CPU_OPTIMIZATION", "UNIFIED_MEMORY_OPTIMIZATION"),
    ),
    # -- Phase 1 ------------------------------------------------------------------------------------------------------
    Flag(
        name="NEURAL_ENGINE_DIRECT",
        group=PHASE_1,
        owner="neural_engine plugin",
        effect="Reach the Neural Engine without a framework in between.",
        inert=_NO_PRIVATE_ANE,
    ),
    Flag(
        name="ANE_DEVICE_ACCESS",
        group=PHASE_1,
        owner="neural_engine plugin",
        effect="Open the Neural Engine as a device.",
        inert=_NO_PRIVATE_ANE,
    ),
    Flag(
        name="REDIS_KERNEL_BYPASS",
        group=PHASE_1,
        owner="bus plugin",
        effect="Carry messages between engines without the kernel and without Redis.",
        inert="this version ships no message bus plugin; Redis itself is always reached through the kernel's sockets",
    ),
    Flag(
        name="CPU_PINNING_MANAGER",
        group=PHASE_1,
        owner="placement plugin",
        effect="Place worker threads on chosen cores.",
        inert="this version ships no placement plugin; Apple Silicon offers no pinning at all, only a preference by QoS class",
    ),
    # -- Phase 2 ------------------------------------------------------------------------------------------------------
    Flag(
        name="METAL_GPU_SHADERS",
        group=PHASE_2,
        default=True,
        owner="metal plugin",
        effect="Metal shaders compute Monte Carlo prices and historical VaR on metal_gpu; false leaves that to the common kernels.",
        devices=_METAL,
    ),
    Flag(
        name="ZERO_COPY_MEMORY",
        group=PHASE_2,
        default=True,
        owner="memory",
        effect="Large arrays travel by reference to shared memory.",
        always="arrays above inline_array_bytes always travel by reference; raise that setting to send larger ones inline",
    ),
    Flag(
        name="GPU_MESSAGEBUS",
        group=PHASE_2,
        default=True,
        owner="metal plugin",
        effect="A Metal shader conflates messages for their fan-out on metal_gpu (websocket.conflate_fanout); false leaves that to "
        "the common kernel. No bus runs on the GPU: a dispatch takes over 100 µs, longer than messages should.",
        devices=_METAL,
    ),
    # -- Phase 3 ------------------------------------------------------------------------------------------------------
    Flag(
        name="QUANTUM_PORTFOLIO",
        group=PHASE_3,
        owner="annealer plugin",
        effect="Route portfolio selection to the annealer.",
        inert=_NO_SAMPLER,
    ),
    Flag(
        name="QUANTUM_RISK",
        group=PHASE_3,
        owner="annealer plugin",
        effect="Route risk problems to the annealer.",
        inert=_NO_SAMPLER,
    ),
    Flag(
        name="QUANTUM_PRECISION_HIGH",
        group=PHASE_3,
        owner="annealer plugin",
        effect="Take more reads per sample.",
        inert=_NO_SAMPLER,
    ),
    Flag(
        name="NEURAL_ENGINE_QUANTUM",
        group=PHASE_3,
        owner="neural_engine plugin",
        effect="Run annealing on the Neural Engine.",
        inert="the Neural Engine runs compiled graphs in float16, which annealing steps are not, and this version has no sampler",
    ),
    # -- Phase 4 ------------------------------------------------------------------------------------------------------
    Flag(
        name="ZERO_COPY_NETWORKING",
        group=PHASE_4,
        owner="server",
        effect="Send network packets without copies.",
        inert="routerd serves local clients only; their arrays already travel by shared memory (see ZERO_COPY_MEMORY)",
    ),
    Flag(name="DPDK_MESSAGEBUS", group=PHASE_4, owner="bus plugin", effect="Carry messages over DPDK.", inert=_NO_DPDK),
    Flag(
        name="HARDWARE_PACKET_PROCESSING",
        group=PHASE_4,
        owner="server",
        effect="Leave packet processing to the network card.",
        inert=_NO_DPDK,
    ),
    Flag(
        name="NETWORK_OPTIMIZATIONS",
        group=PHASE_4,
        owner="server",
        effect="Tune network sockets for latency.",
        inert="a Unix socket has no network path to tune, and the daemon listens on no other",
    ),
    # -- Foundation ---------------------------------------------------------------------------------------------------
    Flag(
        name="METAL_ACCELERATION",
        group=FOUNDATION,
        default=True,
        owner="router",
        effect="False keeps metal_gpu out of routing.",
        devices=_METAL,
    ),
    Flag(
        name="NEURAL_ENGINE_ENABLED",
        group=FOUNDATION,
        default=True,
        owner="router",
        effect="False keeps neural_engine out of routing.",
        devices=_NEURAL,
    ),
    Flag(
        name="CPU_OPTIMIZATION",
        group=FOUNDATION,
        default=True,
        owner="cpu plugin",
        effect="CPU backends use up to cpu_threads threads; false keeps each to one.",
    ),
    Flag(
        name="UNIFIED_MEMORY_OPTIMIZATION",
        group=FOUNDATION,
        owner="metal plugin",
        effect="metal.mlx computes on a client's pages where they lie: on inputs that need no rounding and start on a page.",
        devices=_METAL,
    ),
    # -- Routing ------------------------------------------------------------------------------------------------------
    Flag(
        name="AUTO_HARDWARE_ROUTING",
        group=ROUTING,
        default=True,
        owner="router",
        effect="Choose the hardware for each task; false sends everything to cpu.numpy.",
    ),
    Flag(
        name="HYBRID_ACCELERATION",
        group=ROUTING,
        owner="router",
        effect="Run one task on several backends at once where that is predicted quickest and no rule says split: never.",
    ),
    Flag(
        name="NEURAL_ENGINE_PRIORITY",
        group=ROUTING,
        type="priority",
        default="MEDIUM",
        owner="router",
        effect="HIGH takes neural_engine when predicted within 1.25 times the best, LOW only when 1.25 times better.",
        devices=_NEURAL,
    ),
    Flag(
        name="METAL_GPU_PRIORITY",
        group=ROUTING,
        type="priority",
        default="MEDIUM",
        owner="router",
        effect="HIGH takes metal_gpu when predicted within 1.25 times the best, LOW only when 1.25 times better.",
        devices=_METAL,
    ),
    Flag(
        name="GPU_FALLBACK_ENABLED",
        group=ROUTING,
        default=True,
        owner="router",
        effect="A task that fails on a GPU is finished elsewhere; false returns the failure.",
        devices=_GPU,
    ),
    Flag(
        name="NEURAL_ENGINE_FALLBACK",
        group=ROUTING,
        default=True,
        owner="router",
        effect="A task that fails on neural_engine is finished elsewhere; false returns the failure.",
        devices=_NEURAL,
    ),
    Flag(
        name="LARGE_DATA_THRESHOLD",
        group=ROUTING,
        type="int",
        default=1_000_000,
        owner="router",
        effect="Elements from which a task prefers the GPU until it is calibrated; policies can use it as a parameter.",
    ),
    Flag(
        name="PARALLEL_THRESHOLD",
        group=ROUTING,
        type="int",
        default=10_000,
        owner="cpu plugin",
        effect="Work below which a torch backend on the CPU uses one thread; NumPy's library decides by size itself.",
    ),
    # -- Debug and monitoring -----------------------------------------------------------------------------------------
    _debug("BREAKTHROUGH_DEBUG", "every subsystem"),
    _debug("KERNEL_DEBUG", "workers and kernels"),
    _debug("GPU_DEBUG", "the GPU backends", _GPU),
    _debug("QUANTUM_DEBUG", "the annealer", ("quantum_annealer",)),
    _debug("NETWORK_DEBUG", "the server: clients, requests, frames"),
    _debug("M4_MAX_DEBUG", "calibration and the choice of hardware"),
    _debug("METAL_DEBUG", "the Metal backends", _METAL),
    _debug("CPU_OPTIMIZATION_DEBUG", "the CPU backends"),
    Flag(
        name="PERFORMANCE_MONITORING",
        group=DEBUG,
        owner="router",
        effect="Log one line with predicted and measured times for every run.",
    ),
    Flag(
        name="HARDWARE_MONITORING",
        group=DEBUG,
        owner="sensor plugin",
        effect="Read temperature, power and utilisation of the devices.",
        inert="what plugins' sensors tell is read whenever policies or the router use it, and never otherwise: nothing to switch",
    ),
)

BY_NAME: Final[dict[str, Flag]] = {flag.name: flag for flag in FLAGS}
