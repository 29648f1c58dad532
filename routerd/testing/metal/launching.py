"""Launches of Metal shaders on the processor, with the interface of a launcher on a GPU."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from routerd.errors import ExecutionError, InvalidArray, PluginError, suggest
from routerd.testing.metal.building import Library, build
from routerd.testing.metal.translation import BufferParameter

_ELEMENTS = {
    "float": "float32",
    "int": "int32",
    "int32_t": "int32",
    "uint": "uint32",
    "uint32_t": "uint32",
    "atomic_int": "int32",
    "atomic_uint": "uint32",
    "atomic_float": "float32",
    "long": "int64",
    "int64_t": "int64",
    "ulong": "uint64",
    "uint64_t": "uint64",
    "uchar": "uint8",
    "uint8_t": "uint8",
}
_ROOM_BYTES = 512
_MOST_THREADS_OF_A_GROUP = 1024

# A built shader keeps its threadgroup memory in variables of its own, so one launch runs at a time.
_one_at_a_time = threading.Lock()


class Buffer(NamedTuple):
    """A named array of a shader and what its elements are."""

    name: str
    dtype: str


class Shader(Protocol):
    """What a launcher needs to know of a shader: its name and text, the entry point, and its buffers in their order.

    ``zeroed`` outputs hold zeros when the launch begins.
    """

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def entry(self) -> str: ...
    @property
    def inputs(self) -> Sequence[tuple[str, str]]: ...
    @property
    def outputs(self) -> Sequence[tuple[str, str]]: ...
    @property
    def zeroed(self) -> bool: ...


class HostLauncher:
    """Runs shaders on the processor: threadgroup after threadgroup, each thread until it must wait for the others.

    Results are the same in every run. Threads of a threadgroup run in ascending order in every second threadgroup and in
    descending order in the others, outputs (but zeroed ones) and threadgroup memory begin as NaN, and every access to a buffer
    is checked: so a barrier that is missing, a place that is never written and an index out of bounds show.
    """

    def launch(
        self,
        shader: Shader,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, tuple[int, ...]],
        *,
        threads: int,
        group: int,
    ) -> dict[str, Any]:
        """Outputs by name, of the shapes asked for.

        Raises ``PluginError`` if the text does not compile or has not this entry point with these buffers, ``InvalidArray``
        for an input of another dtype, ``ExecutionError`` for what the shader does wrong, and ``Unavailable`` without a
        compiler.
        """
        import numpy as np

        library = build(shader.text, shader.name)
        _check_signature(library, shader)
        buffers: dict[str, Any] = {}
        for name, dtype in shader.inputs:
            array = np.array(inputs[name], order="C")
            if array.dtype != dtype:
                raise InvalidArray(
                    f"{shader.entry} reads {name} as {dtype}, it was given {array.dtype}; convert it before the launch",
                    array=name,
                )
            buffers[name] = array
        made = {name: np.empty(outputs[name], dtype=dtype) for name, dtype in shader.outputs}
        for array in made.values():
            array.reshape(-1).view(np.uint8).fill(0 if shader.zeroed else 0xFF)
        run(library, shader.entry, {**buffers, **made}, threads=threads, group=group)
        return made


def run(library: Library, entry: str, buffers: Mapping[str, Any], *, threads: int, group: int) -> None:
    """Run an entry point over contiguous arrays, in the order of its buffers. Raises ``ExecutionError`` for its faults."""
    if threads < 1 or not 1 <= group <= _MOST_THREADS_OF_A_GROUP:
        raise ExecutionError(
            f"{entry} cannot run {threads} threads in threadgroups of {group}: "
            f"a launch has at least one thread, a threadgroup 1…{_MOST_THREADS_OF_A_GROUP}"
        )
    count = len(buffers)
    data = (ctypes.c_void_p * count)(*[array.ctypes.data for array in buffers.values()])
    sizes = (ctypes.c_size_t * count)(*[array.nbytes for array in buffers.values()])
    names = (ctypes.c_char_p * count)(*[name.encode() for name in buffers])
    message = ctypes.create_string_buffer(_ROOM_BYTES)
    with _one_at_a_time:
        failed = library.loaded[f"metal_shim_launch_{entry}"](
            data,
            sizes,
            names,
            ctypes.c_uint(count),
            ctypes.c_uint(threads),
            ctypes.c_uint(group),
            message,
            ctypes.c_size_t(_ROOM_BYTES),
        )
    if failed:
        raise ExecutionError(f"{entry}: {message.value.decode()}")


def _check_signature(library: Library, shader: Shader) -> None:
    entry = library.entries.get(shader.entry)
    if entry is None:
        raise PluginError(
            f"the shader {shader.name} has no entry point {shader.entry}{suggest(shader.entry, library.entries)}; "
            f"it has {', '.join(library.entries) or 'none'}"
        )
    declared = [*shader.inputs, *shader.outputs]
    found = [(one.name, _dtype(one)) for one in entry.buffers]
    if [(name, dtype) for name, dtype in declared] != found:
        raise PluginError(
            f"{shader.entry} of {shader.name} has the buffers {_listed(found)}; it was declared with {_listed(declared)}"
        )


def _dtype(parameter: BufferParameter) -> str:
    return _ELEMENTS.get(parameter.element, parameter.element)


def _listed(buffers: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in buffers)
