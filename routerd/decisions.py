"""Answering ``decide`` again without deciding again, as long as nothing that matters has changed.

The answer to a question is kept, encoded, under the bytes of the question and who asks. Any change of policy, model or
backend moves the router's ``epoch``, any change of time or hardware that the policy looks at gives new ambient facts, and
either empties the cache. What depends on the memory that a device has free is decided afresh. While workers have work, predictions hold their queues and nothing is answered from it. Each
answer still gets an id of its own.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import msgspec

from routerd.protocol import Ask, encode
from routerd.recorder import record_of
from routerd.router import Router
from routerd.session import Session
from routerd.store import DecisionRecord

_ENTRIES = 4096
_LONGEST_BYTES = 4096  # of a question that is kept: one that carries data inside would only take memory


class _Entry(NamedTuple):
    before: bytes
    after: bytes
    record: DecisionRecord


class DecisionCache:
    """Encoded decisions by question."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._decoder = msgspec.msgpack.Decoder(Ask)
        self._entries: dict[tuple[Hashable, bytes], _Entry] = {}
        self._epoch = -1
        self._ambient: Mapping[str, Any] = {}
        self.hits = 0
        self.misses = 0

    def decide(self, session: Session, params: msgspec.Raw) -> bytes:
        """The encoded :class:`~routerd.types.Decision` for an encoded :class:`~routerd.protocol.Ask`."""
        router = self._router
        ambient = router.ambient()
        if router.epoch != self._epoch or ambient is not self._ambient:
            self._entries.clear()
            self._epoch, self._ambient = router.epoch, ambient
        key = (session.identity, bytes(params))
        entry = self._entries.get(key) if router.idle else None
        if entry is not None:
            self.hits += 1
            decision_id = router.next_id()
            again = msgspec.structs.replace(entry.record, decision_id=decision_id, time=time.time())
            router.recorder.decided(again, router.active.policy.record)
            return b"".join((entry.before, decision_id.encode(), entry.after))
        self.misses += 1
        plan = router.plan(self._decoder.decode(params), session)
        wanted = router.active.policy.record
        record = record_of(plan, session, wanted, "decide")
        router.recorder.decided(record, wanted)
        encoded = encode(plan.decision)
        if router.idle and len(key[1]) <= _LONGEST_BYTES and not router.planner.memory.matters(plan.task):
            if len(self._entries) >= _ENTRIES:
                self._entries.clear()
            before, _, after = encoded.partition(record.decision_id.encode())
            self._entries[key] = _Entry(before, after, record)
        return encoded
