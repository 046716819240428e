"""An independent witness: a small HTTP server that cosigns the logs of the federations it is told of.

It speaks C2SP tlog-witness. It reads nothing of a log but its checkpoints, which hold a name, a number
and a hash; nobody needs to be trusted with more to run one. It speaks plain HTTP: every answer is
signed, and nothing in it is secret. On the open Internet a proxy in front of it keeps slow clients away.

Reference: C2SP tlog-witness, https://c2sp.org/tlog-witness.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tacit.engine.clock import wall_clock
from tacit.engine.store import STATE, SqliteStore
from tacit.errors import (
    ConfigError,
    DecodeError,
    LedgerError,
    SignatureError,
    TransportError,
)
from tacit.ledger.log import Log, log_origin
from tacit.ledger.merkle import Head
from tacit.ledger.note import (
    COSIGNATURE,
    is_key_name,
    note_text,
    open_checkpoint,
    parse_checkpoint,
    verifier_key,
)
from tacit.ledger.submission import SUBMISSION_LIMIT, Submission
from tacit.ledger.witness import NOTHING, Witness
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import Roster
from tacit.types import Milliseconds, Signer

__all__ = [
    "SIZE_TYPE",
    "Observation",
    "Reply",
    "WitnessServer",
    "WitnessService",
    "known_logs",
    "open_witness",
]

SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"
JSON_TYPE = "application/json"
KEY_FILE = Path("keys") / "witness.key"
SPACE = "witness-service"
"""Space of the store in which the name and what was refused are remembered."""
NAME = "name"


@dataclass(frozen=True, slots=True)
class Observation:
    """What a witness did with a checkpoint: cosigned it, or refused it for ``code``."""

    log: str
    size: int
    known: int
    code: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an HTTP client is answered."""

    status: HTTPStatus
    body: bytes = b""
    kind: str = TEXT_TYPE


class WitnessService:
    """Answers submissions, one at a time.

    Args:
        store: Memory of the witness; its own log of what it refused is in there too.
        name: Name of the witness in its cosignatures.
        signer: Its key.
        logs: Origin -> raw Ed25519 public key of the logs that it witnesses.
        tell: Called with everything that was cosigned, and with every fork, once for each log and size.
        clock: Gives the time.

    Raises:
        ConfigError: ``name`` is no name of a key, that of a log, or not the name that the store is of.
        LedgerError: The witness's own log was tampered with.

    Guarantee: Against the owner of a log and whoever else can reach the server, two heads of which
    neither extends the other are never both cosigned; two of one size stay in the witness's own log, as
    the owner signed them
    (tests/e2e/test_witness.py::test_two_conflicting_heads_are_not_both_cosigned). Against whoever can
    reach the server, no log is accused on the strength of old heads or of proofs, which its owner has
    not signed (tests/unit/test_engine_witness.py::test_nobody_else_can_have_a_log_accused).
    """

    def __init__(
        self,
        store: SqliteStore,
        name: str,
        signer: Signer,
        logs: Mapping[str, bytes],
        tell: Callable[[Observation], None] = lambda _: None,
        clock: Callable[[], Milliseconds] = wall_clock,
    ) -> None:
        _check_name(store, name, logs)
        self.name = name
        self.public_key = signer.public_key
        self._store = store
        self._logs = logs
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._witness = Witness(store, name, signer)
        self._log = Log(store, name, signer)

    def describe(self) -> dict[str, str]:
        """Who this is, for people and for their trust files."""
        return {
            "name": self.name,
            "key": self.public_key.hex(),
            "verifier_key": verifier_key(self.name, self.public_key, COSIGNATURE),
        }

    def answer(self, body: bytes) -> Reply:
        """The answer to one ``add-checkpoint``."""
        try:
            submission = Submission.decode(body)
            checkpoint = parse_checkpoint(note_text(submission.note))
            key = self._logs.get(checkpoint.origin)
            if key is None:
                return _text(HTTPStatus.NOT_FOUND, f"no log {checkpoint.origin} is witnessed here")
            open_checkpoint(submission.note, {checkpoint.origin: key})
        except SignatureError as error:
            return _text(HTTPStatus.FORBIDDEN, error.message)
        except (DecodeError, LedgerError) as error:
            return _text(HTTPStatus.BAD_REQUEST, error.message)
        if submission.old > checkpoint.size:
            return _text(HTTPStatus.BAD_REQUEST, "the old size is above that of the checkpoint")
        head = Head(checkpoint.size, checkpoint.root)
        try:
            with self._lock:
                return self._judge(submission, checkpoint.origin, key, head)
        except (TransportError, LedgerError):
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the witness has trouble with its store")

    def close(self) -> None:
        """Waits for the submission in hand, and closes the store."""
        with self._lock:
            self._store.close()

    def _judge(self, submission: Submission, origin: str, key: bytes, head: Head) -> Reply:
        known = self._witness.known(origin) or NOTHING
        if submission.old != known.size and (head.size > known.size or head == known):
            return _size(known)  # Nothing wrong: the log asks what is known, or is not up to date.
        proofs, now = {submission.old: submission.proof}, self._clock()
        before = self._witness.note(origin)
        try:
            line = self._witness.cosign(submission.note, key, origin, proofs, now)
        except LedgerError as error:
            if head.size > known.size:  # Whoever sent it may have spoiled the proof: no misdeed.
                return _text(HTTPStatus.UNPROCESSABLE_ENTITY, "the consistency proof is wrong")
            if head.size == known.size and before is not None:
                seen = Observation(origin, head.size, known.size, error.code)
                self._keep_conflict(seen, before, submission.note)
            return _size(known)  # A smaller head is old; anybody can show one again.
        self._tell(Observation(origin, head.size, known.size))
        return Reply(HTTPStatus.OK, line.encode())

    def _keep_conflict(self, seen: Observation, before: bytes, note: bytes) -> None:
        """Logs two heads of one size, both signed by the log's owner; once for each log and size."""
        key = f"refused/{seen.log}/{seen.size}"
        if self._store.get(SPACE, key) is not None:
            return
        with self._store.transaction():
            notes = {"note": note.decode(), "before": before.decode()}
            self._log.append({"type": "witness.refused", **asdict(seen), **notes}, self._clock())
            self._store.put(SPACE, key, b"")
        self._tell(seen)


def known_logs(rosters: Iterable[Roster]) -> dict[str, bytes]:
    """Origin -> public key of the log of every party.

    Raises:
        ConfigError: Two rosters name different keys for one log.
    """
    logs: dict[str, bytes] = {}
    for roster in rosters:
        for member in roster.members:
            origin = log_origin(roster.federation, member.name)
            if logs.setdefault(origin, member.key) != member.key:
                raise ConfigError(
                    "witness.rosters",
                    f"two rosters name different keys for the log {origin}",
                    remedy="pass one roster of each federation, the one that its operators signed last",
                )
    return logs


def open_witness(
    folder: Path,
    rosters: Iterable[Path],
    name: str,
    tell: Callable[[Observation], None] = lambda _: None,
) -> WitnessService:
    """The witness that is kept in a folder, which is made, with a new key, if it is not there.

    Args:
        folder: Holds ``keys/witness.key`` and ``state/tacit.db``.
        rosters: The ``federation.toml`` of every federation whose logs it witnesses.
        name: Name of the witness in its cosignatures.
        tell: As for ``WitnessService``.

    Raises:
        ConfigError: Names file and remedy.
        SignatureError: A roster is not signed by all its operators.
        LedgerError: The witness's own log was tampered with.
        TransportError: The folder cannot be written.
    """
    logs = known_logs([Roster.load(path) for path in rosters])
    key_file = folder / KEY_FILE
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            "witness.folder",
            f"{key_file.parent} cannot be made: {error.strerror}",
            remedy="choose another folder, or check its permissions",
            file=str(key_file.parent),
        ) from error
    if not key_file.exists():
        Identity.generate(OsEntropy()).save(key_file)
    return WitnessService(SqliteStore(folder / STATE), name, Identity.load(key_file), logs, tell)


class WitnessServer(ThreadingHTTPServer):
    """Serves one witness under an address.

    Args:
        service: The witness.
        address: Host and port; port 0 takes a free one.
        connections: How many are served at once; further ones are closed.
        timeout_s: How long a client may keep its connection waiting.
        lifetime_s: How long a connection may last, however busy it is.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    daemon_threads = True
    # The default, 5, resets connections when many parties submit at once.
    request_queue_size = 128

    def __init__(
        self,
        service: WitnessService,
        address: tuple[str, int],
        connections: int = 64,
        timeout_s: float = 10.0,
        lifetime_s: float = 60.0,
    ) -> None:
        self.service = service
        self.timeout_s = timeout_s
        self._lifetime_s = lifetime_s
        self._free = threading.BoundedSemaphore(connections)
        try:
            if ":" in address[0]:
                self.address_family = socket.AF_INET6
            super().__init__(address, _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "witness.listen",
                f"cannot listen on {address[0]}:{address[1]}: {error}",
                remedy="choose another --listen HOST:PORT",
            ) from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """Takes a connection on, unless there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection to its end, or to the end of its time."""
        over = threading.Timer(self._lifetime_s, _hang_up, (request,))
        over.daemon = True
        over.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            over.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    protocol_version = "HTTP/1.1"
    server_version = "tacit-witness"
    sys_version = ""

    def setup(self) -> None:
        self.request.settimeout(self.server.timeout_s)
        super().setup()

    def do_GET(self) -> None:
        lengths = self.headers.get_all("Content-Length", ["0"])
        if lengths != ["0"] or "Transfer-Encoding" in self.headers:
            # Its body would be read as the next request, which a proxy may take for somebody else's.
            self._refuse(HTTPStatus.BAD_REQUEST, "a GET has no body")
        elif self.path != "/":
            self._send(_text(HTTPStatus.NOT_FOUND, "there is only / and /add-checkpoint"))
        else:
            body = json.dumps(self.server.service.describe(), indent=2).encode() + b"\n"
            self._send(Reply(HTTPStatus.OK, body, JSON_TYPE))

    def do_POST(self) -> None:
        lengths = self.headers.get_all("Content-Length", [])
        length = lengths[0] if len(lengths) == 1 else ""
        if not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a submission says its length")
        elif len(length) > 9 or int(length) > SUBMISSION_LIMIT:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {SUBMISSION_LIMIT} bytes")
        elif self.path != "/add-checkpoint":
            self._refuse(HTTPStatus.NOT_FOUND, "there is only / and /add-checkpoint")
        else:
            self._send(self.server.service.answer(self.rfile.read(int(length))))

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answers without having read the body, after which the connection cannot go on."""
        self.close_connection = True
        self._send(_text(status, text))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """What matters is told by the service."""


def _hang_up(connection: socket.socket) -> None:
    """Ends a connection whose thread may wait for its next byte."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _text(status: HTTPStatus, text: str) -> Reply:
    return Reply(status, f"{text}\n".encode())


def _size(known: Head) -> Reply:
    return Reply(HTTPStatus.CONFLICT, f"{known.size}\n".encode(), SIZE_TYPE)


def _check_name(store: SqliteStore, name: str, logs: Mapping[str, bytes]) -> None:
    """A witness keeps its name: its cosignatures and its own log are under it."""
    if not is_key_name(name) or name in logs:
        raise ConfigError(
            "witness.name",
            f"a witness cannot be called {name!r}",
            remedy="pass --name with a name without spaces and '+' that is no party's log",
        )
    before = store.get(SPACE, NAME)
    if before is None:
        with store.transaction():
            store.put(SPACE, NAME, name.encode())
    elif before != name.encode():
        raise ConfigError(
            "witness.name",
            f"this witness is called {before.decode()!r}, not {name!r}",
            remedy=f"pass --name {before.decode()}, or start another witness in another folder",
        )
