"""The limit on open descriptors: every connected client takes one in the daemon and one in its own process."""

from __future__ import annotations

import resource
import sys

#: What a process needs beside its connections: its standard streams, its database, its workers, its shared memory.
SPARE = 256


def raise_limit() -> int:
    """Raise this process's limit as far as it may by itself, which its children inherit; returns what it now is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard  # macOS says infinity and refuses it
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def advice(clients: int, limit: int) -> str:
    """What to do so that ``clients`` can be connected where a process may have ``limit`` descriptors."""
    need = clients + SPARE
    lines = [
        f"{clients:,} clients need {need:,} descriptors in the daemon and as many in the processes that hold them;",
        f"a process may have {limit:,} here (RLIMIT_NOFILE, `ulimit -Hn`). To raise the limit:",
    ]
    if sys.platform == "darwin":
        lines += [
            f"  sudo sysctl kern.maxfiles={4 * need} kern.maxfilesperproc={need}",
            f"  sudo launchctl limit maxfiles {need} {need}    # for what launchd starts from now on",
            f"  ulimit -n {need}                               # in the shell that starts the benchmark",
        ]
    else:
        lines += [
            f"  sudo prlimit --pid $$ --nofile={need}:{need}   # the shell that starts the benchmark",
            f"  /etc/security/limits.conf: * hard nofile {need}   # every later login",
            f"  LimitNOFILE={need}                             # in a systemd unit, such as the daemon's",
            f"  docker run --ulimit nofile={need}:{need}       # a container",
        ]
    return "\n".join(lines)
