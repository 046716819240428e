"""Structured logs: their form, their levels, and what is never written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tacit.errors import ConfigError
from tacit.service.logs import ServiceLog
from tacit.types import Milliseconds

RUN = "ab" * 32


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def make(stream: io.StringIO, level: str = "info") -> ServiceLog:
    return ServiceLog("north", level, stream, lambda: Milliseconds(1_700_000_000_123))  # type: ignore[arg-type]


def test_an_event_is_one_line_of_json() -> None:
    stream = io.StringIO()
    make(stream).info("round.closed", run=RUN, round=3, text="a\nb\x1b[31m", seconds=0.5)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert logged(stream) == [
        {
            "time": "2023-11-14T22:13:20.123Z",
            "level": "info",
            "event": "round.closed",
            "party": "north",
            "run": RUN,
            "round": 3,
            "text": "a\nb\x1b[31m",
            "seconds": 0.5,
        }
    ]


def test_levels_below_the_least_are_left_out() -> None:
    stream = io.StringIO()
    log = make(stream, "warning")
    for write in (log.debug, log.info, log.warning, log.error):
        write("event")
    assert [record["level"] for record in logged(stream)] == ["warning", "error"]


def test_bytes_are_refused() -> None:
    stream = io.StringIO()
    log = make(stream)
    for value in (b"key", [b"key"], {"a": b"key"}, bytearray(b"key"), object()):
        with pytest.raises(TypeError):
            log.info("event", value=value)
    assert stream.getvalue() == ""


def test_of_a_foreign_exception_only_type_and_places_are_written() -> None:
    stream = io.StringIO()
    try:
        raise ValueError("the value 4711 of a patient")
    except ValueError as error:
        make(stream).failure("party.failed", error)
    (record,) = logged(stream)
    assert "4711" not in stream.getvalue()
    assert record["type"] == "ValueError"
    assert "test_service_logs.py" in str(record["places"])


def test_of_our_own_error_code_and_remedy_are_written() -> None:
    stream = io.StringIO()
    make(stream).failure("run.failed", ConfigError("a.b", "wrong", remedy="mend it"), run=RUN)
    (record,) = logged(stream)
    assert (record["code"], record["message"], record["remedy"]) == ("a.b", "wrong", "mend it")


def test_events_of_a_run_are_kept_in_its_own_file_too(tmp_path: Path) -> None:
    stream, path = io.StringIO(), tmp_path / "log.jsonl"
    log = make(stream, "error")
    log.keep(RUN, path)
    log.info("first", run=RUN)
    log.info("other", run="cd" * 32)
    log.drop(RUN)
    log.info("late", run=RUN)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["first"]
    log.keep(RUN, tmp_path / "gone" / "log.jsonl")
    log.info("nowhere", run=RUN)  # A log that cannot be written ends nothing.


def test_a_closed_stream_ends_nothing() -> None:
    stream = io.StringIO()
    log = make(stream)
    stream.close()
    log.error("event")
