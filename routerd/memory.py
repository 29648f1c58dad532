"""Shared-memory segments: anonymous, passed by descriptor, gone when the last holder lets go.

Linux: ``memfd_create``, sealed so that nobody can shrink or grow a segment under a reader; its writer may also seal
future writable mappings. macOS: ``shm_open`` and an immediate unlink (a shared-memory object there can be sized once
only, which gives the same guarantee). Nothing has a name that could leak or be guessed.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Sequence

#: Offsets of arrays inside a segment are multiples of this, so that every element type and SIMD load is aligned.
ALIGNMENT = 64
#: Most descriptors that one message may carry (the kernel's SCM_MAX_FD is 253).
MAX_DESCRIPTORS = 64
#: In place of descriptors that did not arrive.
LOST = -1

_F_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
_SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE, _SEAL_FUTURE_WRITE = 0x0002, 0x0004, 0x0008, 0x0010
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def create_segment(size: int) -> int:
    """A descriptor of a new, zero-filled, size-sealed segment. Raises ``OSError`` when memory or descriptors run out."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("routerd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        descriptor = _create_unlinked(size)
    try:
        os.ftruncate(descriptor, size)
        if sys.platform == "linux":
            fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def create_published(size: int) -> tuple[mmap.mmap, int]:
    """Memory that only this process can write: its mapping, and a descriptor through which others can but read.

    Raises ``OSError`` when memory or descriptors run out.
    """
    if sys.platform == "linux":
        descriptor = create_segment(size)
        try:
            mapped = map_segment(descriptor, size, writable=True)
            seal_future_writes(descriptor)
            return mapped, os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(descriptor)
    import _posixshmem

    name = f"/routerd-{secrets.token_hex(8)}"
    descriptor = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
    try:
        try:
            readable: int = _posixshmem.shm_open(name, os.O_RDONLY, mode=0o600)
        finally:
            _posixshmem.shm_unlink(name)
        os.ftruncate(descriptor, size)
        return map_segment(descriptor, size, writable=True), readable
    finally:
        os.close(descriptor)


def _create_unlinked(size: int) -> int:
    """The POSIX way without memfd: a shared-memory object whose random name lives for microseconds."""
    import _posixshmem

    del size
    name = f"/routerd-{secrets.token_hex(8)}"
    descriptor: int = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
    _posixshmem.shm_unlink(name)
    return descriptor


def seal_future_writes(descriptor: int) -> bool:
    """Forbid writable mappings made from now on; the caller's own stays. ``False`` where the kernel cannot."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEAL_FUTURE_WRITE)
    except OSError:  # EINVAL before Linux 5.1: the segment stays writable for its holders, as on macOS
        return False
    return True


def seal_writes(descriptor: int) -> bool:
    """Make the content final: from now on nobody can change it. ``False`` where the kernel cannot.

    Raises ``OSError`` (``EBUSY``) while somebody still maps the segment writable.
    """
    if sys.platform != "linux":
        return False
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEAL_WRITE)
    return True


def map_segment(descriptor: int, size: int, *, writable: bool) -> mmap.mmap:
    """Map the segment; the descriptor may be closed afterwards. Raises ``OSError`` or ``ValueError`` if it is smaller."""
    if os.fstat(descriptor).st_size < size:
        raise ValueError(f"segment has {os.fstat(descriptor).st_size} bytes, {size} expected")
    if writable:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except PermissionError:  # before Linux 6.7 sealed content cannot be shared; privately it is the same memory
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def align(offset: int) -> int:
    """The next aligned offset."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def receive(connection: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Up to ``size`` bytes and the descriptors that came with them (close-on-exec). Empty bytes mean end of stream.

    Where this process may not open as many as were sent, the kernel drops the rest: then there is but :data:`LOST`.
    """
    data, ancillary, flags, _address = connection.recvmsg(size, _ANCILLARY_BYTES, _CLOEXEC)
    if not ancillary and not flags & socket.MSG_CTRUNC:
        return data, []
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    if flags & socket.MSG_CTRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        return data, [LOST]
    if not _CLOEXEC:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    return data, list(descriptors)


class Arrivals:
    """Descriptors that came with a stream, until the message that they belong to has been read whole.

    A message's descriptors come together, with its first bytes and with no other's, so those of two messages cannot be taken
    for one another even where some were lost.
    """

    def __init__(self) -> None:
        self._sets: deque[list[int]] = deque()

    def add(self, descriptors: list[int]) -> None:
        """What :func:`receive` gave."""
        if descriptors:
            self._sets.append(descriptors)

    def take(self, count: int) -> list[int]:
        """Those of the next message, which has ``count``; the caller closes them. Raises ``OSError`` if some were lost."""
        if count == 0:
            return []
        descriptors = self._sets.popleft() if self._sets else [LOST]
        if len(descriptors) == count and LOST not in descriptors:
            return descriptors
        _close(descriptors)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def close(self) -> None:
        """Close what nobody took."""
        while self._sets:
            _close(self._sets.popleft())


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        if descriptor != LOST:
            os.close(descriptor)


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> int:
    """Send what fits, descriptors attached to the first byte; returns the bytes taken."""
    if not descriptors:
        return connection.send(data)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    return connection.sendmsg([data], ancillary)
