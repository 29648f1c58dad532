"""What holds for every test."""

from __future__ import annotations

import signal

# A shell's background jobs ignore the interrupt, and so would every process that a test starts and means to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
