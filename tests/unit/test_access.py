"""Peers and roles."""

from __future__ import annotations

import os
import socket
import struct
from types import SimpleNamespace

import pytest

from routerd.access import Peer, parse_xucred, peer_of, require, role_of
from routerd.errors import PermissionDenied

LISTS = SimpleNamespace(admin_uids=(10,), execute_uids=(20,), read_uids=(30,), allow_gids=(5,))


def test_the_kernel_names_the_peer():
    mine, theirs = socket.socketpair(socket.AF_UNIX)
    with mine, theirs:
        assert peer_of(mine) == Peer(os.getuid(), os.getgid(), os.getpid())


def test_a_macos_xucred_is_76_bytes_of_version_uid_and_groups():
    data = struct.pack("=IIhH16I", 0, 501, 2, 0, 20, 12, *[0] * 14)
    assert len(data) == 76
    assert parse_xucred(data, 42) == Peer(501, 20, 42)


@pytest.mark.parametrize(
    ("uid", "gid", "role"),
    [(1000, 1, "admin"), (0, 0, "admin"), (10, 1, "admin"), (20, 1, "execute"), (99, 5, "execute"), (30, 1, "read")],
)
def test_roles_by_user_and_group(uid, gid, role):
    assert role_of(Peer(uid, gid, None), 1000, LISTS) == role


def test_a_stranger_is_refused():
    with pytest.raises(PermissionDenied, match="user 99 has no role"):
        role_of(Peer(99, 1, None), 1000, LISTS)


def test_a_role_includes_the_lesser_ones():
    require("admin", "execute", "run")
    require("read", "read", "status")
    with pytest.raises(PermissionDenied, match="run needs the role execute, this client has read"):
        require("read", "execute", "run")
