"""The directory of models: ``<name>/<version>/`` with one model file each and, beside it, ``config.json``.

A model can be code, so its files are trusted like the daemon's own: they and the directories that hold them belong to the
daemon's user or to root, nobody else may write to them, and nothing is reached through a link. :func:`scan` looks from
the outside, for the daemon; :func:`read` opens for a worker and checks what it has opened, so that nothing can be put in
its place in between.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from routerd.errors import InvalidModel
from routerd.workloads.ml import DEMO

CONFIG_NAME = "config.json"
CONFIG_BYTES = 1024 * 1024

#: What a kernel from each kind of file needs, of :data:`routerd.interfaces.NEEDS`.
FORMATS: dict[str, frozenset[str]] = {
    ".safetensors": frozenset(),
    ".pt": frozenset({"torch_module"}),
    ".ts": frozenset({"torch_module"}),
    ".pt2": frozenset({"torch_module"}),
    ".mlpackage": frozenset({"core_ml"}),
}

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_IGNORED = (".", "~")  # what editors and copying programs leave while they write
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

#: Name, modification time (ns), size and inode of each file of a version: differs when any of them was replaced.
Signature: TypeAlias = tuple[tuple[str, int, int, int], ...]


class ModelFile(NamedTuple):
    """One version as it lies in the directory."""

    model: str
    version: int
    file: str
    signature: Signature

    @property
    def suffix(self) -> str:
        return Path(self.file).suffix

    @property
    def nbytes(self) -> int:
        return sum(size for _name, _time, size, _inode in self.signature)


class Refusal(NamedTuple):
    """Something in the directory that is no model, and why."""

    path: str
    reason: str


class Scan(NamedTuple):
    """Everything found, in order."""

    files: tuple[ModelFile, ...]
    refusals: tuple[Refusal, ...]


class Content(NamedTuple):
    """The bytes of a model file and of its ``config.json`` (empty where there is none)."""

    model: bytes
    config: bytes


def scan(root: Path) -> Scan:
    """What the directory holds now. One that does not exist is empty; raises ``OSError`` if it cannot be listed."""
    files: list[ModelFile] = []
    refusals: list[Refusal] = []
    if not root.exists():
        return Scan((), ())
    reason = _objection(root.stat(), directory=True)
    if reason is not None:
        return Scan((), (Refusal(str(root), reason),))
    for model in _entries(root):
        if not _NAME.fullmatch(model.name):
            refusals.append(Refusal(model.name, "a model's name is lower case: [a-z][a-z0-9_]*, 64 characters at most"))
        elif model.name == DEMO:
            refusals.append(Refusal(model.name, "this is the name of the model that ships with routerd; take another"))
        else:
            for path, found in _versions(model):
                if isinstance(found, ModelFile):
                    files.append(found)
                else:
                    refusals.append(Refusal(path, found))
    return Scan(tuple(files), tuple(refusals))


def read(root: Path, model: str, version: int, file: str, limit: int) -> Content:
    """The content of a version, of ``limit`` bytes at most. Raises ``InvalidModel`` for what :func:`scan` would refuse."""
    for part in (model, str(version), file):
        if part in ("", ".", "..") or "/" in part or "\0" in part:
            raise InvalidModel(f"{part!r} is no name of a file")
    with (
        _opened(None, str(root), directory=True) as top,
        _opened(top, model, directory=True) as named,
        _opened(named, str(version), directory=True) as place,
    ):
        content = _read_file(place, file, limit)
        config = _read_file(place, CONFIG_NAME, CONFIG_BYTES) if CONFIG_NAME in _names(place) else b""
    return Content(content, config)


def _versions(model: os.DirEntry[str]) -> Iterator[tuple[str, ModelFile | str]]:
    """What each entry of a model's directory is. One that cannot be read, or vanishes under the look, is alone in it."""
    try:
        reason = _objection(_status(model), directory=True)
        versions = [] if reason else _entries(Path(model.path))
    except OSError as error:
        reason, versions = _unreadable(error), []
    if reason is not None:
        yield model.name, reason
    for version in versions:
        try:
            yield f"{model.name}/{version.name}", _version(version)
        except OSError as error:
            yield f"{model.name}/{version.name}", _unreadable(error)


def _unreadable(error: OSError) -> str:
    return f"it cannot be read: {error.strerror}"


def _version(entry: os.DirEntry[str]) -> ModelFile | str:
    """The model file in a version's directory, or the reason why there is none."""
    if not _VERSION.fullmatch(entry.name):
        return "a version is a whole number from 1, such as 3"
    reason = _objection(_status(entry), directory=True)
    if reason is not None:
        return reason
    inside = {one.name: one for one in _entries(Path(entry.path))}
    models = [name for name in inside if Path(name).suffix in FORMATS]
    if len(models) != 1:
        found = "none is there" if not models else f"there are {', '.join(models)}"
        return f"a version holds one file of {', '.join(FORMATS)}; {found}"
    signature = []
    for name in sorted({*models, CONFIG_NAME} & inside.keys()):
        status = _status(inside[name])
        reason = _objection(status, directory=name.endswith(".mlpackage"))
        if reason is not None:
            return f"{name}: {reason}"
        signature.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
    return ModelFile(Path(entry.path).parent.name, int(entry.name), models[0], tuple(signature))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return sorted((one for one in found if not one.name.startswith(_IGNORED)), key=lambda one: one.name)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as found:
        return [one.name for one in found]


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    return entry.stat(follow_symlinks=False)


def _objection(status: os.stat_result, *, directory: bool) -> str | None:
    """Why a file or directory is not trusted, or ``None``."""
    if stat.S_ISLNK(status.st_mode):
        return "it is a symbolic link, which is not followed; put the files themselves here"
    if directory != stat.S_ISDIR(status.st_mode) or (not directory and not stat.S_ISREG(status.st_mode)):
        return f"it is no {'directory' if directory else 'regular file'}"
    if status.st_uid not in (0, os.geteuid()):
        return (
            f"it belongs to user {status.st_uid}; a model can be code, so it must belong to the daemon's user or root"
        )
    if status.st_mode & _OTHERS_MAY_WRITE:
        return "others may write to it, and a model can be code; chmod go-w"
    return None


@contextmanager
def _opened(parent: int | None, name: str, *, directory: bool) -> Iterator[int]:
    """A descriptor of ``name`` in ``parent``, checked. The root itself may be reached through a link: whoever set it chose it."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a named pipe must not hold the worker
    flags |= os.O_NOFOLLOW if parent is not None else 0
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        raise InvalidModel(f"{name} cannot be read: {error.strerror}") from error
    try:
        reason = _objection(os.fstat(descriptor), directory=directory)
        if reason is not None:
            raise InvalidModel(f"{name}: {reason}")
        yield descriptor
    finally:
        os.close(descriptor)


def _read_file(directory: int, name: str, limit: int) -> bytes:
    with _opened(directory, name, directory=False) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise InvalidModel(f"{name} has {size} bytes, the limit is {limit} (max_model_bytes)")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    if len(content) != size:
        raise InvalidModel(f"{name} changed while it was read")
    return content
