"""``python -m tests.impatient``: the daemon, only that it waits a tenth as long before it times a doubtful size again.

Tests let it time for a tenth as long as its default, too. On a busy machine nearly every size is doubtful, and the pauses
would be most of what calibrations take.
"""

from __future__ import annotations

from routerd.__main__ import main
from routerd.costs import timing

if __name__ == "__main__":
    timing._LOOK_AGAIN_SECONDS = tuple(seconds / 10.0 for seconds in timing._LOOK_AGAIN_SECONDS)
    main()
