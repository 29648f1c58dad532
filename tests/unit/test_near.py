"""The comparison of arrays that other tests rely on agrees with ``pytest.approx``."""

from __future__ import annotations

import numpy as np
import pytest

from tests.near import near

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("nan_ok", [False, True])
@pytest.mark.parametrize(("rel", "abs_"), [(1e-6, 1e-12), (1e-3, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_it_means_what_approx_means(rel: float, abs_: float, nan_ok: bool) -> None:
    values = [0.0, -0.0, 1.0, 1.0 + 1e-7, 1.0 + 1e-5, 1.0005, 1.4, -1.0, 1e-13, 1e300, INF, -INF, NAN]
    for expected in values:
        for found in values:
            wanted = np.array([found, 1.0]) == pytest.approx(
                np.array([expected, 1.0]), rel=rel, abs=abs_, nan_ok=nan_ok
            )
            given = np.array([found, 1.0]) == near(np.array([expected, 1.0]), rel=rel, abs=abs_, nan_ok=nan_ok)
            assert given is wanted, (found, expected)


def test_another_shape_is_another_array() -> None:
    assert np.ones((2, 1)) != near(np.ones(2))
    assert np.ones(2) != near(1.0)
    assert near([1.0, 2.0]) == [1.0, 2.0]


def test_a_difference_is_told_with_its_place() -> None:
    with pytest.raises(AssertionError, match=r"1 of 4 elements are not; the first: .*5\.0\)? at \(1, 0\), expected"):
        assert np.array([[1.0, 2.0], [5.0, 4.0]]) == near([[1.0, 2.0], [3.0, 4.0]])
