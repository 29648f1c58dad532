"""Where there can be a GPU that MLX and torch use."""

from __future__ import annotations

import pytest

from routerd.errors import Unavailable
from routerd_metal.presence import require_apple_gpu, why_absent


def test_apple_silicon_has_one() -> None:
    assert why_absent("darwin", "arm64") == ""
    require_apple_gpu("darwin", "arm64")


@pytest.mark.parametrize(
    ("system", "machine", "reason"),
    [
        ("linux", "x86_64", "no Metal device (linux/x86_64)"),
        ("linux", "aarch64", "no Metal device (linux/aarch64)"),
        ("darwin", "x86_64", "MLX and torch use the GPU of Apple silicon only, this Mac is x86_64"),
    ],
)
def test_it_is_missed_with_a_reason(system: str, machine: str, reason: str) -> None:
    assert why_absent(system, machine) == reason
    with pytest.raises(Unavailable) as caught:
        require_apple_gpu(system, machine)
    assert caught.value.message == reason
