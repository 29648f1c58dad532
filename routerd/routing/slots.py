"""Shared memory that one process writes and many read without locks or system calls: numbered slots, each under a sequence.

The layout is in 64-bit words in the machine's own byte order (it never leaves the machine)::

    0 magic and version of the layout     4 busy workers, one bit each
    1 number of slots                     5 heartbeat: monotonic nanoseconds
    2 bytes of a slot                     8 … the slots
    3 unused

    slot: sequence, length and checksum, payload

A sequence is odd while its slot is being written or says nothing, and even when its payload may be read. A reader copies the
payload and looks at the sequence again; the checksum, which covers the sequence too, catches what a processor has
reordered and what a writer that died has left behind.
"""

from __future__ import annotations

import mmap
import time
import zlib
from typing import Final

from routerd.errors import ProtocolError

MAGIC: Final = 0x726F757465726401  # "routerd", layout 1
#: An entry has 3 KB as a rule, and 33 KB under the most divided of 400 random policies. Pages never written take no memory.
SLOT_BYTES: Final = 65536
SLOTS: Final = 1024

_HEADER_WORDS = 8
_SLOTS_WORD, _BYTES_WORD, BUSY_WORD, BEAT_WORD = 1, 2, 4, 5
_SLOT_HEADER_BYTES = 16
CAPACITY: Final = SLOT_BYTES - _SLOT_HEADER_BYTES
SIZE: Final = _HEADER_WORDS * 8 + SLOTS * SLOT_BYTES

#: A writer beats this often; readers that miss it for longer than the second go and ask.
BEAT_SECONDS: Final = 0.1
STALE_NANOSECONDS: Final = 1_000_000_000
#: The words of no table: its heart has never beaten.
NO_WORDS: Final = memoryview(bytes(_HEADER_WORDS * 8)).cast("Q")


def sequence_word(slot: int) -> int:
    """The index of a slot's sequence among the words."""
    return _HEADER_WORDS + slot * (SLOT_BYTES // 8)


class SlotWriter:
    """The one writer. Starts with every slot saying nothing."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._bytes = memoryview(mapped)
        self._words = self._bytes.cast("Q")
        self._words[_SLOTS_WORD] = SLOTS
        self._words[_BYTES_WORD] = SLOT_BYTES
        self.beat()
        self._words[0] = MAGIC

    def write(self, slot: int, payload: bytes) -> bool:
        """Put ``payload`` in place of what the slot said; ``False``, and the slot says nothing, if it does not fit."""
        self.withdraw(slot)
        if len(payload) > CAPACITY:
            return False
        word = sequence_word(slot)
        sequence = self._words[word] + 1
        start = word * 8 + _SLOT_HEADER_BYTES
        self._bytes[start : start + len(payload)] = payload
        self._words[word + 1] = len(payload) << 32 | _checksum(sequence, payload)
        self._words[word] = sequence
        return True

    def withdraw(self, slot: int) -> None:
        """From now on the slot says nothing."""
        word = sequence_word(slot)
        if self._words[word] % 2 == 0:
            self._words[word] += 1

    def set_busy(self, mask: int) -> None:
        """Which workers have work."""
        self._words[BUSY_WORD] = mask

    def beat(self) -> None:
        """Say that somebody still keeps this up to date."""
        self._words[BEAT_WORD] = time.monotonic_ns()


class SlotReader:
    """One reader. ``words`` may be read at any time without a lock. Raises ``ProtocolError`` for memory of another layout."""

    def __init__(self, mapped: mmap.mmap) -> None:
        data = memoryview(mapped)
        if len(data) < _HEADER_WORDS * 8 or len(data) % 8:
            raise ProtocolError(f"a decision table of {len(data)} bytes has no header")
        self.words = data.cast("Q")
        if (self.words[0], self.words[_BYTES_WORD]) != (MAGIC, SLOT_BYTES):
            raise ProtocolError("the decision table has another layout; client and daemon are of different versions")
        slots = min(self.words[_SLOTS_WORD], (len(data) - _HEADER_WORDS * 8) // SLOT_BYTES)
        self._memory = (data, self.words, slots)  # replaced whole, so that readers in several threads never mix two

    def read(self, slot: int) -> tuple[int, bytes] | None:
        """A slot's sequence and payload, or ``None`` while it says nothing or what it says cannot be trusted."""
        data, words, slots = self._memory
        if not 0 <= slot < slots:
            return None
        word = sequence_word(slot)
        sequence = words[word]
        if sequence % 2 or sequence == 0:
            return None
        length, checksum = divmod(words[word + 1], 1 << 32)
        if length > CAPACITY:
            return None
        start = word * 8 + _SLOT_HEADER_BYTES
        payload = bytes(data[start : start + length])
        if words[word] != sequence or _checksum(sequence, payload) != checksum:
            return None
        return sequence, payload

    def close(self) -> None:
        """Let go of the memory, which is unmapped when nobody reads it any more. No slot says anything from now on."""
        self._memory = (memoryview(b""), NO_WORDS, 0)
        self.words = NO_WORDS

    def follow(self, other: SlotReader) -> None:
        """Read the other's memory from now on, which may be another daemon's."""
        self._memory = other._memory
        self.words = other.words


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(sequence.to_bytes(8, "little")))
