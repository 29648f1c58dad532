"""Messages of the protocol, valid and hostile, as hypothesis strategies that end in bytes.

Every message is drawn from the struct that declares it, so a field that is added is fuzzed from then on. Trees are spoiled
before they are encoded, bodies and frames after it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Raw, Struct

from routerd import protocol
from routerd.interfaces import CONTRACT_BACKEND
from routerd.protocol import HEADER
from routerd.types import ITEM_BYTES, ArrayRef
from routerd.workloads import builtin_workloads

Bytes = st.SearchStrategy[bytes]

#: The parameters of every method.
METHODS: Mapping[str, type[Struct]] = {
    "hello": protocol.Hello,
    "decide": protocol.Ask,
    "run": protocol.Run,
    "alloc": protocol.Alloc,
    "table": protocol.Locate,
    "report": protocol.Report,
    "free": protocol.Free,
    "freeze": protocol.Freeze,
    "cancel": protocol.Cancel,
    "ping": protocol.Nothing,
    "status": protocol.Nothing,
    "stats": protocol.Nothing,
    "backends": protocol.Nothing,
    "workloads": protocol.Named,
    "flags": protocol.Nothing,
    "calibrate": protocol.Calibrate,
    "calibrate.pending": protocol.Calibrate,
    "measure": protocol.MeasureTask,
    "policy.show": protocol.Nothing,
    "policy.eval": protocol.Ask,
    "policy.explain": protocol.DecisionId,
    "policy.apply": protocol.PolicyPaths,
    "policy.history": protocol.Tail,
    "decisions.tail": protocol.Tail,
    "decisions.get": protocol.DecisionId,
}

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
MAX_FRAME_BYTES = 256 << 10  # of the daemons that are fuzzed: small, so that the limit is passed often

_ODD_INTEGERS = (0, -1, 1, 2**31, 2**32 - 1, 2**32, 2**39, 2**40, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
_ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
_ODD_NAMES = (
    "",
    "\x00",
    "no.such",
    "linalg.gem",
    "ml.model/",
    "ml.model/x@9",
    "ml.model/" * 300,
    "ｎａｍｅ",
    "a\nb",
    "%s{0}",
    "x" * 5000,
)
_ODD_SHAPES = (
    (),
    (0,),
    (-1,),
    (1,) * 40,
    (2**62, 2**62),
    (2**63 - 1, 2**63 - 1, 2**63 - 1),
    (2**39, 2**39),
    (2**40,),
    (3, 0),
)

_KEYS = st.sampled_from(["a", "m", "x", "", "self", "message", "code"])

#: MessagePack that msgspec does not write, or not as it stands here.
_STRANGE = tuple(
    Raw(raw)
    for raw in (
        b"\xc1",  # never used
        b"\xa2\xff\xfe",  # a text that is not UTF-8
        b"\xa3\xed\xa0\x80",  # a surrogate in a text
        b"\xd4\x05x",  # extension types: of one byte, of time, of a length that is not there
        b"\xd6\xff\x00\x00\x00\x01",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\xff\xff\xff\xff",  # an array, a map, a text, bytes of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x02",  # a key that is no text
        b"\x81\x90\x01",
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",  # 2**64 - 1
        b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",  # -2**63
        b"\xca\x7f\xc0\x00\x00",  # NaN in 32 bits
        b"\x91" * 3000 + b"\xc0",  # nested deeply
        b"\x81\xa1x" * 3000 + b"\xc0",
    )
)

odd_integers = st.sampled_from(_ODD_INTEGERS) | st.integers(-(2**63), 2**64 - 1)
odd_floats = st.sampled_from(_ODD_FLOATS) | st.floats()
odd_names = st.sampled_from(_ODD_NAMES) | st.text(max_size=20)
hostile = st.one_of(
    st.none(),
    st.booleans(),
    odd_integers,
    odd_floats,
    odd_names,
    st.binary(max_size=20),
    st.sampled_from(_STRANGE),
    st.lists(st.integers(-2, 2**62), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-2, 2**62) | st.text(max_size=5), max_size=3),
)

_PLAIN: Mapping[type, st.SearchStrategy[Any]] = {
    int: odd_integers,
    float: odd_floats,
    bool: st.booleans(),
    str: odd_names,
    bytes: st.binary(max_size=64),
    type(None): st.none(),
}

#: What a field gets where its type alone would rarely lead anywhere, or too far: a measurement of a minute.
_FIELDS: Mapping[tuple[type, str], st.SearchStrategy[Any]] = {
    (protocol.Hello, "protocols"): st.sampled_from([(1,), (1, 2), (), (7,), (-1, 2**63)]),
    (protocol.Locate, "workload"): st.sampled_from([*WORKLOADS, *_ODD_NAMES]),
    (protocol.InProcessRuns, "workload"): st.sampled_from([*WORKLOADS, *_ODD_NAMES]),
    (protocol.Named, "name"): st.none() | st.sampled_from([*WORKLOADS, *_ODD_NAMES]),
    (protocol.MeasureTask, "workload"): st.sampled_from(["linalg.gemm", *_ODD_NAMES]),
    (protocol.MeasureTask, "work"): st.sampled_from([*_ODD_FLOATS, 1e4]),
    (protocol.MeasureTask, "backend"): st.sampled_from([CONTRACT_BACKEND, "cpu.torch", *_ODD_NAMES]),
    (protocol.MeasureTask, "budget_seconds"): st.sampled_from([1e-3, -1.0, 0.0, 61.0, float("nan"), float("inf")]),
    (protocol.Calibrate, "workloads"): st.lists(st.sampled_from(["linalg.gemm", *_ODD_NAMES]), min_size=1, max_size=2).map(tuple),
    (protocol.Calibrate, "again"): st.just(False),
    (protocol.PolicyPaths, "paths"): st.lists(
        st.sampled_from(["/nowhere", "relative.yaml", "/", "/dev/zero", "/dev/stdin", "/proc/self/mem", "\x00", "/" + "a" * 5000]),
        max_size=2,
    ).map(tuple),
    (protocol.Alloc, "size"): st.sampled_from([1, 4096, 65536, *_ODD_INTEGERS]),
    (protocol.Freeze, "segment"): st.integers(1, 9) | odd_integers,
    (protocol.Cancel, "request"): st.integers(1, 9) | odd_integers,
    (protocol.Run, "task_id"): st.sampled_from(["one", "two", *_ODD_NAMES]),
    (protocol.Free, "segments"): st.lists(st.integers(1, 9) | odd_integers, max_size=4).map(tuple),
    (ArrayRef, "shape"): st.sampled_from(_ODD_SHAPES) | st.lists(st.integers(1, 6), max_size=3).map(tuple),
    (ArrayRef, "dtype"): st.sampled_from([*ITEM_BYTES, "complex128", "object", "", ">f8", "V1", "float64" * 99]),
    (ArrayRef, "segment"): st.none() | st.integers(1, 9) | odd_integers,
    (ArrayRef, "offset"): st.sampled_from([0, 0, 8, 7, -8, 2**62, 2**63 - 8, -(2**63), 2**64 - 8]),
}  # fmt: skip


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that is used in a message, as what msgspec encodes."""
    if kind is Any:
        return hostile
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(of_type, arguments))
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(of_type(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of_type, arguments))
    if origin is dict:
        return st.dictionaries(_KEYS | st.text(max_size=5), of_type(arguments[1]), max_size=3)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return of_struct(kind)
    raise TypeError(f"no values are known for {kind}; say in tests/fuzz/inputs.py how to draw them")


def of_struct(
    kind: type[Struct], known: Mapping[str, st.SearchStrategy[Any]] | None = None
) -> st.SearchStrategy[dict[str, Any]]:
    """Well-formed messages of a struct; optional fields are often left out. ``known`` overrides fields."""
    hints = typing.get_type_hints(kind)
    required, optional = {}, {}
    for field in msgspec.structs.fields(kind):
        values = (known or {}).get(field.name, _FIELDS.get((kind, field.name)))
        if values is None:
            values = of_type(hints[field.name])
        (required if field.required else optional)[field.encode_name] = values
    tag = kind.__struct_config__.tag
    if tag is not None:
        required[kind.__struct_config__.tag_field or "type"] = st.just(tag)
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def spoiled(draw: st.DrawFn, trees: st.SearchStrategy[Any]) -> Any:
    """A tree of ``trees`` with one place changed: a value of another kind, a key lost, unknown, or given twice."""
    return _spoil(draw, draw(trees))


def _spoil(draw: st.DrawFn, tree: Any) -> Any:
    if isinstance(tree, list | tuple) and tree and draw(st.integers(0, 4)):
        items = list(tree)
        place = draw(st.integers(0, len(items) - 1))
        items[place] = _spoil(draw, items[place])
        return items
    if not isinstance(tree, dict) or not tree or not draw(st.integers(0, 4)):
        return draw(hostile)
    key = draw(st.sampled_from(sorted(tree)))
    what = draw(st.sampled_from(("inside", "inside", "inside", "lost", "unknown", "twice")))
    if what == "inside":
        return {**tree, key: _spoil(draw, tree[key])}
    if what == "lost":
        return {name: value for name, value in tree.items() if name != key}
    if what == "unknown":
        return {**tree, draw(odd_names): draw(hostile)}
    pairs = b"".join(map(encode, (*[part for pair in tree.items() for part in pair], key, draw(hostile))))
    return Raw(_map_header(len(tree) + 1) + pairs)


def _map_header(length: int) -> bytes:
    return bytes([0x80 | length]) if length < 16 else b"\xde" + length.to_bytes(2, "big")


encode: Callable[[Any], bytes] = msgspec.msgpack.encode

requests_of = st.deferred(lambda: st.sampled_from(sorted(METHODS)).flatmap(valid_request))


def valid_request(method: str) -> st.SearchStrategy[dict[str, Any]]:
    """A well-formed request of a method; what it asks for may still be impossible."""
    ids = st.integers(1, 1 << 20) | odd_integers
    kind = METHODS[method]
    params = TASKS[kind] if kind in TASKS else of_struct(kind)
    return st.fixed_dictionaries({"id": ids, "method": st.just(method), "params": params})


def _tasks(kind: type[Struct], *others: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tasks that are small where they are possible at all."""
    gemm = {"workload": "linalg.gemm", "params": {"m": 2, "k": 2, "n": 2}}
    inline = {name: {"shape": (2, 2), "dtype": "float64", "data": b"\0" * 32} for name in "ab"}
    return st.one_of(
        st.sampled_from([gemm, {"workload": "linalg.gemm", "arrays": inline}, *others]),
        of_struct(kind, {"workload": st.sampled_from([*WORKLOADS, *_ODD_NAMES])}),
        _dims.map(lambda params: {**gemm, "params": {**gemm["params"], **params}}),
        _arrays.map(lambda arrays: {"workload": "linalg.gemm", "arrays": {**inline, **arrays}}),
    )


_dims = st.dictionaries(
    st.sampled_from(["m", "k", "n", "tolerance", "deadline_ms", "priority", "q"]), odd_integers | odd_floats, max_size=3
)
_arrays = st.dictionaries(st.sampled_from(["a", "b", "c"]), of_struct(ArrayRef), min_size=1, max_size=2)
TASKS = {
    protocol.Ask: _tasks(protocol.Ask, {"workload": "linalg.gemm", "work": 1e6}),
    protocol.Run: _tasks(protocol.Run, {"workload": "linalg.gemm", "task_id": "one"}),
}

bodies: Bytes = st.one_of(
    requests_of.map(encode),
    spoiled(requests_of).map(encode),
    st.builds(lambda body, end: body[: end % (len(body) + 1)], requests_of.map(encode), st.integers(0, 1 << 12)),
    st.builds(
        lambda body, place, byte: body[: place % len(body)] + bytes([byte]) + body[place % len(body) + 1 :],
        requests_of.map(encode),
        st.integers(0, 1 << 12),
        st.integers(0, 255),
    ),
    hostile.map(encode),
    st.binary(max_size=40),
)


def frame(body: bytes) -> bytes:
    """A body with its header."""
    return HEADER.pack(len(body)) + body


def false_frame(body: bytes, length: int) -> bytes:
    """A body whose header says something else."""
    return HEADER.pack(length) + body


frames: Bytes = st.one_of(
    bodies.map(frame),
    bodies.map(frame),
    bodies.map(frame),
    st.builds(
        false_frame,
        bodies,
        st.sampled_from([0, 1, 3, 5, 200, MAX_FRAME_BYTES - 1, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1]),
    ),
)
HELLO = frame(encode({"id": 0, "method": "hello", "params": {"protocols": [1], "client": "fuzz"}}))

#: All that one client sends: mostly after a proper greeting, and mostly in whole frames.
streams: Bytes = st.builds(
    lambda greeting, sent: greeting + b"".join(sent),
    st.sampled_from([HELLO, HELLO, HELLO, HELLO * 2, b""]),
    st.lists(frames, min_size=1, max_size=12),
)


@st.composite
def chunked(draw: st.DrawFn, source: Bytes) -> list[bytes]:
    """A stream in pieces: cut anywhere, or after every byte."""
    data = draw(source)
    if draw(st.integers(0, 9)) == 0:
        return [data[place : place + 1] for place in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
