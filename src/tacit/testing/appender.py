"""A process that appends to a log until it is killed: ``python -m tacit.testing.appender FILE COUNT``.

After every commit it writes the size of the log to its standard output: the acknowledgement.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tacit.engine.store import SqliteStore
from tacit.ledger.log import Log
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.types import Milliseconds

__all__ = ["ORIGIN", "SIGNER", "append_batch", "open_log"]

ORIGIN = "demo/north"
SIGNER = Identity.generate(SeededEntropy("north"))


def open_log(path: Path) -> tuple[SqliteStore, Log]:
    """The log at ``path`` and the store that it is in."""
    store = SqliteStore(path)
    return store, Log(store, ORIGIN, SIGNER)


def append_batch(store: SqliteStore, log: Log, count: int) -> int:
    """Appends ``count`` events in one transaction; returns the size of the log then."""
    with store.transaction():
        for _ in range(count):
            number = len(log)
            log.append({"type": "test.event", "run": "ab"[number % 2]}, Milliseconds(number))
    return len(log)


def _main(path: str, count: str) -> None:
    store, log = open_log(Path(path))
    os.write(1, b"%d\n" % len(log))
    while True:
        os.write(1, b"%d\n" % append_batch(store, log, int(count)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
