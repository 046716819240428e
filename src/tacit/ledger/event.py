"""Events of a log: what may stand in one, its canonical bytes, and the run that it belongs to.

Reference: RFC 8785. For what a log accepts (no floats, integers below 2^53, ASCII names, text without
lone surrogates) its bytes are those of JSON with sorted names and without spaces
(tests/property/test_ledger_event.py::test_events_are_written_as_rfc_8785_says).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tacit.errors import LocalProtocolError
from tacit.types import Milliseconds

__all__ = ["LINKS", "Event", "canonical", "encode_event", "run_of"]

EVENT_LIMIT = 2 * 1024 * 1024
MAX_INTEGER = 2**53 - 1
MAX_NESTING = 8
RUN = re.compile(rb'[{,]"run":"([^"\\]*)"')
LINKS = ("previous", "own")
"""Fields by which an event names events before it."""

OWN_FIELDS = frozenset({"seq", "time", *LINKS})

Event = Mapping[str, object]

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical(value: Mapping[str, Any]) -> bytes:
    """The RFC 8785 bytes of an event, or of any table that holds only what an event may hold."""
    return _encode(value).encode()


def encode_event(event: Event, index: int, now: Milliseconds, links: Mapping[str, int]) -> bytes:
    """The canonical bytes of an event, which are its leaf.

    Args:
        event: Its ``type`` and fields, see ``Log.append``.
        index: Its place in the log, recorded as ``seq``.
        now: Recorded as ``time``.
        links: Which events before it it names, under names of ``LINKS``.

    Raises:
        LocalProtocolError: Something stands in it that may not.
    """
    if not isinstance(event.get("type"), str) or not OWN_FIELDS.isdisjoint(event):
        raise _refused("an event has a type, and no field that the log adds itself")
    if not isinstance(event.get("run", ""), str):
        raise _refused("the run of an event is not text")
    whole = {**event, "seq": index, "time": int(now), **links}
    _check(whole, 0)
    try:
        data = canonical(whole)
    except UnicodeEncodeError as error:
        raise _refused("text of an event is not Unicode") from error
    if len(data) > EVENT_LIMIT:
        raise _refused(f"an event of {len(data)} bytes")
    return data


def run_of(data: bytes) -> str | None:
    """The run that an event belongs to; None if it is the party's own.

    Args:
        data: What ``encode_event`` wrote.

    Raises:
        ValueError: Not JSON, as far as that was noticed.
    """
    if data.find(b"{", 1) < 0:
        # No table inside: the name can only be the event's own. Within text or another name a
        # quotation mark follows a backslash, never a brace or a comma.
        found = RUN.search(data)
        if found is not None:
            return found[1].decode()
        if b'"run"' not in data:
            return None
    fields = json.loads(data)
    run = fields.get("run") if isinstance(fields, dict) else None
    return run if isinstance(run, str) else None


def _check(value: object, depth: int) -> None:
    if depth > MAX_NESTING:
        raise _refused("an event is too deeply nested")
    if isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise _refused("an integer of an event is too large")
    elif isinstance(value, dict):
        if not all(isinstance(key, str) and key.isascii() for key in value):
            raise _refused("a name in an event is not ASCII text")
        _check_all(value.values(), depth + 1)
    elif isinstance(value, (list, tuple)):
        _check_all(value, depth + 1)
    else:
        raise _refused(f"a {type(value).__name__} cannot stand in an event")


def _check_all(values: Iterable[object], depth: int) -> None:
    for value in values:
        if type(value) is not str:  # Most are, and a call costs more than the look.
            _check(value, depth)


def _refused(message: str) -> LocalProtocolError:
    return LocalProtocolError("ledger.event", message)
