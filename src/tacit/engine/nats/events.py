"""Where the engine says what happens: the methods of a structured log, and one that is silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Events", "Silence", "Sparing"]

BURST = 20
"""Events of one kind and sender that are written in a window."""
WINDOW_S = 60.0
SENDERS = 256


class Events(Protocol):
    """A structured log; see ``tacit.service.logs``. Called from any thread."""

    def info(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that happened as it should."""
        ...

    def warning(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that an operator may want to look at."""
        ...

    def failure(self, event: str, error: BaseException, *, run: str = "", **fields: Any) -> None:
        """An exception."""
        ...


class Silence:
    """Writes nothing."""

    def info(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Nothing."""

    def warning(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Nothing."""

    def failure(self, event: str, error: BaseException, *, run: str = "", **fields: Any) -> None:
        """Nothing."""


class Sparing:
    """Passes on what others cause, but not as often as they like: a flood must not fill the log.

    Args:
        events: Where to.
        clock: Monotonic seconds.

    Guarantee: of one kind of event at most 20 in a minute are written for every sender, and the next
        one after that says how many were left out. Checked by
        tests/unit/test_nats_connection.py::test_a_flood_does_not_fill_the_log.
    """

    def __init__(self, events: Events, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def info(self, event: str, *, sender: str, run: str = "", **fields: Any) -> None:
        """Something that happened as it should."""
        if (left_out := self._due(event, sender)) is not None:
            self._events.info(event, run=run, sender=sender, **left_out, **fields)

    def warning(self, event: str, *, sender: str, run: str = "", **fields: Any) -> None:
        """Something that an operator may want to look at."""
        if (left_out := self._due(event, sender)) is not None:
            self._events.warning(event, run=run, sender=sender, **left_out, **fields)

    def failure(
        self, event: str, error: BaseException, *, sender: str, run: str = "", **fields: Any
    ) -> None:
        """An exception."""
        if (left_out := self._due(event, sender)) is not None:
            self._events.failure(event, error, run=run, sender=sender, **left_out, **fields)

    def _due(self, event: str, sender: str) -> dict[str, int] | None:
        """What to say besides if the event is to be written; None if it is not."""
        key, now = (event, sender), self._clock()
        with self._lock:
            if key not in self._seen and len(self._seen) >= SENDERS:
                self._seen.clear()
            begun, count = self._seen.get(key, (now, 0))
            if now - begun < WINDOW_S:
                self._seen[key] = (begun, count + 1)
                return {} if count < BURST else None
            self._seen[key] = (now, 1)
            return {"left_out": count - BURST} if count > BURST else {}
