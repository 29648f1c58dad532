"""What outlives the daemon: decisions, calibration and policy history, in one SQLite file.

Decisions are recorded without waiting: they go to a bounded buffer that a writer thread empties. Everything else is read and
written by the caller's own short connection, so call it from a thread, not from the event loop.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from routerd.database import Database, transaction
from routerd.errors import BadRequest, RouterdError, UnknownDecision
from routerd.logs import get_logger
from routerd.types import Decision, Scalar, Timing

_log = get_logger("store")

FILE_NAME: Final = "routerd.sqlite3"

_Row: TypeAlias = "tuple[str, float, str, bytes]"

_INTERVAL_SECONDS = 0.25
_ROWS_PER_BATCH = 2000  # one batch per interval bounds the writer's share of the interpreter
_FLUSH_SECONDS = 5.0


class DecisionRecord(Struct, frozen=True, kw_only=True):
    """One decision with what it was made from; for a ``run`` also how it went. ``time`` is in Unix seconds."""

    decision_id: str
    time: float
    client: str
    uid: int
    method: Literal["decide", "run"]
    workload: str
    params: dict[str, Scalar]
    dims: dict[str, int]
    work: float
    nbytes: int
    tolerance: float
    facts: dict[str, Any]
    decision: Decision
    ran_on: str | None = None
    fallback_reason: str | None = None
    timing: Timing | None = None
    error_code: str | None = None


class PolicyRecord(Struct, frozen=True, kw_only=True):
    """One generation of the policy: who put it in force, when (Unix seconds), why, and its content as JSON."""

    generation: int
    digest: str
    author_uid: int
    time: float
    reason: str
    content: str


class Store:
    """State in ``directory``. Raises ``StateUnwritable`` if it cannot be made or written.

    At most ``buffer_limit`` decisions wait to be written, and the newest ``kept`` stay in the file. ``record`` is called
    from one thread; everything else from any. ``recorded`` and ``dropped`` count decisions taken and refused by the
    buffer, ``write_errors`` failed attempts to write and records that could not be encoded.
    """

    def __init__(self, directory: Path, *, buffer_limit: int, kept: int) -> None:
        self.recorded = 0
        self.dropped = 0
        self.write_errors = 0
        self._buffer: deque[DecisionRecord] = deque()
        self._buffer_limit = buffer_limit
        self._kept = kept
        self._database = Database(directory / FILE_NAME)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(DecisionRecord)
        self._stop = threading.Event()
        # The lock guards what writing uses: the rows of an attempt, kept when it fails, and the open connection.
        self._writing = threading.Lock()
        self._unwritten: list[_Row] = []
        self._writer: sqlite3.Connection | None = None
        self._failing = False
        self._thread = threading.Thread(target=self._write_until_closed, name="routerd-store", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The database file."""
        return self._database.path

    # -- decisions ----------------------------------------------------------------------------------------------------

    def record(self, record: DecisionRecord) -> None:
        """Keep a decision. Never waits and never fails; a full buffer drops it and counts."""
        if len(self._buffer) >= self._buffer_limit:
            self.dropped += 1
        else:
            self._buffer.append(record)
            self.recorded += 1

    def decisions(
        self, limit: int = 100, workload: str | None = None, since: float | None = None
    ) -> list[DecisionRecord]:
        """The newest decisions first, by the time they were made; ``since`` (Unix seconds) is included.

        ``ml.model`` stands for every version of every model.
        """
        self.flush()
        given: dict[str, tuple[Any, ...]] = {}
        if workload is not None:
            below = f"{workload}/"
            given["(workload = ? OR workload BETWEEN ? AND ?)"] = (workload, below, f"{below}\uffff")
        if since is not None:
            given["time >= ?"] = (since,)
        where = f"WHERE {' AND '.join(given)} " if given else ""
        sql = f"SELECT decision_id, record FROM decisions {where}ORDER BY time DESC, seq DESC LIMIT ?"
        values = (*(value for one in given.values() for value in one), _rows_wanted(limit))
        rows = self._database.run(lambda db: db.execute(sql, values).fetchall())
        records = [self._decode(*row) for row in rows]
        readable = [record for record in records if record is not None]
        if len(readable) < len(records):
            _log.warning("decisions of another version are left out", count=len(records) - len(readable))
        return readable

    def decision(self, decision_id: str) -> DecisionRecord:
        """The decision with that id. Raises ``UnknownDecision``."""
        self.flush()
        sql = "SELECT decision_id, record FROM decisions WHERE decision_id = ?"
        row = self._database.run(lambda db: db.execute(sql, (decision_id,)).fetchone())
        if row is None:
            raise UnknownDecision(
                f"no decision {decision_id} is kept; the newest {self._kept} are, and a policy may record fewer",
                decision_id=decision_id,
            )
        record = self._decode(*row)
        if record is None:
            raise UnknownDecision(
                f"decision {decision_id} was recorded by another version of routerd", decision_id=decision_id
            )
        return record

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Write all that is buffered. False if that fails or takes over ``timeout`` seconds; the rest stays buffered."""
        deadline = time.monotonic() + timeout
        for _ in range(len(self._buffer) // _ROWS_PER_BATCH + 2):  # what comes in meanwhile is not waited for
            if not self._writing.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                return False
            try:
                if not (self._buffer or self._unwritten):
                    break
                if not self._write_batch():
                    return False
            finally:
                self._writing.release()
        return True

    def close(self, timeout: float = _FLUSH_SECONDS) -> None:
        """Write what is buffered and let go of the file, in about ``timeout`` seconds at most. A second call does nothing."""
        if self._stop.is_set():
            return
        deadline = time.monotonic() + timeout
        self._stop.set()
        self._thread.join(timeout)
        if not self.flush(max(deadline - time.monotonic(), 0.0)):
            lost = len(self._buffer) + len(self._unwritten)
            self.dropped += lost
            _log.warning("decisions lost at shutdown", count=lost)
        if self._writing.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            try:
                self._drop_writer()
            finally:
                self._writing.release()

    # -- calibration --------------------------------------------------------------------------------------------------

    def save_calibration(self, fingerprint: str, backend: str, workload: str, payload: bytes) -> None:
        """Keep what was measured about a pair on the machine with that fingerprint, in place of what was kept."""
        self.save_calibrations(fingerprint, {(backend, workload): payload})

    def save_calibrations(self, fingerprint: str, payloads: Mapping[tuple[str, str], bytes]) -> None:
        """Keep several pairs ``(backend, workload)`` in one transaction."""
        now = time.time()
        rows = [(fingerprint, *pair, payload, now) for pair, payload in payloads.items()]

        def save(db: sqlite3.Connection) -> None:
            with transaction(db):
                db.executemany("INSERT OR REPLACE INTO calibrations VALUES (?, ?, ?, ?, ?)", rows)

        self._database.run(save)

    def load_calibrations(self, fingerprint: str) -> dict[tuple[str, str], bytes]:
        """What is kept for that fingerprint, by ``(backend, workload)``."""
        sql = "SELECT backend, workload, payload FROM calibrations WHERE fingerprint = ?"
        rows = self._database.run(lambda db: db.execute(sql, (fingerprint,)).fetchall())
        return {(backend, workload): payload for backend, workload, payload in rows}

    # -- policy history -----------------------------------------------------------------------------------------------

    def add_policy(self, digest: str, author_uid: int, content: str, reason: str) -> int:
        """Note that a policy (JSON) is put in force; returns its generation, one above the last."""
        sql = "INSERT INTO policies (digest, author_uid, time, reason, content) VALUES (?, ?, ?, ?, ?)"
        row = (digest, author_uid, time.time(), reason, content)

        def add(db: sqlite3.Connection) -> int:
            with transaction(db):
                return db.execute(sql, row).lastrowid or 0

        return self._database.run(add)

    def policy_history(self, limit: int = 50) -> list[PolicyRecord]:
        """The newest generations first."""
        return self._policies("ORDER BY generation DESC LIMIT ?", _rows_wanted(limit))

    def policy(self, generation: int) -> PolicyRecord:
        """One generation. Raises ``BadRequest``."""
        found = self._policies("WHERE generation = ?", generation)
        if not found:
            raise BadRequest(f"no policy generation {generation}; routerctl policy history lists them")
        return found[0]

    def _policies(self, clause: str, argument: int) -> list[PolicyRecord]:
        columns = PolicyRecord.__struct_fields__
        sql = f"SELECT {', '.join(columns)} FROM policies {clause}"
        rows = self._database.run(lambda db: db.execute(sql, (argument,)).fetchall())
        return [PolicyRecord(**dict(zip(columns, row, strict=True))) for row in rows]

    # -- writing decisions --------------------------------------------------------------------------------------------

    def _write_until_closed(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            if self._buffer or self._unwritten:
                with self._writing:
                    self._write_batch()

    def _write_batch(self) -> bool:
        """Move one batch from the buffer to the file; needs the lock. A batch that fails stays for the next attempt."""
        try:
            if self._writer is None:
                self._writer = self._database.connect()
            with transaction(self._writer):
                self._writer.executemany(
                    "INSERT OR REPLACE INTO decisions (decision_id, time, workload, record) VALUES (?, ?, ?, ?)",
                    self._rows(),
                )
                self._writer.execute(
                    "DELETE FROM decisions WHERE seq <= (SELECT max(seq) FROM decisions) - ?", (self._kept,)
                )
        except (sqlite3.Error, RouterdError) as error:
            self._failed(error)
            return False
        if self._failing:
            _log.info("decisions are written again", path=str(self.path))
        self._failing = False
        self._unwritten.clear()
        return True

    def _rows(self) -> Iterator[_Row]:
        """Rows to insert, encoded one by one: between two rows SQLite lets the daemon's thread have the interpreter."""
        yield from tuple(self._unwritten)
        while self._buffer and len(self._unwritten) < _ROWS_PER_BATCH:
            record = self._buffer.popleft()
            try:
                row = (record.decision_id, record.time, record.workload, self._encoder.encode(record))
            except (TypeError, ValueError, OverflowError) as error:
                self.write_errors += 1
                _log.error("decision cannot be encoded", decision_id=record.decision_id, reason=str(error))
                continue
            self._unwritten.append(row)
            yield row

    def _failed(self, error: sqlite3.Error | RouterdError) -> None:
        """Count, tell once, and leave everything ready for another attempt."""
        self.write_errors += 1
        if not self._failing:
            _log.error("decisions cannot be written, trying again", path=str(self.path), reason=str(error))
        self._failing = True
        self._drop_writer()
        if isinstance(error, sqlite3.Error):
            try:
                self._database.replace_if_corrupt(error)
            except RouterdError as failure:
                _log.error("the database cannot be replaced", path=str(self.path), reason=failure.message)

    def _drop_writer(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(sqlite3.Error):  # it is given up because it failed
                self._writer.close()
            self._writer = None

    def _decode(self, decision_id: str, encoded: bytes) -> DecisionRecord | None:
        try:
            record = self._decoder.decode(encoded)
        except msgspec.MsgspecError:
            return None
        if record.decision.decision_id == decision_id:
            return record
        # An answer given again has an id of its own, but shares the decision that it repeats.
        decision = msgspec.structs.replace(record.decision, decision_id=decision_id)
        return msgspec.structs.replace(record, decision=decision)


def _rows_wanted(limit: int) -> int:
    """A limit that SQLite can hold; below zero it would mean all."""
    return min(max(limit, 0), 2**63 - 1)
