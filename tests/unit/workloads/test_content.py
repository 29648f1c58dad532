"""Whether an array is finite, in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.workloads.content import all_finite


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 499, 998, 999])
def test_one_element_is_found_wherever_it_is(dtype, bad, place):
    array = np.linspace(-3.0, 3.0, 1000, dtype=dtype)
    assert all_finite(array)
    array[place] = bad
    assert not all_finite(array)
    assert not all_finite(array.reshape(10, 100))
    assert not all_finite(array.reshape(10, 100).T)
    assert not all_finite(array[::-1])


def test_a_zero_beside_it_hides_nothing():
    array = np.zeros(64)
    array[7] = np.inf
    assert not all_finite(array)


@pytest.mark.parametrize(("dtype", "large"), [("float64", 1e300), ("float32", 3e38)])
def test_numbers_whose_sum_is_none_are_finite(dtype, large):
    array = np.full(100, large, dtype=dtype)
    assert all_finite(array)
    array[50] = np.nan
    assert not all_finite(array)


@pytest.mark.parametrize("array", [np.array(1.0), np.zeros((0, 3)), np.arange(5), np.array([True, False])])
def test_scalars_empty_arrays_and_integers_are(array):
    assert all_finite(array)


def test_a_lone_nan_is_not():
    assert not all_finite(np.array(np.nan))
