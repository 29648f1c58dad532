"""What MLX and torch make of a Metal text, imitated on the processor: so code that calls them runs where there is no Metal.

Both take and give NumPy arrays or whatever exports its memory to NumPy, as a torch tensor on ``cpu`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from routerd.testing.metal.building import build
from routerd.testing.metal.launching import run
from routerd.testing.metal.translation import ATTRIBUTES

# Inputs of fewer elements are declared in the constant address space.
_FEWEST_DEVICE_ELEMENTS = 8
_SCALARS = frozenset(name for name in ATTRIBUTES if "simdgroup" in name or "index" in name)
_TYPES = {"float32": "float", "int32": "int32_t", "uint32": "uint32_t"}


def metal_kernel(
    name: str, input_names: Sequence[str], output_names: Sequence[str], source: str, header: str = ""
) -> Callable[..., list[Any]]:
    """``mlx.core.fast.metal_kernel``: the function that is called around a body of Metal text, its ``source``.

    The signature is declared as MLX 0.32 declares it: inputs in ``constant`` or ``device`` memory by their size, ``uint``
    or ``uint3`` attributes for those that the body names.
    """

    def kernel(
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[Any],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        init_value: float | None = None,
    ) -> list[Any]:
        import numpy as np

        given = [np.array(array, order="C") for array in inputs]
        made = [
            np.full(shape, -1, dtype=np.int32).view(dtype) if init_value is None else np.full(shape, init_value, dtype)
            for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
        ]
        parameters = [
            f"const {'constant' if array.size < _FEWEST_DEVICE_ELEMENTS else 'device'} {_TYPES[str(array.dtype)]}"
            f"{'*' if array.ndim else '&'} {one} [[buffer({index})]]"
            for index, (one, array) in enumerate(zip(input_names, given, strict=True))
        ]
        parameters += [
            f"device {_TYPES[str(array.dtype)]}* {one} [[buffer({index + len(given)})]]"
            for index, (one, array) in enumerate(zip(output_names, made, strict=True))
        ]
        parameters += [
            f"{'uint' if one in _SCALARS else 'uint3'} {one} [[{one}]]" for one in ATTRIBUTES if one in source
        ]
        entry = f"custom_kernel_{name}"
        text = f"{header}\n[[kernel]] void {entry}(\n  {','.join(parameters)}) {{\n{source}\n}}\n"
        buffers = dict(zip([*input_names, *output_names], [*given, *made], strict=True))
        run(build(text, name), entry, buffers, threads=grid[0], group=threadgroup[0])
        return made

    return kernel


def compile_shader(source: str) -> _ShaderLibrary:
    """``torch.mps.compile_shader``: a library whose attributes are the entry points of a Metal text.

    An entry point is called with its buffers in the order of their indexes, ``threads=(n,)`` and ``group_size=(m,)``, and
    writes into those that it is given.
    """
    return _ShaderLibrary(source)


class _ShaderLibrary:
    def __init__(self, source: str) -> None:
        self._library = build(source, "source")

    def __getattr__(self, name: str) -> Callable[..., None]:
        entry = self._library.entries.get(name)
        if entry is None:
            raise AttributeError(f"the shader has no entry point {name}; it has {', '.join(self._library.entries)}")

        def launch(*arguments: Any, threads: tuple[int], group_size: tuple[int]) -> None:
            import numpy as np

            arrays = {one.name: np.asarray(array) for one, array in zip(entry.buffers, arguments, strict=True)}
            run(self._library, name, arrays, threads=threads[0], group=group_size[0])

        return launch
