"""The normal distribution against SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.interfaces import Namespace
from routerd.workloads.normal import density_and_distribution
from tests.near import near


def evaluate(namespace: Namespace, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    density, distribution = density_and_distribution(namespace, namespace.from_host(x))
    return namespace.to_host(density), namespace.to_host(distribution)


@pytest.mark.parametrize(("low", "high", "bound"), [(-3.0, 9.0, 2e-15), (-10.0, -3.0, 2e-14), (-36.0, -10.0, 5e-13)])
def test_distribution_is_accurate_relative_to_its_size(
    low: float, high: float, bound: float, precise: Namespace
) -> None:
    special = pytest.importorskip("scipy.special", reason="scipy is not installed")
    x = np.linspace(low, high, 20_001)
    _, distribution = evaluate(precise, x)
    assert np.abs(distribution / special.ndtr(x) - 1.0).max() < bound


def test_density(precise: Namespace) -> None:
    x = np.linspace(-8.0, 8.0, 1_001)
    density, _ = evaluate(precise, x)
    assert density == near(np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi), rel=1e-14)


def test_extremes_are_exact(precise: Namespace) -> None:
    density, distribution = evaluate(precise, np.array([-1e300, -50.0, 0.0, 50.0, 1e300]))
    assert distribution[[0, 4]].tolist() == [0.0, 1.0]
    assert distribution[2] == pytest.approx(0.5, rel=1e-15)
    assert density[[0, 1, 3, 4]].max() < 1e-300


def test_float32_is_finite_everywhere_and_accurate(single: Namespace) -> None:
    special = pytest.importorskip("scipy.special", reason="scipy is not installed")
    x = np.float32(np.linspace(-5.0, 5.0, 4_001)).astype(np.float64)
    _, distribution = evaluate(single, x)
    assert np.abs(distribution / special.ndtr(x) - 1.0).max() < 5e-6
    assert np.isfinite(evaluate(single, np.array([-1e30, -50.0, 50.0, 1e30]))).all()
