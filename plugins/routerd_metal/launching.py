"""Shaders written for one workload, and how MLX and torch launch them on Apple's GPU.

A shader is a file of Metal Shading Language with one or more entry points. By convention an entry point's buffers are its
inputs, as ``device const T*``, then its outputs, as ``device T*``, without gaps; a lone number travels in an array. So one
text serves both frameworks: torch calls the entry point itself, MLX declares an equal one around the entry point's body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from routerd.errors import PluginError
from routerd.interfaces import HostArrays

#: Where this plugin's shaders are.
SHADERS = Path(__file__).parent / "shaders"

# MLX passes shorter inputs in the constant address space, where ``device const T*`` cannot point to.
_FEWEST_DEVICE_ELEMENTS = 8
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"(?P<file>[^"]+)"[^\n]*$', re.MULTILINE)
# What MLX declares as a vector of three, whatever the entry point asks for.
_VECTORS = frozenset(
    {
        "dispatch_threads_per_threadgroup",
        "thread_position_in_grid",
        "thread_position_in_threadgroup",
        "threadgroup_position_in_grid",
        "threadgroups_per_grid",
        "threads_per_grid",
        "threads_per_threadgroup",
    }
)


class Buffer(NamedTuple):
    """A named array of a shader; its elements are ``float32``, ``int32`` or ``uint32``."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Shader:
    """One entry point of a shader's file, and its buffers: inputs, then outputs, in the order of its signature.

    ``zeroed``: outputs hold zeros when the launch begins, for an entry point that adds to them atomically; without it they
    hold anything, and every element has to be written.
    """

    file: Path
    entry: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    zeroed: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.name

    @property
    def text(self) -> str:
        """The file's text with its own includes in place. Raises ``PluginError`` for a file that is not there."""
        return load(self.file)

    @property
    def body(self) -> str:
        """The entry point's body, after names for what its signature calls the thread's attributes: what MLX takes.

        Raises ``PluginError`` where the file has no such entry point.
        """
        found = re.search(
            rf"\bkernel void {self.entry}\((?P<signature>.*?)\)\s*\{{(?P<body>.*?)\n\}}", self.text, re.DOTALL
        )
        if found is None:
            raise PluginError(
                f"{self.name} has no entry point {self.entry}: write `kernel void {self.entry}(…) {{`, "
                f"and close it with a brace at the start of a line"
            )
        names = []
        for kind, name, attribute in re.findall(r"\b(uint3?)\s+(\w+)\s*\[\[(\w+)\]\]", found["signature"]):
            component = ".x" if attribute in _VECTORS and kind == "uint" else ""
            names.append(f"    const {kind} {name} = {attribute}{component};")
        return "\n".join([*names, found["body"].strip("\n"), ""])


class Launcher(Protocol):
    """Runs shaders and waits for them."""

    def launch(
        self, shader: Shader, inputs: HostArrays, outputs: Mapping[str, tuple[int, ...]], *, threads: int, group: int
    ) -> dict[str, Any]:
        """Outputs as host arrays of the shapes asked for, from host arrays of the dtypes that the shader declares.

        ``threads`` is the number of threads in all, ``group`` that of a threadgroup; the last threadgroup is smaller where
        they do not divide.
        """


@lru_cache(maxsize=64)
def load(file: Path) -> str:
    """A shader's text, with each ``#include "x.metal"`` replaced by that file once: from beside it, else from this plugin.

    Raises ``PluginError`` for a file that is not there.
    """
    return _resolved(file, set())


def _resolved(file: Path, included: set[str]) -> str:
    try:
        text = file.read_text()
    except OSError as error:
        raise PluginError(f"the shader {file} cannot be read: {error.strerror}") from error

    def replace(found: re.Match[str]) -> str:
        name = found["file"]
        if name in included:
            return ""
        included.add(name)
        beside = file.parent / name
        return _resolved(beside if beside.exists() else SHADERS / name, included)

    return _INCLUDE.sub(replace, text)


class MlxLauncher:
    """Launches through ``mx.fast.metal_kernel``; ``mx`` is ``mlx.core``."""

    def __init__(self, mx: Any) -> None:
        self._mx = mx
        self._kernels: dict[Shader, Any] = {}

    def launch(
        self, shader: Shader, inputs: HostArrays, outputs: Mapping[str, tuple[int, ...]], *, threads: int, group: int
    ) -> dict[str, Any]:
        """See :class:`Launcher`."""
        import numpy as np

        mx = self._mx
        kernel = self._kernels.get(shader)
        if kernel is None:
            kernel = self._kernels[shader] = mx.fast.metal_kernel(
                name=shader.entry,
                input_names=[name for name, _ in shader.inputs],
                output_names=[name for name, _ in shader.outputs],
                source=shader.body,
                header=shader.text,
            )
        arrays = kernel(
            inputs=[mx.array(_lengthened(np.asarray(inputs[name], dtype=dtype))) for name, dtype in shader.inputs],
            output_shapes=[outputs[name] for name, _ in shader.outputs],
            output_dtypes=[getattr(mx, dtype) for _, dtype in shader.outputs],
            grid=(threads, 1, 1),
            threadgroup=(group, 1, 1),
            init_value=0 if shader.zeroed else None,
        )
        mx.eval(arrays)
        return {name: np.array(array) for (name, _), array in zip(shader.outputs, arrays, strict=True)}


class TorchLauncher:
    """Launches through ``torch.mps.compile_shader``.

    ``uint32`` travels as ``int32`` of the same bits: torch has the type for a few operations only, and the shader's signature
    says what the bits mean.
    """

    def __init__(self, torch: Any, device: str = "mps") -> None:
        self._torch = torch
        self._device = device
        self._libraries: dict[str, Any] = {}

    def launch(
        self, shader: Shader, inputs: HostArrays, outputs: Mapping[str, tuple[int, ...]], *, threads: int, group: int
    ) -> dict[str, Any]:
        """See :class:`Launcher`."""
        import numpy as np

        torch = self._torch
        text = shader.text
        library = self._libraries.get(text)
        if library is None:
            library = self._libraries[text] = torch.mps.compile_shader(text)
        given = [
            torch.from_numpy(_signed(np.array(inputs[name], dtype=dtype, order="C"))).to(self._device)
            for name, dtype in shader.inputs
        ]
        make = torch.zeros if shader.zeroed else torch.empty
        made = [
            make(outputs[name], dtype=torch.float32 if dtype == "float32" else torch.int32, device=self._device)
            for name, dtype in shader.outputs
        ]
        getattr(library, shader.entry)(*given, *made, threads=(threads,), group_size=(group,))
        # A copy to the host waits for the kernel.
        return {
            name: tensor.cpu().numpy().view(dtype) for (name, dtype), tensor in zip(shader.outputs, made, strict=True)
        }


def _lengthened(array: Any) -> Any:
    """The array with zeros after it, as many as it takes for MLX to pass it in device memory."""
    import numpy as np

    missing = _FEWEST_DEVICE_ELEMENTS - array.size
    return np.concatenate((array.reshape(-1), np.zeros(missing, dtype=array.dtype))) if missing > 0 else array


def _signed(array: Any) -> Any:
    return array.view("int32") if array.dtype == "uint32" else array
