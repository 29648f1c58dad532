"""The daemon's descriptors: clients and their segments get most of them, and never the last."""

from __future__ import annotations

import resource

#: For workers that start again, results on their way, files of the database and of policies.
KEPT = 64


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def can_spare(descriptor: int) -> bool:
    """Whether a client may have this descriptor, which was just opened.

    The system gives out the lowest number that is free, so one near the limit says that few are left.
    """
    limit = descriptor_limit()
    return limit == resource.RLIM_INFINITY or descriptor < limit - min(KEPT, limit // 4)
