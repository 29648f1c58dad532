"""Writes the synthetic world of an Apple M4 Max, from published figures: ``python -m benchmarks.make_worlds [FILE]``.

A roofline: seconds = floor + passes · dispatch + max(arithmetic, memory traffic) + conversion of inputs and outputs. Each
constant says where it comes from; those without a published source are assumptions and are called so. Nobody measured an
M4 Max for this: the world is for testing routing on such a landscape, and says nothing about how fast a Mac is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from routerd.interfaces import Workload
from routerd.simulation.world import World, WorldBackend, WorldCurve
from routerd.workloads import builtin_workloads

TARGET = Path(__file__).parents[1] / "config" / "worlds" / "m4_max_synthetic.json"

_POINTS = 25
_DIGITS = 5

SOURCE = (
    "Synthetic: no M4 Max was measured. Made by benchmarks/make_worlds.py, a roofline over published figures of the M4 Max "
    "(GPU 13.3-14.8 TFLOPS and 396 GB/s as measured by others, processor 2.85 TFLOPS float32, Neural Engine 5.7 TFLOPS on "
    "one product; smallest MLX evaluation 100-140 us, torch MPS 360-460 us, Core ML 0.33-0.38 ms, further dispatches about "
    "6 us), operations counted in routerd's kernels, and the assumptions named there."
)

#: Assumption. How much runs of one size, and tasks of one work but other shapes, vary; nobody published either.
NOISE_LOG_SIGMA, BIAS_LOG_SIGMA = 0.05, 0.05

#: What `run` may add to a kernel by routerd's own target (docs/benchmarks.md, run_overhead). Not measured on a Mac.
OVERHEAD_SECONDS = 40e-6

#: Assumption. The rate at which one core converts between float64 and a narrower type: copying, at a core's bandwidth.
CONVERSION_BYTES_PER_SECOND = 100e9


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One backend: bytes of a number; seconds of the smallest call and of each further pass; operations, products and bytes
    a second."""

    name: str
    device_kind: str
    precision: Literal["float64", "float32", "float16"]
    floor_seconds: float
    pass_seconds: float
    operations_per_second: float
    products_per_second: float
    bytes_per_second: float

    @property
    def item_bytes(self) -> int:
        return {"float64": 8, "float32": 4, "float16": 2}[self.precision]


ENGINES = (
    Engine(
        name="cpu.numpy",
        device_kind="cpu",
        precision="float64",
        floor_seconds=5e-6,  # assumption: reading the arguments and entering the kernel
        pass_seconds=0.7e-6,  # one NumPy call on a small array, timed on a Linux server; an assumption for this core
        operations_per_second=3.5e9,  # one core running the catalogue in NumPy, on the same server; likewise
        products_per_second=1.4e12,  # assumption: half of 2.85 TFLOPS float32 (published), for numbers twice as wide
        bytes_per_second=100e9,  # assumption: what one core draws
    ),
    Engine(
        name="cpu.torch",
        device_kind="cpu",
        precision="float32",
        floor_seconds=10e-6,  # assumption
        pass_seconds=3e-6,  # assumption: one torch operator
        operations_per_second=40e9,  # assumption: 12 performance cores at half of the ideal, float32
        products_per_second=2.85e12,  # published: processor, float32
        bytes_per_second=396e9,  # published: memory, measured from 546 nominal
    ),
    Engine(
        name="metal.mlx",
        device_kind="metal_gpu",
        precision="float32",
        floor_seconds=120e-6,  # published: smallest operation and evaluation, 100 to 140 us
        pass_seconds=6e-6,  # published: each further dispatch in one command buffer
        operations_per_second=14e12,  # published: 13.3 to 14.8 TFLOPS measured
        products_per_second=14e12,
        bytes_per_second=396e9,
    ),
    Engine(
        name="metal.torch",
        device_kind="metal_gpu",
        precision="float32",
        floor_seconds=410e-6,  # published: MPS operation and synchronisation, 360 to 460 us
        pass_seconds=6e-6,
        operations_per_second=14e12,
        products_per_second=14e12,
        bytes_per_second=396e9,
    ),
    Engine(
        name="ane.coreml",
        device_kind="neural_engine",
        precision="float16",
        floor_seconds=355e-6,  # published: prediction of a tiny head, 0.33 to 0.38 ms
        pass_seconds=0.0,  # one program is one dispatch
        operations_per_second=5.7e12,
        products_per_second=5.7e12,  # published: a single 2048 x 2048 product; 18.6 is for graphs deeper than any here
        bytes_per_second=396e9,
    ),
)


@dataclass(frozen=True)
class Arithmetic:
    """What a kernel does for ``work``: array operations (a transcendental counts as six), flops of matrix products, bytes
    of float64 that passes read and write, bytes of inputs and outputs, and passes (array calls, one block long).

    Counted by running the catalogue's kernels on arrays that count. The first four are per unit of ``work**growth``, passes
    per ``work**passes_growth``, and products always per unit of work.
    """

    operations: float
    product_flops: float
    traffic_bytes: float
    transfer_bytes: float
    passes: float
    growth: float = 1.0
    passes_growth: float = 0.0


ARITHMETIC = {
    "analytics.performance": Arithmetic(31, 0, 488, 8, 114),
    "collateral.haircut": Arithmetic(18, 0, 130, 40, 10),  # two of the operations add by group, which counts as six
    "collateral.margin_sba": Arithmetic(25, 1.05, 470, 25, 37, 0.7, 0.13),  # products of ever larger buckets
    "execution.almgren_chriss": Arithmetic(46, 0, 331, 17, 64),
    "execution.pretrade": Arithmetic(48, 0, 580, 41, 77),
    "factor.risk_decompose": Arithmetic(14, 0.8, 182, 28, 36, 0.7),  # exposures are read once, products grow faster
    "features.rolling": Arithmetic(110, 550, 1233, 50, 85),
    "indicators.atr": Arithmetic(3.4, 36, 104, 32, 17),
    "indicators.bbands": Arithmetic(51, 0, 859, 32, 41),
    "indicators.ema": Arithmetic(1.3, 36, 47, 16, 12),
    "indicators.macd": Arithmetic(6, 108, 200, 32, 46),
    "indicators.rsi": Arithmetic(12, 72, 176, 16, 37),
    "indicators.sma": Arithmetic(11, 0, 137, 16, 6),
    "linalg.gemm": Arithmetic(0, 1, 15, 15, 1, 2 / 3),  # three square matrices of side (work/2)^(1/3)
    "marketdata.ohlcv_bars": Arithmetic(60, 0, 185, 40, 26),  # one of the operations sorts
    "microstructure.vpin": Arithmetic(94, 0, 1488, 17, 96),
    "ml.mlp_inference": Arithmetic(0.03, 1, 0.38, 0.02, 20),
    "ml.model": Arithmetic(0.19, 1, 1.86, 0.05, 20),
    "options.monte_carlo_asian": Arithmetic(57, 41, 753, 0, 568),
    "options.monte_carlo_european": Arithmetic(61, 0, 803, 0, 134),
    "portfolio.markowitz": Arithmetic(
        1500, 0, 8000, 16, 400
    ),  # not counted (it calls itself); only one backend runs it
    "portfolio.qubo_cardinality": Arithmetic(0.76, 0, 12, 0.1, 1.77, 1.2, 0.5),  # sweeps follow one another
    "risk.greeks_batch": Arithmetic(236, 0, 3186, 88, 155),
    "risk.var_amplitude_estimation": Arithmetic(3.4, 0, 48, 3.7, 35),
    "risk.var_historical": Arithmetic(0.3, 1.4, 6.2, 5.5, 11),  # sorting the scenarios counts six a row
    "risk.var_monte_carlo": Arithmetic(50, 60, 700, 0.1, 129),
    "strategy.backtest_sma_sweep": Arithmetic(63, 0, 870, 8, 121),
    "toraniko.factor_returns": Arithmetic(0.14, 1.7, 2.7, 0.35, 26),
    "websocket.conflate_fanout": Arithmetic(45, 0, 126, 20, 17),  # it sorts and adds by group
}


def seconds(engine: Engine, arithmetic: Arithmetic, work: float) -> float:
    """Service time by the roofline."""
    amount = work**arithmetic.growth
    narrowing = engine.item_bytes / 8
    passes = arithmetic.passes * work**arithmetic.passes_growth
    computing = (
        amount * arithmetic.operations / engine.operations_per_second
        + work * arithmetic.product_flops / engine.products_per_second
    )
    moving = amount * arithmetic.traffic_bytes * narrowing / engine.bytes_per_second
    converting = amount * arithmetic.transfer_bytes / CONVERSION_BYTES_PER_SECOND if narrowing < 1 else 0.0
    return engine.floor_seconds + passes * engine.pass_seconds + max(computing, moving) + converting


def runs_on(engine: Engine, workload: Workload) -> bool:
    """Whether the backend can run the workload, by what that needs. The Neural Engine multiplies matrices only."""
    if workload.cpu_only or "float64" in workload.needs:
        return engine.precision == "float64"
    if engine.device_kind == "neural_engine":
        return workload.matmul_bound and workload.family in ("linalg", "ml")
    return True


def m4_max() -> World:
    """The world itself."""
    curves = []
    for workload in builtin_workloads():
        low, high = workload.work_range
        works = [_rounded(low * (high / low) ** (step / (_POINTS - 1))) for step in range(_POINTS)]
        for engine in ENGINES:
            if runs_on(engine, workload):
                arithmetic = ARITHMETIC[workload.name]
                points = tuple((work, _rounded(seconds(engine, arithmetic, work))) for work in works)
                curves.append(WorldCurve(engine.name, workload.name, points))
    return World(
        name="m4_max_synthetic",
        label="synthetic",
        source=SOURCE,
        backends=tuple(
            WorldBackend(engine.name, engine.device_kind, engine.precision, OVERHEAD_SECONDS) for engine in ENGINES
        ),
        curves=tuple(curves),
        noise_log_sigma=NOISE_LOG_SIGMA,
        bias_log_sigma=BIAS_LOG_SIGMA,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    m4_max().save(target)
    print(f"wrote {target}")
