"""``routerd`` and ``python -m routerd``: the daemon in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from routerd import __version__


def main() -> None:
    """Parse the few arguments and serve."""
    parser = argparse.ArgumentParser(prog="routerd", description="Run the routerd daemon in the foreground.")
    parser.add_argument("--config", type=Path, help="settings file (default: $ROUTERD_CONFIG, else the shipped one)")
    parser.add_argument("--version", action="version", version=f"routerd {__version__}")
    arguments = parser.parse_args()

    from routerd.start import serve

    sys.exit(serve(arguments.config))


if __name__ == "__main__":
    main()
