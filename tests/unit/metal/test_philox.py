"""Philox in Metal against NumPy's, the workloads' and the published vectors, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routerd.namespaces.numpy import NumpyNamespace
from routerd.testing.metal import HostLauncher
from routerd.workloads.randomness import key_of, philox4x32, step_normals
from routerd_metal.launching import Buffer, Shader

ENTRY = """
#include "philox.metal"

kernel void words(device const WORD* counters [[buffer(0)]], device const WORD* keys [[buffer(1)]],
                  device WORD* found [[buffer(2)]], uint index [[thread_position_in_grid]]) {
    const PhiloxWords<WORD> counter = {counters[4 * index], counters[4 * index + 1], counters[4 * index + 2],
                                       counters[4 * index + 3]};
    const PhiloxWords<WORD> given = philox(counter, keys[2 * index], keys[2 * index + 1]);
    found[4 * index] = given.x;
    found[4 * index + 1] = given.y;
    found[4 * index + 2] = given.z;
    found[4 * index + 3] = given.w;
}
"""
NORMALS = """
#include "philox.metal"

kernel void normals(device const uint* key [[buffer(0)]], device float* found [[buffer(1)]],
                    uint index [[thread_position_in_grid]], uint count [[threads_per_grid]]) {
    const float4 four = philox_normals(index + 5u, 3u, key[0], key[1]);
    for (int lane = 0; lane < 4; ++lane) found[lane * count + index] = four[lane];
}
"""
# kat_vectors of the Random123 distribution for Philox4x32-10: counter, key and result, as printed there.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def shader(folder: Path, word: str) -> Shader:
    file = folder / f"{word}_words.metal"
    file.write_text(ENTRY.replace("WORD", word))
    dtype = {"uint": "uint32", "ulong": "uint64"}[word]
    inputs = (Buffer("counters", dtype), Buffer("keys", dtype))
    return Shader(file, "words", inputs, (Buffer("found", dtype),))


def words(made: Any, counters: Any, keys: Any) -> Any:
    count = len(counters)
    launched = HostLauncher().launch(
        made, {"counters": counters, "keys": keys}, {"found": (count, 4)}, threads=count, group=64
    )
    return launched["found"]


def test_the_words_of_64_bits_are_numpys(tmp_path: Path) -> None:
    made = shader(tmp_path, "ulong")
    rng = np.random.default_rng(1)
    counters = rng.integers(2**64, size=(8, 4), dtype=np.uint64)
    keys = rng.integers(2**64, size=(8, 2), dtype=np.uint64)
    expected = []
    for counter, key in zip(counters, keys, strict=True):
        generator = np.random.Philox(key=key)
        # NumPy counts up before it draws.
        generator.state = {
            **generator.state,
            "state": {"counter": counter - np.array([1, 0, 0, 0], np.uint64), "key": key},
        }
        expected.append(generator.random_raw(4))
    assert (counters[:, 0] > 0).all()
    assert np.array_equal(words(made, counters, keys), expected)


def test_the_words_of_32_bits_are_those_of_the_workloads(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    counters = rng.integers(2**32, size=(1000, 4), dtype=np.uint64)
    key = (0x12345678, 0x9ABCDEF0)
    expected = philox4x32(tuple(counters.astype(np.int64).T), key)
    keys = np.tile(np.array(key, dtype=np.uint32), (1000, 1))
    found = words(shader(tmp_path, "uint"), counters.astype(np.uint32), keys)
    assert np.array_equal(found.T, np.array(expected, dtype=np.uint32))


def test_the_words_of_32_bits_are_the_published_ones(tmp_path: Path) -> None:
    columns = [
        [[int(word, 16) for word in text.split()] for text in column] for column in zip(*KNOWN_ANSWERS, strict=True)
    ]
    counters, keys, expected = (np.array(column, dtype=np.uint32) for column in columns)
    assert np.array_equal(words(shader(tmp_path, "uint"), counters, keys), expected)


def test_the_normal_numbers_are_those_of_the_workloads_in_single_precision(tmp_path: Path) -> None:
    file = tmp_path / "normals.metal"
    file.write_text(NORMALS)
    seed = 2**40 + 12345
    made = Shader(file, "normals", (Buffer("key", "uint32"),), (Buffer("found", "float32"),))
    found = HostLauncher().launch(
        made, {"key": np.array(key_of(seed), dtype=np.uint32)}, {"found": (4, 2000)}, threads=2000, group=128
    )["found"]
    expected = step_normals(NumpyNamespace(), seed, 5, 2005, range(3, 4)).reshape(4, 2000)
    assert np.abs(found - expected).max() < 2e-6


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("0xCD9E8D57u", "0xCD9E8D59u"),
        ("return 10;", "return 9;"),
        ("counter.z = left_high", "counter.z = right_high"),
    ],
)
def test_a_fault_in_the_text_shows(tmp_path: Path, right: str, wrong: str) -> None:
    made = shader(tmp_path, "uint")
    assert made.text.count(right) == 1
    faulty = tmp_path / "faulty.metal"
    faulty.write_text(made.text.replace(right, wrong))
    counters = np.arange(400, dtype=np.uint32).reshape(100, 4)
    keys = np.ones((100, 2), dtype=np.uint32)
    good = words(made, counters, keys)
    assert np.mean(words(replace(made, file=faulty), counters, keys) == good) < 0.01
