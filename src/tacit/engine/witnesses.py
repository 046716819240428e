"""The independent witnesses of a federation: the file that names them, and asking one to cosign."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from pydantic import Field

from tacit.config import Table, load_toml
from tacit.errors import ConfigError, LedgerError, TacitError, TransportError
from tacit.ledger.log import Log
from tacit.ledger.note import check_cosignature, is_key_name, note_text, parse_checkpoint
from tacit.ledger.submission import Submission
from tacit.types import PartyName

__all__ = [
    "WITNESSES_FILE",
    "IndependentWitnesses",
    "WitnessTable",
    "WitnessesFile",
    "load_witnesses",
    "submit",
]

WITNESSES_FILE = "witnesses.toml"
TIMEOUT_S = 10.0
PATIENCE_S = 30.0
ATTEMPTS = 4
ANSWER_LIMIT = 16 * 1024
CONFLICT = 409
REFUSED = {
    400: "witness.submission",
    403: "witness.signature",
    404: "witness.unknown-log",
    422: "witness.forked",
}
"""Answers that no second attempt changes."""

REASONS = {
    "witness.submission": "it finds the submission malformed",
    "witness.signature": "it knows another key for it",
    "witness.unknown-log": "it was not told of it",
    "witness.forked": "it has seen other events",
    "witness.rolled-back": "it has seen more events than there are",
}


class WitnessTable(Table):
    """One independent witness."""

    name: str = Field(description="Name of the witness in its cosignatures.")
    url: str = Field(
        pattern=r"^https?://[^\s]+$",
        description="Where it listens; `/add-checkpoint` is appended.",
    )
    key: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Its Ed25519 public key, 64 hexadecimal digits, as it prints it.",
    )


class WitnessesFile(Table):
    """`witnesses.toml`: the independent witnesses, beside `federation.toml`."""

    version: Literal[1] = Field(description="Version of the file format.")
    witness: tuple[WitnessTable, ...] = Field(description="Every witness.")


def load_witnesses(path: Path, taken: Collection[str] = ()) -> tuple[WitnessTable, ...]:
    """The witnesses that a file names; none if there is no such file.

    Args:
        path: The file.
        taken: Names that no independent witness can have: the parties' in their cosignatures.

    Raises:
        ConfigError: The file is malformed, or a name in it is none, taken, or stands there twice.
    """
    if not path.exists():
        return ()
    witnesses = load_toml(path, WitnessesFile).witness
    names = [witness.name for witness in witnesses]
    for name in names:
        if not is_key_name(name) or name in taken or names.count(name) > 1:
            raise ConfigError(
                "witness.name",
                f"{path}: {name!r} is not the name of one witness",
                remedy="copy the name that 'tacit witness' prints, once",
                file=str(path),
                key="name",
            )
    return witnesses


def submit(witness: WitnessTable, log: Log, timeout_s: float = TIMEOUT_S, known: int = 0) -> str:
    """Asks a witness to cosign the log as it is now.

    Args:
        witness: Whom to ask.
        log: The party's own log; its head is signed.
        timeout_s: How long all of this may take.
        known: Size of the log that the witness is taken to know; it says so if it knows another.

    Returns:
        The cosignature line on ``log.checkpoint()``, verified, with its newline.

    Raises:
        TransportError: The witness cannot be reached, is too slow, or cannot write: try again later.
        LedgerError: It does not cosign. ``witness.rolled-back``: it has seen more of the log than
            there is; ``witness.forked``: it has seen other leaves; ``witness.unknown-log``: it was
            not told of the log; ``witness.signature``: it has another key for it.
        SignatureError, DecodeError: What it answered is not its cosignature.

    Reference: C2SP tlog-witness, "add-checkpoint".
    """
    deadline = time.monotonic() + timeout_s
    for _ in range(ATTEMPTS):
        note, submission = _submission(log, known)
        status, answer = _post(witness, submission, deadline - time.monotonic())
        if status != CONFLICT:
            return _cosignature(witness, note, status, answer)
        size = _size(answer)
        if size is None:
            break
        if size > len(log):
            raise _refused(witness, note, "witness.rolled-back", size)
        if size == submission.old:  # Not the size is wrong, but what it has seen there.
            raise _refused(witness, note, "witness.forked", size)
        known = size  # Or another process of the same party was faster: once more.
    raise _unreachable(witness, "it does not say what it knows")


def _submission(log: Log, known: int) -> tuple[bytes, Submission]:
    """The log's head, and a proof from the size that the witness knows."""
    note = log.checkpoint()
    size = parse_checkpoint(note_text(note)).size
    old = known if known <= size else 0
    return note, Submission(old, log.consistency_proof(old), note)


def _cosignature(witness: WitnessTable, note: bytes, status: int, answer: bytes) -> str:
    if status in REFUSED:
        size = parse_checkpoint(note_text(note)).size
        raise _refused(witness, note, REFUSED[status], size)
    if status != 200:
        raise _unreachable(witness, f"it answered {status}")
    line = answer.decode("utf-8", "replace")
    check_cosignature(line, note_text(note), witness.name, bytes.fromhex(witness.key))
    return line


class IndependentWitnesses:
    """Shows the logs of a run's parties to independent witnesses: before it, every round, and after it.

    Args:
        witnesses: Whom to ask.
        logs: The parties' logs, by name.

    Attributes:
        failures: By witness, why it did not cosign when it was asked last.

    Guarantee: Against a witness that is away, slow or hostile, it costs the run at most ``PATIENCE_S``
    before the first round, in all rounds together, and after the last; and whatever it answers, no more
    than its cosignatures once the run has begun
    (tests/unit/test_engine_witnesses.py::test_a_slow_witness_costs_its_patience_only).
    """

    def __init__(
        self, witnesses: Sequence[WitnessTable], logs: Mapping[PartyName, Log] | None = None
    ) -> None:
        self._witnesses = tuple(witnesses)
        self._logs = dict(logs or {})
        self._known: dict[tuple[str, PartyName], int] = {}
        self._patience = {witness.name: PATIENCE_S for witness in self._witnesses}
        self.failures: dict[str, TacitError] = {}

    @property
    def keys(self) -> dict[str, bytes]:
        """Public keys by name, for a trust file."""
        return {witness.name: bytes.fromhex(witness.key) for witness in self._witnesses}

    def begin(self) -> None:
        """Shows every log before anything of a run is sent.

        Raises:
            LedgerError: A witness has seen more of a log, or another one (``witness.rolled-back``,
                ``witness.forked``): its state was restored or rewritten. Names log and witness.
        """
        for witness in self._witnesses:
            self._ask(witness)
            self._patience[witness.name] = PATIENCE_S
            error = self.failures.get(witness.name)
            if error is not None and error.code in ("witness.rolled-back", "witness.forked"):
                raise error

    def follow(self) -> None:
        """Shows every log as it is after a round; whoever failed before is asked at the end only."""
        for witness in self._witnesses:
            if witness.name not in self.failures:
                self._ask(witness)

    def conclude(self, notes: Mapping[PartyName, bytes]) -> dict[PartyName, list[str]]:
        """The cosignature lines on the final checkpoints, by log.

        Args:
            notes: The signed checkpoint of every log.
        """
        lines: dict[PartyName, list[str]] = {name: [] for name in notes}
        for witness in self._witnesses:
            self.failures.pop(witness.name, None)
            self._patience[witness.name] = PATIENCE_S
            for name, (text, line) in self._ask(witness).items():
                # A log that has grown since was cosigned too, but this is another checkpoint.
                if name in notes and text == note_text(notes[name]):
                    lines[name].append(line)
        return lines

    def _ask(self, witness: WitnessTable) -> dict[PartyName, tuple[str, str]]:
        """Text of the checkpoint and cosignature line by log, up to the first failure."""
        found: dict[PartyName, tuple[str, str]] = {}
        for name, log in self._logs.items():
            began, known = time.monotonic(), self._known.get((witness.name, name), 0)
            try:
                line = submit(witness, log, min(TIMEOUT_S, self._patience[witness.name]), known)
            except TacitError as error:
                error.details.setdefault("party", name)
                self.failures[witness.name] = error
                break
            self._patience[witness.name] -= time.monotonic() - began
            self._known[witness.name, name] = len(log)
            found[name] = note_text(log.checkpoint()), line
        return found


def _post(witness: WitnessTable, submission: Submission, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of the answer, within ``timeout_s`` however slowly it drips in."""
    answers: SimpleQueue[tuple[int, bytes] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_exchange(witness, submission))
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            answers.put(error)

    threading.Thread(target=ask, name=f"witness-{witness.name}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(timeout_s, 0.0))
    except Empty as error:
        raise _unreachable(witness, "no answer in time") from error
    if isinstance(answer, OSError | http.client.HTTPException | ValueError):
        raise _unreachable(witness, str(answer)) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A witness is where its table says; it cannot send the leader elsewhere in its own network."""

    def redirect_request(self, *_: object) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirects)


def _exchange(witness: WitnessTable, submission: Submission) -> tuple[int, bytes]:
    url = f"{witness.url.rstrip('/')}/add-checkpoint"
    request = urllib.request.Request(url, submission.encode(), method="POST")  # noqa: S310 - the table's pattern
    request.add_header("Content-Type", "text/plain")
    try:
        with OPENER.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(ANSWER_LIMIT)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(ANSWER_LIMIT)


def _size(answer: bytes) -> int | None:
    text = answer.removesuffix(b"\n")
    return int(text) if text.isdigit() and len(text) < 20 else None


def _unreachable(witness: WitnessTable, reason: str) -> TransportError:
    return TransportError(
        "witness.unreachable",
        f"witness {witness.name} at {witness.url}: {reason}",
        remedy="check that it runs and that its url in witnesses.toml is right",
        witness=witness.name,
    )


def _refused(witness: WitnessTable, note: bytes, code: str, known: int) -> LedgerError:
    log = parse_checkpoint(note_text(note)).origin
    return LedgerError(
        code,
        f"witness {witness.name} does not cosign {log}: {REASONS[code]}",
        remedy="ask its operator what it has seen; a restored or copied state rolls a log back",
        witness=witness.name,
        known=known,
    )
