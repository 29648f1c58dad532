"""Who a peer is, by the kernel's word, and what it may do."""

from __future__ import annotations

import socket
import struct
import sys
from typing import NamedTuple, Protocol

from routerd.errors import PermissionDenied
from routerd.session import Role

_RANK: dict[Role, int] = {"read": 0, "execute": 1, "admin": 2}
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2
_XUCRED = struct.Struct("=IIh2x16I")  # macOS: version, uid, ngroups, groups; 76 bytes


class Peer(NamedTuple):
    """Credentials of the process at the other end of a Unix socket."""

    uid: int
    gid: int
    pid: int | None


class AccessLists(Protocol):
    """The settings that grant roles."""

    @property
    def admin_uids(self) -> tuple[int, ...]: ...
    @property
    def execute_uids(self) -> tuple[int, ...]: ...
    @property
    def read_uids(self) -> tuple[int, ...]: ...
    @property
    def allow_gids(self) -> tuple[int, ...]: ...


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who is connected. Raises ``OSError`` when the peer is already gone."""
    if sys.platform == "darwin":
        return parse_xucred(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size), _peer_pid(connection))
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(uid, gid, pid)


def parse_xucred(data: bytes, pid: int | None) -> Peer:
    """A macOS ``xucred`` as a peer; its first group is the effective one."""
    _version, uid, count, *groups = _XUCRED.unpack(data)
    return Peer(uid, groups[0] if count > 0 else -1, pid)


def _peer_pid(connection: socket.socket) -> int | None:
    try:
        (pid,) = struct.unpack("i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
    except OSError:
        return None
    return int(pid)


def role_of(peer: Peer, own_uid: int, lists: AccessLists) -> Role:
    """The peer's role. Raises ``PermissionDenied`` for a user in no list."""
    if peer.uid in (own_uid, 0) or peer.uid in lists.admin_uids:
        return "admin"
    if peer.uid in lists.execute_uids or peer.gid in lists.allow_gids:
        return "execute"
    if peer.uid in lists.read_uids:
        return "read"
    raise PermissionDenied(
        f"user {peer.uid} has no role here; the owner of the daemon can add it to execute_uids or read_uids"
    )


def require(role: Role, needed: Role, method: str) -> None:
    """Raise ``PermissionDenied`` unless ``role`` includes ``needed``."""
    if _RANK[role] < _RANK[needed]:
        raise PermissionDenied(f"{method} needs the role {needed}, this client has {role}", needed=needed)
