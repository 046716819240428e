"""What strangers send to a witness and to whoever reads cosignatures, and what a witness remembers."""

from __future__ import annotations

import functools

from decoder_targets import KEYS, LIMIT, NORTH, ORIGIN, RUN, Target

from tacit.errors import DecodeError, LedgerError, SignatureError
from tacit.ledger.log import Log
from tacit.ledger.note import (
    add_signatures,
    check_cosignature,
    cosign,
    note_text,
    open_checkpoint,
    open_cosigned,
)
from tacit.ledger.record import LogRecord, open_record
from tacit.ledger.submission import Submission
from tacit.ledger.witness import SPACE, Witness
from tacit.testing.store import MemoryStore
from tacit.types import Milliseconds

OWNER = (ORIGIN, NORTH.public_key)
NAME = "observer"
WITNESSES = {NAME: NORTH.public_key}


def _log() -> Log:
    store = MemoryStore()
    log = Log(store, ORIGIN, NORTH)
    with store.transaction():
        for run in (None, "other", RUN, "other", None, RUN):
            log.append({"type": "test.event", **({"run": run} if run else {})}, Milliseconds(5))
    return log


def _remembered(data: bytes) -> None:
    """A witness's own store, damaged in what it remembers of a log."""
    store = MemoryStore()
    with store.transaction():
        store.put(SPACE, ORIGIN, data)
    Witness(store, NAME, NORTH).known(ORIGIN)


def _lines(data: bytes) -> None:
    """Lines that were collected for a checkpoint, from whoever sent them."""
    lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    open_cosigned(add_signatures(_log().checkpoint(), lines), OWNER, WITNESSES)


def witness_targets() -> list[Target]:
    """Submissions, cosignatures, and records whose hashes somebody else made up."""
    log = _log()
    note, record = log.checkpoint(), log.record(RUN)
    checkpoint = open_checkpoint(note, KEYS)
    line = cosign(note, NORTH, NAME, 5)
    cosigned = add_signatures(note, [line])
    body = Submission(3, log.consistency_proof(3), note).encode()
    text = note_text(note)
    errors = (DecodeError, SignatureError)
    return [
        Target("submission", Submission.decode, (DecodeError,), (body,), "text"),
        Target(
            "cosignature",
            lambda data: check_cosignature(
                data.decode("utf-8", "replace"), text, NAME, NORTH.public_key
            ),
            errors,
            (line.encode(),),
            "text",
        ),
        Target("cosignatures", _lines, errors, (line.encode(),), "text"),
        Target(
            "cosigned-note",
            functools.partial(open_cosigned, owner=OWNER, witnesses=WITNESSES),
            (*errors, LedgerError),
            (cosigned,),
            "text",
        ),
        Target(
            "record-events",
            lambda data: open_record(LogRecord(data, record.proof), checkpoint),
            (LedgerError,),
            (record.events,),
            "text",
        ),
        Target(
            "record-proof",
            lambda data: open_record(LogRecord(record.events, data), checkpoint, [LIMIT]),
            (LedgerError,),
            (record.proof,),
            "json",
        ),
        Target("remembered-head", _remembered, (LedgerError,), (note, cosigned), "text"),
    ]
