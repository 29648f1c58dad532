"""Where the files that ship with the package lie: policies and configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from routerd.errors import ConfigurationError

_PACKAGE: Final = Path(__file__).resolve().parent


def shipped(*parts: str) -> Path:
    """The path of a shipped file or directory, e.g. ``shipped("policies")`` or ``shipped("config", "routerd.yaml")``.

    A wheel carries them under ``routerd/_data``; an editable checkout has them at the top of the repository.
    Raises ``ConfigurationError`` where neither is there, which means a broken installation.
    """
    candidates = [root.joinpath(*parts) for root in (_PACKAGE / "_data", _PACKAGE.parent)]
    for path in candidates:
        if path.exists():
            return path
    raise ConfigurationError(
        f"the file {'/'.join(parts)} that ships with routerd is neither at {candidates[0]} nor at {candidates[1]}; "
        "install routerd again",
        path="/".join(parts),
    )
