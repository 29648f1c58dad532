"""What a workload's path through a shader is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from routerd.interfaces import HostArrays, Params
from routerd_metal.launching import Launcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """A workload computed by shaders in place of its own kernel.

    Attributes:
        flag: the environment flag that switches it on, ``METAL_GPU_SHADERS`` or ``GPU_MESSAGEBUS``.
        run: ``run(launcher, params, inputs)`` gives every output of the workload as a host array, float64 where it is
            floating; or ``None`` for a form of the task that the shaders do not cover, which the workload's kernel takes.
    """

    flag: str
    run: Callable[[Launcher, Params, HostArrays], dict[str, Any] | None]
