"""Whether a machine can have a GPU that MLX and torch use: known from what it is, before anything is imported."""

from __future__ import annotations

from routerd.errors import Unavailable


def why_absent(system: str, machine: str) -> str:
    """Why there is no such GPU, in one line, or ``""``.

    ``system`` is as in ``sys.platform``, ``machine`` as in ``platform.machine()``.
    """
    if system != "darwin":
        return f"no Metal device ({system}/{machine})"
    if machine != "arm64":
        return f"MLX and torch use the GPU of Apple silicon only, this Mac is {machine}"
    return ""


def require_apple_gpu(system: str, machine: str) -> None:
    """Raise ``Unavailable`` where there is none."""
    reason = why_absent(system, machine)
    if reason:
        raise Unavailable(reason)
