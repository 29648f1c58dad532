"""Where the socket is. Light on purpose: every client imports it before it connects."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from routerd.errors import ConfigurationError

SOCKET_NAME: Final = "routerd.sock"

#: The longest socket path in bytes that every platform takes: ``sun_path`` has 104 bytes on macOS, one is the final NUL.
MAX_SOCKET_PATH_BYTES: Final = 103


def default_socket_path(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where the daemon listens and clients connect unless told otherwise.

    In this order: ``$ROUTERD_SOCKET``; ``$XDG_RUNTIME_DIR/routerd/routerd.sock``; a directory of the user
    (macOS: ``~/Library/Application Support/routerd``, elsewhere ``/tmp/routerd-<uid>``). Nothing is created.
    Raises ``ConfigurationError`` for a path that a Unix socket cannot have.
    """
    if named := environ.get("ROUTERD_SOCKET"):
        return check_socket_path(Path(named).expanduser(), "ROUTERD_SOCKET")
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return check_socket_path(Path(runtime) / "routerd" / SOCKET_NAME, "XDG_RUNTIME_DIR")
    if platform == "darwin":
        home = Path(environ.get("HOME") or Path.home())
        return check_socket_path(home / "Library" / "Application Support" / "routerd" / SOCKET_NAME, "HOME")
    return Path("/tmp") / f"routerd-{os.getuid()}" / SOCKET_NAME


def check_socket_path(path: Path, origin: str) -> Path:
    """``path`` made absolute, or ``ConfigurationError`` where it is too long; ``origin`` says where it came from."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 -- resolve() would follow links, and the server must see them
    length = len(os.fsencode(absolute))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{origin}: the socket path {absolute} has {length} bytes, a Unix socket takes at most "
            f"{MAX_SOCKET_PATH_BYTES}; set ROUTERD_SOCKET to a shorter path",
            path=str(absolute),
            origin=origin,
        )
    return absolute
