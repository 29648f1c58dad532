"""Sobol points against SciPy's, in themselves, and across namespaces."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.low_discrepancy import DIMENSIONS, sobol, sobol_words

SHIFT = [int(word) for word in np.random.default_rng(0).integers(0, 2**32, DIMENSIONS)]


def test_the_points_are_those_of_scipy() -> None:
    qmc = pytest.importorskip("scipy.stats.qmc", reason="scipy is not installed")
    wanted = qmc.Sobol(DIMENSIONS, scramble=False, bits=32).random(2**13)
    words = sobol_words(NumpyNamespace(), DIMENSIONS, 0, 2**13)
    assert np.array_equal(words.T, np.rint(wanted * 2**32))


def test_high_digits_of_the_index_reach_the_points() -> None:
    qmc = pytest.importorskip("scipy.stats.qmc", reason="scipy is not installed")
    engine = qmc.Sobol(5, scramble=False, bits=32)
    engine.fast_forward(2**24 - 3)
    wanted = np.rint(engine.random(7) * 2**32)
    assert np.array_equal(sobol_words(NumpyNamespace(), 5, 2**24 - 3, 2**24 + 4).T, wanted)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 9_000), (3, 5), (4_095, 4_097), (5_000, 13_001), (8_192, 16_384)]
)
@pytest.mark.parametrize("shift", [None, SHIFT])
def test_a_range_does_not_depend_on_how_it_is_asked_for(start: int, stop: int, shift: list[int] | None) -> None:
    whole = sobol_words(NumpyNamespace(), 7, 0, 16_384, shift)
    assert np.array_equal(sobol_words(NumpyNamespace(), 7, start, stop, shift), whole[:, start:stop])


def test_namespaces_agree_on_every_bit(precise: Namespace, single: Namespace) -> None:
    wanted = sobol_words(NumpyNamespace(), 64, 100, 6_000, SHIFT)
    for namespace in (precise, single):
        assert np.array_equal(namespace.to_host(sobol_words(namespace, 64, 100, 6_000, SHIFT)), wanted)
        points = namespace.to_host(sobol(namespace, 64, 100, 6_000, SHIFT))
        assert points.shape == (5_900, 64)
        assert np.abs(points - (wanted.T + 0.5) / 2**32).max() < 1e-7


def test_points_stay_inside_the_interval(precise: Namespace, single: Namespace) -> None:
    for namespace in (precise, single):
        for word in (0, 2**32 - 1):
            (point,) = namespace.to_host(sobol(namespace, 1, 0, 1, [word]))[:, 0]
            assert 0.0 < point < 1.0 and abs(point - word / 2**32) < 1e-7


@pytest.mark.parametrize("shift", [None, SHIFT])
def test_each_cell_of_a_net_holds_one_point(shift: list[int] | None) -> None:
    words = sobol_words(NumpyNamespace(), DIMENSIONS, 0, 1_024, shift)
    for row in words:
        assert np.array_equal(np.sort(row >> 22), np.arange(1_024))
    for share in range(11):
        cells = (words[0] >> 32 - share << 10 - share) + (words[1] >> 22 + share)
        assert np.array_equal(np.sort(cells), np.arange(1_024))


def test_senseless_ranges_are_refused() -> None:
    for dimensions, start, stop in ((0, 0, 1), (DIMENSIONS + 1, 0, 1), (2, 5, 5), (2, -1, 3), (2, 0, 2**32 + 1)):
        with pytest.raises(ValueError, match="Sobol"):
            sobol(NumpyNamespace(), dimensions, start, stop)
