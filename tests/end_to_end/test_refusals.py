"""Requests that are wrong: each gets its code and a message that says what to do, and nobody else notices."""

from __future__ import annotations

import numpy as np
import pytest

from routerd import errors

pytestmark = pytest.mark.usefixtures("bystander")

MONTE_CARLO = "options.monte_carlo_european"


@pytest.fixture(params=[False, True], ids=["daemon", "table"])
def router(daemon, request):
    """A client that asks the daemon, and one that checks what it can itself: nobody shall see a difference."""
    with daemon.connect(name="test", table=request.param) as connection:
        yield connection


def refused(router, expected, words, workload=MONTE_CARLO, *, method="run", **arguments):
    """The request fails with this class and words, and the connection serves the next one."""
    with pytest.raises(expected, match=words) as caught:
        getattr(router, method)(workload, **arguments)
    assert type(caught.value) is expected
    assert router.call("ping") == {"pong": True}
    return caught.value


@pytest.mark.parametrize("method", ["run", "decide"])
class TestParameters:
    def test_an_unknown_workload_gets_the_nearest_name(self, router, option, method):
        words = r"no workload options\.monte_carlo_europan \(did you mean options\.monte_carlo_european\?\)"
        refused(router, errors.UnknownWorkload, words, "options.monte_carlo_europan", method=method, **option)

    def test_an_unknown_parameter_gets_the_nearest_name(self, router, option, method):
        words = r"no parameter volatilty \(did you mean volatility\?\)"
        refused(router, errors.UnknownParameter, words, method=method, **option, volatilty=0.2)

    def test_a_missing_parameter_is_named_and_explained(self, router, option, method):
        del option["volatility"]
        error = refused(router, errors.InvalidParameter, "needs the parameter volatility", method=method, **option)
        assert error.detail == {"parameter": "volatility"}

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"volatility": -0.2}, "volatility must be >= 0 per √year, got -0.2"),
            ({"volatility": "high"}, "volatility must be of type float, got str"),
            ({"volatility": True}, "volatility must be of type float, got bool"),
            ({"volatility": float("nan")}, "volatility must be finite, got nan"),
            ({"volatility": float("inf")}, "volatility must be finite, got inf"),
            ({"num_simulations": 0}, "num_simulations must be >= 2, got 0"),
            ({"num_simulations": 10**12}, r"must be <= 1e\+09, got 1e\+12; this is the workload's limit"),
            ({"num_simulations": 2**64 - 1}, r"must be <= 1e\+09"),
            ({"num_simulations": 1000.5}, "num_simulations must be an integer, got 1000.5"),
            ({"num_simulations": float("inf")}, "num_simulations must be an integer, got inf"),
            ({"option_type": "cal"}, r"must be one of call, put, got 'cal' \(did you mean call\?\)"),
            ({"tolerance": -1.0}, "tolerance must be >= 0"),
            ({"deadline_ms": 0}, "deadline_ms must be > 0 ms"),
            ({"priority": 11}, "priority must be <= 10"),
        ],
    )
    def test_a_value_out_of_bounds(self, router, option, method, given, words):
        refused(router, errors.InvalidParameter, words, method=method, **{**option, **given})


@pytest.mark.parametrize("length", [0, -1, 1.5, True, float("inf"), float("nan"), 2**41, "wide"])
def test_a_dimension_must_be_a_sensible_number(router, length):
    refused(router, errors.InvalidParameter, "dimension m must be an integer", "linalg.gemm", method="decide",
            m=length, k=2, n=2)  # fmt: skip


def test_an_integer_beyond_the_wire_is_refused_by_the_client(router, option):
    refused(router, errors.InvalidParameter, "num_simulations", **{**option, "num_simulations": 10**30})


def test_a_thing_that_is_no_number(router, option):
    refused(router, errors.InvalidParameter, "volatility must be a number, a string or an array, got dict",
            **{**option, "volatility": {}})  # fmt: skip


@pytest.mark.parametrize("rows", [2, 400])  # inline and in shared memory
class TestArrays:
    def test_a_missing_array(self, router, rows):
        refused(router, errors.InvalidArray, r"needs the array b \(k, n\)", "linalg.gemm", a=np.ones((rows, 3)))

    def test_an_unknown_array(self, router, rows):
        refused(router, errors.UnknownParameter, r"no input array bb \(did you mean b\?\)", "linalg.gemm",
                a=np.ones((rows, 3)), bb=np.ones((3, 2)))  # fmt: skip

    @pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
    def test_a_dtype_that_the_workload_does_not_take(self, router, rows, dtype):
        refused(router, errors.InvalidArray, f"a must be float64 or float32, got {dtype}", "linalg.gemm",
                a=np.ones((rows, 200), dtype), b=np.ones((200, 2)))  # fmt: skip

    @pytest.mark.parametrize("dtype", ["complex128", "float16", ">f8", "datetime64[s]", "U3", object])
    def test_a_dtype_that_cannot_be_sent(self, router, rows, dtype):
        refused(router, errors.InvalidArray, "a", "linalg.gemm", a=np.ones((rows, 3)).astype(dtype), b=np.ones((3, 2)))

    def test_a_wrong_number_of_axes(self, router, rows):
        refused(router, errors.InvalidArray, r"a must have shape \(m, k\), got \(\d+,\)", "linalg.gemm",
                a=np.ones(rows), b=np.ones((3, 2)))  # fmt: skip

    def test_lengths_that_do_not_agree(self, router, rows):
        refused(router, errors.InvalidArray, "b has length 4 on axis 0, expected k=30 from a", "linalg.gemm",
                a=np.ones((rows, 30)), b=np.ones((4, 2)))  # fmt: skip

    def test_an_empty_array(self, router, rows):
        refused(router, errors.InvalidArray, "a has length 0 on axis 1; it needs >= 1", "linalg.gemm",
                a=np.ones((rows, 0)), b=np.ones((0, 2)))  # fmt: skip

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_content_that_is_not_finite_is_found_and_placed(self, router, rows, bad):
        returns = np.full((rows, 20), 0.01)
        returns[1, 7] = bad
        refused(router, errors.InvalidArray, rf"returns\[1, 7\] is {bad}; only finite values are allowed",
                "analytics.performance", returns=returns)  # fmt: skip

    def test_where_it_is_allowed_nan_is_computed_on(self, router, rows):
        a = np.ones((rows, 30))
        a[0, 0] = np.nan
        product = router.run("linalg.gemm", a=a, b=np.ones((30, 2)))["c"]
        assert np.isnan(product[0]).all()
        assert (product[1:] == 30.0).all()

    def test_content_out_of_bounds(self, router, rows):
        series = {name: np.full(1000 * rows, 0.2) for name in ("spot", "strike", "volatility", "maturity", "rate")}
        series["spot"][3] = -1.0
        refused(router, errors.InvalidArray, "spot must be >= 1e-12 everywhere, its least value is -1", "risk.greeks_batch",
                **series)  # fmt: skip


def test_nothing_may_run_it(router):
    error = refused(router, errors.InvalidArray, "needs the array", "linalg.gemm", tolerance=0.0)
    assert error.detail == {"array": "a"}


def test_too_large_a_segment(router):
    limit = router.welcome.limits.max_segment_bytes
    with pytest.raises(errors.LimitExceeded, match=f"1 to {limit} bytes") as caught:
        router.empty((limit // 8 + 1,))
    assert caught.value.detail == {"limit": limit}
    assert router.call("ping") == {"pong": True}


class TestOnTheWire:
    """What the library would never send."""

    GEMM_B = {"shape": [2, 1], "dtype": "float64", "data": bytes(16)}  # noqa: RUF012

    @pytest.fixture
    def raw(self, wire):
        return wire().hello()

    def run(self, raw, code, words, a, **others):
        error = raw.error("run", {"workload": "linalg.gemm", "arrays": {"a": a, "b": self.GEMM_B}, **others})
        assert error["code"] == code, error
        assert words in error["message"]
        assert raw.ask("ping")["result"] == {"pong": True}

    def test_an_array_without_data(self, raw):
        self.run(raw, "invalid_array", "a", {"shape": [1, 2], "dtype": "float64"})

    def test_inline_data_of_the_wrong_length(self, raw):
        words = "a of shape (1, 2) needs 16 bytes, got 15"
        self.run(raw, "invalid_array", words, {"shape": [1, 2], "dtype": "float64", "data": bytes(15)})

    @pytest.mark.parametrize("data", [{"data": bytes(16)}, {"segment": "own"}])
    @pytest.mark.parametrize("dtype", ["float16", "object", "", "|V8"])
    def test_an_unknown_dtype(self, raw, dtype, data):
        if "segment" in data:
            data = {"segment": raw.ask("alloc", {"size": 4096})["result"]["segment"]}
        self.run(raw, "invalid_array", "a must be float64 or float32", {"shape": [1, 2], "dtype": dtype, **data})

    @pytest.mark.parametrize("shape", [[-1, 2], [1, -2], [2**62, 2], [0, 2], [], [1, 2, 1]])
    @pytest.mark.parametrize("data", [{"data": bytes(16)}, {"segment": "own"}])
    def test_an_impossible_shape(self, raw, shape, data):
        if "segment" in data:
            data = {"segment": raw.ask("alloc", {"size": 4096})["result"]["segment"]}
        self.run(raw, "invalid_array", "a", {"shape": shape, "dtype": "float64", **data})

    def test_the_segment_of_another_client(self, wire, raw):
        other = wire().hello()
        segment = other.ask("alloc", {"size": 4096})["result"]["segment"]
        array = {"shape": [1, 2], "dtype": "float64", "segment": segment}
        self.run(raw, "unknown_segment", f"segment {segment}, which this client does not hold", array)
        assert raw.error("free", {"segments": [segment]})["code"] == "unknown_segment"
        reply = other.ask("run", {"workload": "linalg.gemm", "arrays": {"a": array, "b": self.GEMM_B}})
        assert reply["result"]["outputs"]["c"]["data"] == bytes(8)

    @pytest.mark.parametrize("offset", [4096, 4088, -8, 4, 2**63])
    def test_an_offset_outside_the_segment(self, raw, offset):
        segment = raw.ask("alloc", {"size": 4096})["result"]["segment"]
        array = {"shape": [1, 2], "dtype": "float64", "segment": segment, "offset": offset}
        self.run(raw, "invalid_array", f"bytes {offset} to {offset + 16} of segment {segment}", array)

    def test_both_inline_and_in_a_segment(self, raw):
        segment = raw.ask("alloc", {"size": 4096})["result"]["segment"]
        array = {"shape": [1, 2], "dtype": "float64", "segment": segment, "data": bytes(16)}
        self.run(raw, "invalid_array", "comes both inline and in a segment", array)

    def test_too_many_arrays(self, raw):
        arrays = {f"a{number}": {"shape": [1], "dtype": "float64", "data": bytes(8)} for number in range(33)}
        error = raw.error("run", {"workload": "linalg.gemm", "arrays": arrays})
        assert (error["code"], error["detail"]) == ("limit_exceeded", {"limit": 32})

    @pytest.mark.parametrize("segment", [1, 2**32 + 12345, 2**63, -1])
    def test_made_up_segments_are_not_reused_or_freed(self, raw, segment):
        reply = raw.ask("run", {"workload": "linalg.gemm", "reuse": [segment], "arrays": {
            "a": {"shape": [1, 2], "dtype": "float64", "data": bytes(16)}, "b": self.GEMM_B}})  # fmt: skip
        if segment < 2**32:
            assert reply["error"]["code"] == "unknown_segment"
        else:
            assert reply["result"]["outputs"]["c"]["data"] == bytes(8)
        assert raw.ask("ping")["result"] == {"pong": True}

    @pytest.mark.parametrize("size", [0, -1, 2**63])
    def test_an_impossible_size(self, raw, size):
        assert raw.error("alloc", {"size": size})["code"] == "limit_exceeded"

    @pytest.mark.parametrize("limit", [-1, 2**62, 2**64 - 1])
    @pytest.mark.parametrize("method", ["decisions.tail", "policy.history"])
    def test_a_limit_without_sense_does_no_harm(self, raw, method, limit):
        reply = raw.ask(method, {"limit": limit})
        assert "result" in reply or reply["error"]["code"] in ("limit_exceeded", "malformed_frame")

    def test_an_unknown_decision(self, raw):
        for method in ("decisions.get", "policy.explain"):
            error = raw.error(method, {"decision_id": "0" * 20})
            assert error["code"] == "unknown_decision"
            assert "no decision 00000000000000000000 is kept" in error["message"]

    def test_a_calibration_of_what_does_not_exist(self, raw):
        error = raw.error("calibrate", {"workloads": ["linalg.gem"]})
        assert error["code"] == "unknown_workload"
        assert "did you mean linalg.gemm?" in error["message"]
