"""``routerctl``: ask and steer the daemon from a terminal or a script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run one command and exit with its code."""
    try:
        from routerd.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
