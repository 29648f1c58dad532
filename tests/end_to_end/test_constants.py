"""Constants: shared memory that nobody can change, sent by reference however small, and given back in the end."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import sys

import numpy as np
import pytest

from routerd.aio import connect
from routerd.errors import InvalidArray

GEMM = "linalg.gemm"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux seals memory")


def test_a_constant_is_an_array_like_another_but_for_writing(router):
    rng = np.random.default_rng(5)
    weights, left = rng.normal(size=(200, 60)), rng.normal(size=(40, 200))
    constant = router.constant(weights)
    np.testing.assert_array_equal(constant, weights)
    assert constant.dtype == weights.dtype
    with pytest.raises(ValueError, match="read-only"):
        constant[0, 0] = 1.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        constant.flags.writeable = True
    for right in (constant, constant[:, :30], constant[100:], constant.T[:, :200]):
        given = left[:, : len(right)] if right.shape[0] == 200 else left[:, 100:]
        if right.shape[0] == 60:
            given = rng.normal(size=(3, 60))
        result = router.run(GEMM, a=given, b=right, tolerance=0.0)["c"]
        np.testing.assert_allclose(result, given @ right, rtol=1e-12)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("shape", [(300, 200), (2, 200)])  # by size one travels by reference anyway
def test_it_travels_without_a_copy(daemon, router, shape):
    constant = router.constant(np.ones(shape))
    before = daemon.segments(daemon.pid).descriptors
    left = np.ones((1, shape[0]))
    assert (router.run(GEMM, a=left, b=constant, tolerance=0.0)["c"] == shape[0]).all()
    assert daemon.segments(daemon.pid).descriptors == before
    ref = router._link.segments.locate("b", constant)
    assert ref.segment is not None
    assert router._link.segments.locate("b", constant[1:]).offset == 200 * 8


@ON_LINUX
def test_nobody_can_change_it_any_more(daemon, router, wire):
    raw = wire().hello()
    number = raw.ask("alloc", {"size": 4096})["result"]["segment"]
    (descriptor,) = raw.descriptors
    with mmap.mmap(descriptor, 4096):
        error = raw.error("freeze", {"segment": number})
        assert error["code"] == "bad_request"
        assert "unmap it wherever it is mapped writable" in error["message"]
    assert raw.ask("freeze", {"segment": number})["result"] == {"frozen": True}
    for attempt in (lambda: mmap.mmap(descriptor, 4096), lambda: os.pwrite(descriptor, b"x", 0)):
        with pytest.raises(PermissionError):
            attempt()
    assert raw.error("freeze", {"segment": 10**9})["code"] == "unknown_segment"
    assert router.call("ping") == {"pong": True}


@pytest.mark.usefixtures("quiet")
def test_it_is_freed_when_nobody_holds_it(daemon, router):
    def held():
        gc.collect()
        router.run(GEMM, a=np.ones((100, 90)), b=np.ones((90, 2)), tolerance=0.0)
        return [daemon.segments(pid) for pid in (os.getpid(), daemon.pid)]

    before = held()
    for _ in range(20):
        constant = router.constant(np.ones((100, 100)))
        router.run(GEMM, a=np.ones((2, 100)), b=constant, tolerance=0.0)
        del constant
    for one, two in zip(before, held(), strict=True):
        assert two.mappings <= one.mappings + 1
        assert two.descriptors <= one.descriptors + 1
        assert two.all_descriptors <= one.all_descriptors + 1


def test_asyncio(daemon):
    async def main():
        async with connect(daemon.socket, table=False) as router:
            many = await asyncio.gather(*(router.constant(np.full((20, 20), float(value))) for value in range(30)))
            results = await asyncio.gather(*(router.run(GEMM, a=np.eye(20), b=one, tolerance=0.0) for one in many))
            return [result["c"][4, 7] for result in results], [one.flags.writeable for one in many]

    assert asyncio.run(main()) == ([float(value) for value in range(30)], [False] * 30)


def test_what_cannot_be_sent_cannot_be_a_constant(router):
    for array, match in (
        (np.ma.masked_array([1.0], [True]), "masked"),
        (np.array(["x"]), "dtype"),
        (np.zeros((0, 3)), "at least one element"),
    ):
        with pytest.raises(InvalidArray, match=match):
            router.constant(array)
