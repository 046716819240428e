"""Structured logs of long-lived processes: one JSON object a line, on standard error.

An event has a name, a party, perhaps a run, and fields that are numbers, truth values or text. Bytes are
refused, because keys, masks and vectors are bytes; of an unexpected exception only its type and the
places that it passed are written, because its message may hold a value.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from tacit.engine.clock import wall_clock
from tacit.errors import TacitError
from tacit.types import Milliseconds

__all__ = ["Level", "ServiceLog"]

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
MAX_TEXT = 2000
MAX_PLACES = 12
MAX_ITEMS = 256

Plain = str | int | float | bool | None


class ServiceLog:
    """Writes events; safe to use from any thread.

    Args:
        party: Who writes.
        level: Least severe events that are written.
        stream: Where to; standard error by default.
        clock: The time.

    Guarantee: A field that is bytes is never written, and neither is the message of an exception that
    is not one of ours (tests/unit/test_service_logs.py::test_bytes_are_refused,
    ::test_of_a_foreign_exception_only_type_and_places_are_written).
    """

    def __init__(
        self,
        party: str,
        level: Level = "info",
        stream: IO[str] | None = None,
        clock: Callable[[], Milliseconds] = wall_clock,
    ) -> None:
        self._party = party
        self._least = LEVELS.index(level)
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[str, Path] = {}

    def debug(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that only helps to find a fault."""
        self._write("debug", event, run, fields)

    def info(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that happened as it should."""
        self._write("info", event, run, fields)

    def warning(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that an operator may want to look at."""
        self._write("warning", event, run, fields)

    def error(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that an operator must look at."""
        self._write("error", event, run, fields)

    def failure(self, event: str, error: BaseException, *, run: str = "", **fields: Any) -> None:
        """An exception: code, message and remedy of one of ours; type and places of any other."""
        self._write("error", event, run, {**fields, **_told(error)})

    def keep(self, run: str, path: Path) -> None:
        """Writes events of a run into a file, too, from now on; whoever made its folder made room."""
        with self._lock:
            self._runs[run] = path

    def drop(self, run: str) -> None:
        """Ends what ``keep`` began."""
        with self._lock:
            self._runs.pop(run, None)

    def _write(self, level: Level, event: str, run: str, fields: Mapping[str, Any]) -> None:
        at = datetime.fromtimestamp(self._clock() / 1000, UTC)
        record: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": event,
            "party": self._party,
        }
        if run:
            record["run"] = run
        record |= {name: _plain(name, value) for name, value in fields.items()}
        line = json.dumps(record, ensure_ascii=True) + "\n"
        with self._lock:
            path = self._runs.get(run)
            if path is not None:
                # A log that cannot be written must not end a run.
                with contextlib.suppress(OSError), path.open("a", encoding="ascii") as file:
                    file.write(line)
            if LEVELS.index(level) >= self._least:
                stream = self._stream if self._stream is not None else sys.stderr
                with contextlib.suppress(OSError, ValueError):  # Whoever read along has gone.
                    stream.write(line)
                    stream.flush()


def _plain(name: str, value: Any) -> Any:
    """A field as JSON has it.

    Raises:
        TypeError: It is bytes, or something else whose text is not known to be harmless.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "..."
        case Path():
            return str(value)
        case list() | tuple():
            return [_plain(name, item) for item in value[:MAX_ITEMS]]
        case dict():
            return {str(key): _plain(name, item) for key, item in list(value.items())[:MAX_ITEMS]}
        case _:
            raise TypeError(f"field '{name}' of a log event is a {type(value).__name__}")


def _told(error: BaseException) -> dict[str, Plain | list[str]]:
    if isinstance(error, TacitError):
        return {"code": error.code, "message": error.message, "remedy": error.remedy}
    places = traceback.extract_tb(error.__traceback__)[-MAX_PLACES:]
    return {
        "code": "internal",
        "type": type(error).__name__,
        "places": [f"{Path(p.filename).name}:{p.lineno} {p.name}" for p in places],
    }
