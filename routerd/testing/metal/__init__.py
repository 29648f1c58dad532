"""Metal shaders without a Mac: a shader's own text, built with the system's C++ compiler and run thread by thread.

::

    from routerd.testing.metal import HostLauncher

    moments = HostLauncher().launch(shader, {"terms": terms}, {"moments": (4, 3)}, threads=1024, group=256)["moments"]

It proves what a shader computes, not how fast: results are single precision with the processor's elementary functions, which
differ from a GPU's in the last bits. Of Metal it has what kernels of numbers need: scalars and vectors (without swizzles),
buffers, threadgroup memory, barriers, SIMD groups of 32, atomics, and grids of one dimension.
"""

from __future__ import annotations

from routerd.testing.metal.frameworks import compile_shader, metal_kernel
from routerd.testing.metal.launching import Buffer, HostLauncher

__all__ = ["Buffer", "HostLauncher", "compile_shader", "metal_kernel"]
