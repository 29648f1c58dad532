"""Grounds of decisions made up of random curves, devices and preferences."""

from __future__ import annotations

import math
import random

import pytest

from routerd.costs.choice import Preference
from routerd.costs.curve import curve_through
from routerd.routing.ground import NO_WORKER, Ground, Offer

KINDS = ("cpu", "metal_gpu", "neural_engine", "cuda_gpu")


def random_curve(random_: random.Random):
    launch, rate, power = 10 ** random_.uniform(-6, -3), 10 ** random_.uniform(-10, -8), random_.uniform(0.8, 1.1)
    works = sorted(10 ** random_.uniform(2, 9) for _ in range(random_.randint(1, 8)))
    seconds = [(launch + rate * work**power) * math.exp(random_.gauss(0.0, 0.05)) for work in works]
    return curve_through(works, seconds, [random_.uniform(0.0, 0.2) for _ in works])


def random_ground(seed: int) -> Ground:
    random_ = random.Random(seed)
    offers = [
        Offer(f"{kind}.{number}", kind, random_curve(random_), 10 ** random_.uniform(-5, -3.5), 1e-7, number)
        for number, kind in enumerate(random_.choices(KINDS, k=random_.randint(1, 4)))
    ]
    if random_.random() < 0.5:
        offers.append(
            Offer("in_process.numpy", "in_process", offers[0].curve, 1.5e-5, 0.0, NO_WORKER, 0.0, 2e-4)
        )  # fmt: skip
    weights = random_.choice([{"latency": 1.0}, {"throughput": 1.0}, {"latency": 0.3, "energy": 0.7}])
    preference = Preference(
        prefer=random_.choice([(), ("metal_gpu", "cpu"), ("neural_engine",)]),
        unless_slower_than=random_.choice([None, 1.25, 2.0]),
        objective=weights,
        priorities={kind: random_.choice(["HIGH", "MEDIUM", "LOW"]) for kind in ("metal_gpu", "neural_engine")},
        watts=random_.choice([{}, {kind: random_.uniform(1.0, 60.0) for kind in (*KINDS, "in_process")}]),
    )
    return Ground("linalg.gemm", 1e-5, tuple(offers), (), offers[0], preference, "rule (file:1)", "digest", 7)


@pytest.fixture
def make_ground():
    return random_ground
