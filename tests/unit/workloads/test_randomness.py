"""Philox against its published answers and a scalar implementation; normal numbers against their distribution."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.randomness import key_of, normals, philox4x32, random_words, shifts, step_normals

# Random123 1.14, tests/kat_vectors, philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def reference(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 as the paper writes it, on unsigned words split with divmod."""
    word = 2**32
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(x0 * 0xD2511F53, word)
        high1, low1 = divmod(x2 * 0xCD9E8D57, word)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % word, (k1 + 0xBB67AE85) % word
    return x0, x1, x2, x3


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_published_answers_on_integers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert reference(counter, key) == expected
    assert philox4x32(counter, key) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_published_answers_on_arrays(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...], precise: Namespace
) -> None:
    zero = precise.arange(0, 3) * 0
    words = philox4x32(tuple(zero + word for word in counter), key)  # type: ignore[arg-type]
    assert [precise.to_host(word).tolist() for word in words] == [[word] * 3 for word in expected]


def test_arrays_equal_the_reference_bit_for_bit(precise: Namespace) -> None:
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 2**32, (4, 200))
    key = (0xDEADBEEF, 0x12345678)
    words = philox4x32(tuple(precise.from_host(row) for row in counters), key)  # type: ignore[arg-type]
    expected = [reference(tuple(int(value) for value in column), key) for column in counters.T]
    assert np.array_equal(np.stack([precise.to_host(word) for word in words]).T, expected)


def test_key_takes_all_bits_of_the_seed() -> None:
    assert key_of(0x1_2345_6789_ABCD) == (0x6789ABCD, 0x12345)


def test_normals_are_box_muller_of_the_counters_words(precise: Namespace) -> None:
    # Counters on both sides of 2³² use the second counter word.
    start, count, seed = 2**32 - 2, 5, 7
    values = precise.to_host(normals(precise, seed, start, start + count)).reshape(4, count)
    for column in range(count):
        index = start + column
        words = reference((index % 2**32, index // 2**32, 0, 0), (seed, 0))
        for pair in (0, 1):
            radius = np.sqrt(-2.0 * np.log((words[2 * pair] + 0.5) / 2**32))
            angle = 2.0 * np.pi * (words[2 * pair + 1] + 0.5) / 2**32
            assert values[pair, column] == pytest.approx(radius * np.cos(angle), rel=1e-9, abs=1e-12)
            assert values[2 + pair, column] == pytest.approx(radius * np.sin(angle), rel=1e-9, abs=1e-12)


def test_normals_do_not_depend_on_how_they_are_asked_for() -> None:
    namespace = NumpyNamespace()
    whole = normals(namespace, 3, 0, 100).reshape(4, 100)
    parts = [normals(namespace, 3, start, start + 25).reshape(4, 25) for start in range(0, 100, 25)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_normals_follow_the_normal_distribution() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    values = normals(NumpyNamespace(), 11, 0, 50_000)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(values.reshape(4, -1))[np.triu_indices(4, 1)]).max() < 5 / np.sqrt(50_000)


def test_float32_normals_are_finite_and_close(single: Namespace) -> None:
    wanted = normals(NumpyNamespace(), 5, 0, 20_000)
    got = single.to_host(normals(single, 5, 0, 20_000))
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() < 5e-4  # near the unit circle's top a float32 uniform has few digits
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 5e-6


def test_shifts_are_uniform_inside_the_interval_and_apart_from_the_paths() -> None:
    values = shifts(9, 1_000)
    assert len(values) == 1_000 and all(0.0 < value < 1.0 for value in values)
    assert abs(np.mean(values) - 0.5) < 5 / np.sqrt(12 * 1_000)
    assert values[:4] == tuple((word + 0.5) / 2**32 for word in reference((0, 0, 1, 0), (9, 0)))
    assert shifts(9, 3) == values[:3] and shifts(10, 3) != values[:3]


def test_words_are_those_of_the_shift_stream_and_fewer_begin_more() -> None:
    assert random_words(9, 6) == (*reference((0, 0, 1, 0), (9, 0)), *reference((1, 0, 1, 0), (9, 0))[:2])
    assert random_words(9, 1_000)[:6] == random_words(9, 6)


def test_steps_of_a_path_have_numbers_of_their_own(precise: Namespace) -> None:
    start, count, seed = 2**32 - 2, 5, 7
    values = precise.to_host(step_normals(precise, seed, start, start + count, range(3, 6)))
    assert values.shape == (3, 4 * count)
    for row, step in enumerate(range(3, 6)):
        for column in range(count):
            words = reference(((start + column) % 2**32, (start + column) // 2**32, 0, step), (seed, 0))
            radius = np.sqrt(-2.0 * np.log((words[0] + 0.5) / 2**32))
            angle = 2.0 * np.pi * (words[1] + 0.5) / 2**32
            assert values[row, column] == pytest.approx(radius * np.cos(angle), rel=1e-9, abs=1e-12)


def test_step_0_is_what_a_path_of_one_step_has(precise: Namespace) -> None:
    steps = precise.to_host(step_normals(precise, 5, 10, 20, range(2)))
    assert np.array_equal(steps[0], precise.to_host(normals(precise, 5, 10, 20)))
    assert abs(np.corrcoef(step_normals(NumpyNamespace(), 5, 0, 10_000, range(2)))[0, 1]) < 5 / np.sqrt(40_000)
