"""The durable state of a party: one SQLite file.

STRICT table, write-ahead log, ``synchronous = FULL``: every commit is flushed to the disk before it
returns, so that a committed transaction survives a crash of the process and of the machine. What was
not committed is gone after a crash, whole: a torn tail of the write-ahead log fails its checksums. The
file is created with mode 0600.

Reference: SQLite, "Write-Ahead Logging" and "PRAGMA synchronous".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tacit.errors import LocalProtocolError, TransportError

__all__ = ["STATE", "SqliteStore"]

STATE = Path("state") / "tacit.db"
"""Where a party's file lies in its folder."""

BUSY_TIMEOUT_S = 10.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
    space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID
"""


class SqliteStore:
    """Implements ``types.Store``.

    Args:
        path: The file; its folder is made if need be. None keeps everything in memory, for scratch
            federations whose state nobody needs afterwards.

    Raises:
        TransportError: The file cannot be opened, or is not a Tacit state file.

    Guarantee: A process that is killed, or a machine that loses power, at any byte of a write leaves a
    file that opens with every transaction that was committed, and nothing of the one that was not; the
    disk must keep what it has flushed
    (tests/unit/test_engine_store.py::test_a_write_cut_at_any_byte_loses_what_was_not_committed).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path or Path(":memory:")
        self._depth = 0
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic unit of work; nested blocks join the outer one, undoing their own part only."""
        depth = self._depth
        self._execute(f"SAVEPOINT level{depth}" if depth else "BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth = depth
            with contextlib.suppress(sqlite3.Error):
                self._db.execute(f"ROLLBACK TO level{depth}" if depth else "ROLLBACK")
            raise
        self._depth = depth
        self._execute(f"RELEASE level{depth}" if depth else "COMMIT")

    def get(self, space: str, key: str) -> bytes | None:
        """The value, or None."""
        row = self._execute(
            "SELECT value FROM state WHERE space = ? AND key = ?", (space, key)
        ).fetchone()
        return bytes(row[0]) if row is not None else None

    def put(self, space: str, key: str, value: bytes) -> None:
        """Writes one value.

        Raises:
            LocalProtocolError: Outside a transaction.
            TransportError: The medium refused the write.
        """
        self._require_transaction()
        self._execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (space, key, value))

    def delete(self, space: str, key: str) -> None:
        """Removes one value, if present."""
        self._require_transaction()
        self._execute("DELETE FROM state WHERE space = ? AND key = ?", (space, key))

    def items(self, space: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The pairs of a space whose key begins with ``prefix``, in key order."""
        rows = self._execute(
            "SELECT key, value FROM state WHERE space = ? AND key >= ? AND key < ? ORDER BY key",
            (space, prefix, prefix + "\U0010ffff"),
        ).fetchall()
        return iter((str(key), bytes(value)) for key, value in rows)

    def scrub(self) -> None:
        """Takes what was deleted out of the file and the write-ahead log; outside any transaction.

        SQLite leaves deleted bytes in free pages, in free space of pages, and in the log, until
        something else is written over them.

        Raises:
            TransportError: Another process holds the file.

        Reference: SQLite, "VACUUM", "Write-Ahead Logging" (checkpoint TRUNCATE).
        """
        self._execute("VACUUM")
        (busy, _, _) = self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise self._broken(RuntimeError("another process is reading, so that the log stays"))

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _require_transaction(self) -> None:
        if self._depth == 0:
            raise LocalProtocolError("store.no-transaction", "a write outside a transaction")

    def _execute(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> TransportError:
        return TransportError(
            "store.io",
            f"state file {self._path}: {error}",
            remedy="check space, permissions, and that no other process holds it; then try again",
            file=str(self._path),
        )
