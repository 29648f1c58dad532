"""Normal numbers from words against SciPy's inverse distribution function."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.normal_quantile import normals_of_words

EDGES = [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
WORDS = np.concatenate((EDGES, np.random.default_rng(0).integers(0, 2**32, 50_000), np.arange(1_000)))


def test_the_inverse_distribution_is_exact(precise: Namespace) -> None:
    special = pytest.importorskip("scipy.special", reason="scipy is not installed")
    values = precise.to_host(normals_of_words(precise, precise.from_host(WORDS)))
    assert np.abs(values - special.ndtri((WORDS + 0.5) / 2**32)).max() < 2e-14


def test_float32_keeps_both_tails(single: Namespace) -> None:
    wanted = normals_of_words(NumpyNamespace(), WORDS)
    values = single.to_host(normals_of_words(single, single.from_host(WORDS)))
    assert np.abs(values - wanted).max() < 4e-6


def test_opposite_words_give_opposite_numbers() -> None:
    namespace = NumpyNamespace()
    assert np.array_equal(normals_of_words(namespace, WORDS), -normals_of_words(namespace, 2**32 - 1 - WORDS))
