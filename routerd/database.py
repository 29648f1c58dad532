"""The SQLite file under the state: made, migrated, and replaced when it is corrupt."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from routerd.errors import ConfigurationError, StateUnwritable
from routerd.logs import get_logger

_log = get_logger("store")
_T = TypeVar("_T")

#: Each entry brings the schema from its index to the next version; entries are added, never changed.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE decisions (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            decision_id TEXT NOT NULL UNIQUE,
            time REAL NOT NULL,
            workload TEXT NOT NULL,
            record BLOB NOT NULL
        )""",
        "CREATE INDEX decisions_by_time ON decisions (time)",
        "CREATE INDEX decisions_by_workload ON decisions (workload, time)",
        """CREATE TABLE calibrations (
            fingerprint TEXT NOT NULL,
            backend TEXT NOT NULL,
            workload TEXT NOT NULL,
            payload BLOB NOT NULL,
            updated REAL NOT NULL,
            PRIMARY KEY (fingerprint, backend, workload)
        ) WITHOUT ROWID""",
        """CREATE TABLE policies (
            generation INTEGER PRIMARY KEY AUTOINCREMENT,
            digest TEXT NOT NULL,
            author_uid INTEGER NOT NULL,
            time REAL NOT NULL,
            reason TEXT NOT NULL,
            content TEXT NOT NULL
        )""",
    ),
)

_BUSY_SECONDS = 5.0
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Database:
    """One file that several threads use, each through connections of its own.

    Raises ``StateUnwritable`` if the file cannot be made or written, ``ConfigurationError`` if a newer routerd made it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replacing = threading.Lock()
        self._create()
        self.run(_check_writable)

    def connect(self) -> sqlite3.Connection:
        """A new connection, usable from any one thread at a time; the schema is up to date."""
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do ``work`` on a connection of its own. If the file proves corrupt, it is replaced and ``work`` done again."""
        try:
            try:
                return self._attempt(work)
            except sqlite3.Error as error:
                if not self.replace_if_corrupt(error):
                    raise
                return self._attempt(work)
        except sqlite3.Error as error:
            raise self._unwritable(str(error)) from error

    def replace_if_corrupt(self, error: sqlite3.Error) -> bool:
        """Whether ``error`` means corruption; the file is then moved aside and a new one made, unless that is done already."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CORRUPT:  # the rest of the code is detail
            return False
        with self._replacing:
            if self._damaged():
                aside = self.path.with_name(f"{self.path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}")
                try:
                    for suffix in ("", "-wal", "-shm"):  # a log left behind would be played into the new file
                        with contextlib.suppress(FileNotFoundError):
                            self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
                except OSError as failure:
                    raise self._unwritable(f"{error}, and it cannot be moved aside: {failure.strerror}") from failure
                self._create()
                _log.warning("the database was corrupt, a new one is made", moved_to=str(aside), reason=str(error))
        return True

    def _attempt(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with contextlib.closing(self.connect()) as connection:
            return work(connection)

    def _damaged(self) -> bool:
        try:
            answer = self._attempt(lambda connection: connection.execute("PRAGMA quick_check(1)").fetchone())
        except sqlite3.Error as error:
            return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT
        return bool(answer != ("ok",))

    def _create(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def _migrate(self, connection: sqlite3.Connection) -> None:
        newest = len(MIGRATIONS)
        if _version(connection) == newest:
            return
        with transaction(connection):
            found = _version(connection)  # again: another connection may have been faster
            if found > newest:
                raise ConfigurationError(
                    f"{self.path} was made by a newer routerd (schema {found}, this one knows {newest}); "
                    "upgrade routerd or set ROUTERD_STATE_DIR to another directory",
                    path=str(self.path),
                )
            for statements in MIGRATIONS[found:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {newest}")

    def _unwritable(self, cause: str) -> StateUnwritable:
        return StateUnwritable(
            f"the state file {self.path} cannot be written: {cause}; "
            "give it room and permission, or set ROUTERD_STATE_DIR to another directory",
            path=str(self.path),
            cause=cause,
        )


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself after some errors
            connection.execute("ROLLBACK")
        raise


def _check_writable(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        connection.execute(f"PRAGMA user_version = {_version(connection)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
