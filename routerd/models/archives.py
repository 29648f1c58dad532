"""The ZIP archives that torch writes, looked at before torch does."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from routerd.errors import InvalidModel

_MAGIC = b"PK\x03\x04"
_EXPANSION = 4  # most that an archive may grow by when it is unpacked; torch does not compress tensors

_PICKLED = (
    "it is a pickled checkpoint (torch.save), which can run any code when it is loaded; save the model with "
    "torch.export.save, torch.jit.save, or its state_dict as safetensors"
)


class Archive:
    """An archive with one top directory, as torch writes it. Records are named without that directory."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._zip = opened
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in opened.infolist():
            top, _, rest = info.filename.partition("/")
            if top in ("", ".", "..") or rest in self._members or ".." in rest.split("/"):
                raise InvalidModel(f"its archive has an entry {info.filename!r} that torch does not write")
            self._members[rest] = info
        if len({info.filename.partition("/")[0] for info in self._members.values()}) > 1:
            raise InvalidModel("its archive has several top directories, which torch does not write")

    @property
    def names(self) -> set[str]:
        return set(self._members)

    def read(self, name: str) -> bytes:
        """One record. Raises ``InvalidModel`` if it is not there or damaged."""
        info = self._members.get(name)
        if info is None:
            raise InvalidModel(f"its archive has no {name}")
        try:
            return self._zip.read(info)
        # What zipfile raises for damage, an unknown compression (NotImplementedError) and encryption (RuntimeError).
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise InvalidModel(f"{name} in its archive is damaged: {error}") from error

    def text(self, name: str) -> str:
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise InvalidModel(f"{name} in its archive is no text") from error


@contextmanager
def opened_archive(content: bytes, what: str) -> Iterator[Archive]:
    """The archive in ``content``. Raises ``InvalidModel`` for a pickle, another file, or one that unpacks to far more."""
    if content[:1] == b"\x80":
        raise InvalidModel(_PICKLED)
    if not content.startswith(_MAGIC):
        raise InvalidModel(f"it is no {what}: it does not begin as an archive does")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            if sum(info.file_size for info in opened.infolist()) > _EXPANSION * len(content):
                raise InvalidModel("its archive unpacks to far more than it has")
            archive = Archive(opened)
            if "data.pkl" in archive.names and "constants.pkl" not in archive.names:
                raise InvalidModel(_PICKLED)
            yield archive
    except zipfile.BadZipFile as error:
        raise InvalidModel(f"it is no {what}: {error}") from error
