"""``--param name=value``, ``--shape name=1250x20`` and ``--input name=file.npy`` as what the daemon is asked with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray, InvalidParameter
from routerd.protocol import Ask
from routerd.types import ITEM_BYTES, ArrayRef, Scalar

if TYPE_CHECKING:
    import numpy as np

_INT64 = range(-(2**63), 2**63)
_NPY_MAGIC = b"\x93NUMPY"


def ask(workload: str, params: Sequence[str], shapes: Sequence[str], inputs: Sequence[str]) -> Ask:
    """The question of ``decide`` and ``policy.eval``: of a file only the shape and dtype matter."""
    refs = parse_shapes(shapes)
    for name, file in split_pairs("--input", inputs, "FILE.npy", taken=refs):
        array = load_array(name, Path(file), map_only=True)
        refs[name] = ArrayRef(array.shape, str(array.dtype))
    return Ask(workload, parse_params(params), refs)


def split_pairs(option: str, texts: Iterable[str], form: str, taken: Iterable[str] = ()) -> list[tuple[str, str]]:
    """``name=value`` texts as pairs. Raises ``InvalidParameter`` for another form or a name given twice."""
    pairs: dict[str, str] = {}
    known = set(taken)
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InvalidParameter(f"{option} {text}: write {option} NAME={form}", parameter=name)
        if name in pairs or name in known:
            raise InvalidParameter(f"{option} {text}: {name} is given twice", parameter=name)
        pairs[name] = value
    return list(pairs.items())


def parse_params(texts: Sequence[str]) -> dict[str, Scalar]:
    """Parameters by name, each value in the type that it looks like."""
    return {name: parse_value(value) for name, value in split_pairs("--param", texts, "VALUE")}


def parse_value(text: str) -> Scalar:
    """An int, a float, ``true``/``false``, or else the text itself; double quotes make a text of anything."""
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] == stripped[-1] == '"':
        return stripped[1:-1]
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    try:
        whole = int(stripped)
    except ValueError:
        pass
    else:
        return whole if whole in _INT64 else float(whole)  # no larger integer crosses the wire
    try:
        return float(stripped)
    except ValueError:
        return text


def parse_shapes(texts: Sequence[str]) -> dict[str, ArrayRef]:
    """Arrays without content: ``1250x20``, ``5000`` or ``64x8:float32``."""
    refs: dict[str, ArrayRef] = {}
    for name, value in split_pairs("--shape", texts, "1250x20"):
        shape, _, dtype = value.partition(":")
        if not re.fullmatch(r"[0-9]{1,18}([xX×][0-9]{1,18})*", shape):
            raise InvalidArray(f"--shape {name}={value}: write lengths joined by x, such as 1250x20", array=name)
        if dtype and dtype not in ITEM_BYTES:
            raise InvalidArray(
                f"--shape {name}={value}: no dtype {dtype}; routerd takes {', '.join(ITEM_BYTES)}", array=name
            )
        lengths = tuple(int(part) for part in re.split(r"\D", shape))
        refs[name] = ArrayRef(lengths, dtype or "float64")
    return refs


def load_arrays(texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The input arrays of ``run``."""
    pairs = split_pairs("--input", texts, "FILE.npy")
    return {name: load_array(name, Path(file)) for name, file in pairs}


def load_array(name: str, path: Path, *, map_only: bool = False) -> np.ndarray[Any, Any]:
    """An array from a ``.npy`` file; pickled objects are refused. ``map_only`` reads no content.

    Raises ``InvalidArray`` that names the option and the file.
    """
    import numpy as np

    where = f"--input {name}={path}"
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY_MAGIC))
        if start != _NPY_MAGIC:
            kind = "an .npz archive; save the one array" if start.startswith(b"PK") else "not a .npy file; write one"
            raise InvalidArray(f"{where}: {kind} with numpy.save", array=name)
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r" if map_only else None, allow_pickle=False)
    except FileNotFoundError:
        raise InvalidArray(f"{where}: no such file", array=name) from None
    except OSError as error:
        raise InvalidArray(f"{where}: cannot be read: {error.strerror or error}", array=name) from error
    except (ValueError, EOFError) as error:
        objects = any(word in str(error) for word in ("allow_pickle", "Python objects"))
        reason = "it holds Python objects, not numbers" if objects else str(error) or "the file ends early"
        raise InvalidArray(f"{where}: {reason}", array=name) from error
    native = array.dtype.newbyteorder("=")
    if str(native) not in ITEM_BYTES:
        raise InvalidArray(f"{where}: dtype {array.dtype}; routerd takes {', '.join(ITEM_BYTES)}", array=name)
    return array if array.dtype == native else array.astype(native)
