"""``--param``, ``--shape`` and ``--input`` as typed by people."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.cli import arguments
from routerd.errors import InvalidArray, InvalidParameter
from routerd.types import ArrayRef


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-3", -3),
        ("1_000", 1000),
        ("0.2", 0.2),
        ("1e6", 1e6),
        ("true", True),
        ("False", False),
        ("call", "call"),
        ('"5"', "5"),
        ("", ""),
        ("a=b", "a=b"),
        (str(2**63), float(2**63)),
        (str(-(2**63)), -(2**63)),
    ],
)
def test_a_value_has_the_type_that_it_looks_like(text, value):
    parsed = arguments.parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_parameters_are_split_at_the_first_equals_sign():
    assert arguments.parse_params(["a=1", "b=x=y"]) == {"a": 1, "b": "x=y"}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a b=1"], ["a=1", "a=2"]])
def test_a_malformed_or_repeated_parameter_is_refused(texts):
    with pytest.raises(InvalidParameter, match="--param"):
        arguments.parse_params(texts)


def test_shapes():
    refs = arguments.parse_shapes(["a=1250x20", "b=5000", "c=64X8:float32"])
    assert refs == {
        "a": ArrayRef((1250, 20), "float64"),
        "b": ArrayRef((5000,), "float64"),
        "c": ArrayRef((64, 8), "float32"),
    }


@pytest.mark.parametrize("text", ["a=", "a=3x", "a=-1x2", "a=3,4", "a=1.5", "a=3:complex64", "a=٣"])
def test_a_malformed_shape_is_refused(text):
    with pytest.raises(InvalidArray, match="--shape a="):
        arguments.parse_shapes([text])


def test_an_input_file_gives_its_array(tmp_path):
    expected = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "a.npy", expected)
    loaded = arguments.load_arrays([f"a={tmp_path / 'a.npy'}"])
    np.testing.assert_array_equal(loaded["a"], expected)


def test_foreign_byte_order_is_turned(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3.0).astype(">f8"))
    array = arguments.load_array("a", tmp_path / "a.npy")
    assert str(array.dtype) == "float64"
    np.testing.assert_array_equal(array, np.arange(3.0))


def test_decide_takes_the_shape_and_dtype_of_a_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5), dtype=np.float32))
    ask = arguments.ask("linalg.gemm", ["tolerance=1e-3"], ["b=5x6"], [f"a={tmp_path / 'a.npy'}"])
    assert ask.params == {"tolerance": 1e-3}
    assert ask.arrays == {"a": ArrayRef((4, 5), "float32"), "b": ArrayRef((5, 6), "float64")}


def test_an_array_given_by_shape_and_by_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InvalidParameter, match="a is given twice"):
        arguments.ask("linalg.gemm", [], ["a=3"], [f"a={tmp_path / 'a.npy'}"])


def _objects(path):
    np.save(path, np.array([object()]), allow_pickle=True)


def _truncated(path):
    np.save(path, np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:500])


def _archive(path):
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


@pytest.mark.parametrize("map_only", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "not a .npy file"),
        (lambda path: path.write_text("1,2,3"), "not a .npy file"),
        (_archive, ".npz archive"),
        (_objects, "Python objects"),
        (_truncated, "a.npy"),
        (lambda path: np.save(path, np.zeros(3, dtype=complex)), "dtype complex128"),
    ],
)
def test_a_file_that_holds_no_array_is_refused_by_name(tmp_path, make, message, map_only):
    path = tmp_path / "a.npy"
    make(path)
    with pytest.raises(InvalidArray, match=message) as caught:
        arguments.load_array("prices", path, map_only=map_only)
    assert f"--input prices={path}" in caught.value.message
