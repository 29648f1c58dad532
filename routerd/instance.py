"""One daemon for one socket: a private directory, a lock that dies with its holder, no stale socket in the way."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path

from routerd.errors import AlreadyRunning, ConfigurationError


def claim(socket_path: Path, *, shared: bool) -> int:
    """Become the only daemon of this socket; the lock is held while the returned descriptor is open.

    The directory is made private (0700), or readable by the group where the socket is ``shared`` (0750), and a socket
    that a dead daemon left is removed. Raises ``AlreadyRunning``, or ``ConfigurationError`` for a directory that others
    could write to or a path that is no socket.
    """
    _private_directory(socket_path.parent, shared=shared)
    descriptor = _lock(socket_path.with_name(socket_path.name + ".lock"), socket_path)
    try:
        _remove_stale(socket_path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_stale(path: Path) -> None:
    """Remove a socket that a dead daemon left. The lock is held, and nobody may answer on it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} exists and is not a socket; remove it or set ROUTERD_SOCKET to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigurationError(f"cannot tell whether {path} is in use: {error.strerror}") from error
    raise AlreadyRunning(f"another process answers on {path}; stop it, or set ROUTERD_SOCKET to another path")


def _private_directory(directory: Path, *, shared: bool) -> None:
    """Create the socket's directory, or check that nobody else can write to it."""
    mode = 0o750 if shared else 0o700
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"cannot use the socket directory {directory}: {error.strerror}") from error
    if status.st_uid not in (os.getuid(), 0):
        raise ConfigurationError(f"the socket directory {directory} belongs to user {status.st_uid}; choose another")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"others can write to the socket directory {directory} (mode {stat.filemode(status.st_mode)}); chmod it {mode:o}"
        )


def _lock(path: Path, socket_path: Path) -> int:
    """Hold an exclusive lock for the life of the process; the kernel drops it however the process ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot open the lock file {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyRunning(
            f"another daemon (process {holder}) serves {socket_path}; stop it, or set ROUTERD_SOCKET to another path"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
