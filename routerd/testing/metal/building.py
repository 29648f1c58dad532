"""Shaders as libraries of this machine, by the system's C++ compiler; each text is built once in a process."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from routerd.errors import PluginError, Unavailable
from routerd.testing.metal.translation import EntryPoint, translate

_SHIM = Path(__file__).parent / "shim"
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-D_XOPEN_SOURCE=600",  # macOS has the functions of ucontext.h for those who ask for them
    "-D_DARWIN_C_SOURCE",
    "-Werror=double-promotion",  # a shader has no double, so nothing may be computed in it unseen
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",  # it takes a jump between stacks for an attack
    "-fvisibility=hidden",  # no two shaders share the shim's state
    "-fPIC",
    "-shared",
)


@dataclass(frozen=True, slots=True)
class Library:
    """A built shader: its entry points, and the functions that launch them."""

    entries: dict[str, EntryPoint]
    loaded: ctypes.CDLL


def compiler() -> list[str]:
    """The command of the C++ compiler: ``$CXX``, else c++, clang++ or g++. Raises ``Unavailable`` where there is none."""
    chosen = os.environ.get("CXX")
    if chosen:
        return shlex.split(chosen)
    for name in ("c++", "clang++", "g++"):
        if path := shutil.which(name):
            return [path]
    raise Unavailable(
        "running Metal shaders on a processor needs a C++17 compiler: install g++ or clang++, or name one in CXX"
    )


@lru_cache(maxsize=256)
def build(text: str, name: str) -> Library:
    """Build a shader's text; ``name`` is what messages call it.

    Raises ``Unavailable`` without a compiler and ``PluginError`` with the compiler's first message if the text is wrong.
    """
    translation = translate(text, name)
    digest = hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:24]
    source, library = _folder() / f"{digest}.cpp", _folder() / f"{digest}.so"
    source.write_text(f'#include "functions.h"\n{translation.text}\n')
    command = [*compiler(), *_FLAGS, f"-I{_SHIM}", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[:1]
        raise PluginError(f"the shader {name} does not compile: {errors[0] if errors else 'no message was given'}")
    return Library(translation.entries, ctypes.CDLL(str(library)))


@lru_cache(maxsize=1)
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="metal-shaders-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
