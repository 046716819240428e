"""Every decoder that takes bytes from outside, with valid encodings to start from.

An adversary may hold keys of its own: where bytes stand under a signature or a proof, the target makes
it, so that a mutation reaches what lies behind the check.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import cbor2
import numpy as np
from byte_mutations import Shape

from tacit.errors import ConfigError, DecodeError, LedgerError, SignatureError, VerificationError
from tacit.evidence import layout
from tacit.evidence.archive import pack, unpack
from tacit.evidence.head import Head, check_signatures, note_of, sign_line
from tacit.evidence.records import read_log
from tacit.evidence.trust import Trust
from tacit.learn.prior import PublicPrior
from tacit.learn.server import ServerState
from tacit.ledger.log import CHECKPOINT, EVENTS, HEAD, STATE, Log
from tacit.ledger.merkle import EMPTY_ROOT, leaf_hash
from tacit.ledger.note import (
    SIGNATURE_PREFIX,
    Checkpoint,
    key_hash,
    open_checkpoint,
    open_note,
    sign_checkpoint,
)
from tacit.ledger.record import LogRecord
from tacit.party.base import Party, Ports
from tacit.party.heads import SPACE as KNOWN_HEADS
from tacit.party.heads import PeerHeads
from tacit.party.job import JobSpec
from tacit.policy.schema import FeatureColumn, Schema
from tacit.privacy.budget import Account, Budget, BudgetLimits, Limit
from tacit.privacy.journal import SPACE as JOURNAL
from tacit.privacy.plan import Plan
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sealing import SeededSealing
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.trust.roster import DOMAIN, Member, Roster
from tacit.trust.sealing import HpkeSealing
from tacit.types import Milliseconds, PartyName
from tacit.wire.codec import Size, decode, encode
from tacit.wire.envelope import (
    Address,
    Channel,
    Header,
    LogHead,
    SignedMessage,
    check_chunks,
    digest,
    join_chunks,
    open_message,
    sign_message,
    split_chunks,
)
from tacit.wire.messages import MESSAGES, Vector

LIMIT = 2**20
RUN = "ab" * 32
ORIGIN = "demo/north"
ENTROPY = SeededEntropy("decoder targets")
NAMES = tuple(PartyName(name) for name in ("east", "lead", "north"))
IDENTITIES = {name: Identity.generate(ENTROPY.fork(name)) for name in NAMES}
NORTH = IDENTITIES[NAMES[2]]
KEYS = {ORIGIN: NORTH.public_key}


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder: what it may raise, valid inputs, and the shape that mutations keep."""

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    shape: Shape


# --- messages ---------------------------------------------------------------------------------


def example(kind: Any, variant: int) -> Any:
    """An instance of a message class: with the smallest fields (0) or fuller ones (1)."""
    return _example(kind, variant, None)


def _example(kind: Any, variant: int, size: Size | None) -> Any:
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
        size = next((mark for mark in marks if isinstance(mark, Size)), None)
    if get_origin(kind) in (Union, types.UnionType):
        inner = next(part for part in get_args(kind) if part is not type(None))
        return _example(inner, variant, size) if variant else None
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{name: _example(hint, variant, None) for name, hint in hints.items()})
    if kind is bool:
        return bool(variant)
    limits = size or Size(0, 2**63 - 1)
    if kind is int:
        return (limits.minimum, limits.maximum)[variant]
    count = min(limits.maximum, limits.minimum + 2 * variant)
    if get_origin(kind) is tuple:
        return tuple(_example(get_args(kind)[0], variant, None) for _ in range(count))
    return bytes(range(count % 256)) + bytes(count - count % 256) if kind is bytes else "e" * count


def _channel() -> Channel:
    return Channel(
        run=digest(b"run"),
        roster=digest(b"roster"),
        job=digest(b"job"),
        sender=Address(NAMES[2], "client"),
        signer=NORTH,
        log=LogHead(7, digest(b"log")),
    )


def _signed(kind: type) -> bytes:
    body = example(kind, 1)
    return sign_message(_channel(), Address(NAMES[1], "leader"), body, round_number=3).message


def _open_header(header: bytes) -> None:
    """A sender with a key signs whatever header it likes."""
    if not header:
        return
    signed = SignedMessage(header=header, signature=bytes(64))
    open_message(encode(signed), lambda *_: None, limit=LIMIT)


CHUNKED = 5


def _chunks(data: bytes) -> None:
    """A signed description and what followed it, for a receiver that expects five elements."""
    try:
        plain = cbor2.loads(data)
    except Exception:  # noqa: BLE001 - this harness's own wrapping, not the target
        return
    if not (isinstance(plain, list) and len(plain) == 2 and isinstance(plain[1], list)):
        return
    if not all(isinstance(chunk, bytes) for chunk in plain[1]):
        return
    vector = decode(Vector, cbor2.dumps(plain[0], canonical=True), LIMIT)
    for item_bytes in (2, 3, 4):
        for check in (check_chunks, join_chunks):
            try:
                tuple(check(vector, plain[1], CHUNKED, item_bytes))
            except DecodeError:
                continue


def _chunk_seeds() -> tuple[bytes, ...]:
    found = []
    for item_bytes in (2, 3, 4):
        vector, chunks = split_chunks(bytes(range(CHUNKED * item_bytes)), CHUNKED)
        found.append(cbor2.dumps([dataclasses.asdict(vector), list(chunks)], canonical=True))
    return tuple(found)


def message_targets() -> list[Target]:
    """The codec under every message class, and the layers around a message."""
    classes: dict[str, Any] = {**MESSAGES, "signed-message": SignedMessage, "header": Header}
    targets = [
        Target(
            f"message/{name}",
            functools.partial(decode, kind, limit=LIMIT),
            (DecodeError,),
            (encode(example(kind, 0)), encode(example(kind, 1))),
            "cbor",
        )
        for name, kind in classes.items()
    ]
    raw = tuple(_signed(kind) for kind in MESSAGES.values())
    headers = tuple(decode(SignedMessage, data, LIMIT).header for data in raw)

    def open_raw(data: bytes) -> object:
        return open_message(data, lambda *_: None, limit=LIMIT)

    return [
        *targets,
        Target("open-message", open_raw, (DecodeError,), raw, "cbor"),
        Target("open-header", _open_header, (DecodeError,), headers, "cbor"),
        Target(
            "address",
            lambda data: Address.parse(data.decode("utf-8", "surrogateescape")),
            (DecodeError,),
            (b"north/client", b"lead/leader"),
            "text",
        ),
        Target("chunks", _chunks, (DecodeError,), _chunk_seeds(), "cbor"),
    ]


# --- records ----------------------------------------------------------------------------------

JOB = {
    "version": 1,
    "name": "fuzz",
    "purpose": "test",
    "rounds": 3,
    "model": "logistic",
    "data": {"contract": "synthetic"},
    "evaluation": {"contract": "evaluation.toml"},
    "privacy": {"epsilon": 8.0, "sampling_rate": 0.5, "expected_units": 400},
    "aggregation": {"min_cohort": 3, "helpers": ["east", "north"]},
}
SCHEMA = Schema(
    (FeatureColumn("age", 0.0, 120.0), FeatureColumn("b", -1.5, 1e-3)), "label", ("no", "yes")
)


def _plan(data: bytes) -> None:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return  # Terms.of handles these
    plan = Plan.from_record(record)
    assert Plan.from_record(json.loads(plan.canonical())) == plan


def _plan_seeds() -> tuple[bytes, ...]:
    record = Plan(
        unit="record",
        rounds=3,
        delta=1e-5,
        clip_norm=1.0,
        sampling_rate=0.5,
        visible_sampling=False,
        max_participations=0,
        expected_units=400,
        noise_multiplier=2.0,
        helpers=4,
        min_helpers=3,
        max_colluding=1,
        ring_bits=32,
        grid=2.0**-16,
        units_bound=400,
    )
    none = dataclasses.replace(record, unit="none", noise_multiplier=0.0, max_colluding=0)
    client = dataclasses.replace(record, unit="client", visible_sampling=True, max_participations=2)
    return (record.canonical(), none.canonical(), client.canonical())


def record_targets() -> list[Target]:
    """What a manifest, an offer or a catch-up names by digest."""
    vector = [0.5, -2.0, 1e300]
    state = ServerState(vector, vector, vector, vector, averaged=1, steps=2)  # type: ignore[arg-type]
    job = JobSpec.model_validate(JOB)
    prior = PublicPrior.fit(np.eye(3), name="corners", rank=2, power=1.0)
    return [
        Target("plan", _plan, (DecodeError,), _plan_seeds(), "json"),
        Target("job", JobSpec.from_canonical, (DecodeError,), (job.canonical(),), "json"),
        Target("schema", Schema.from_canonical, (DecodeError,), (SCHEMA.canonical(),), "json"),
        Target(
            "server-state", ServerState.from_bytes, (DecodeError,), (state.to_bytes(),), "bytes"
        ),
        Target("prior", PublicPrior.from_bytes, (DecodeError,), (prior.to_bytes(),), "bytes"),
    ]


# --- ledger and evidence ----------------------------------------------------------------------

EVENT = {
    "type": "client.budget.charged",
    "role": "client",
    "run": RUN,
    "round": 1,
    "epsilon": "0.25",
    "model": RUN,
    "uploads": [RUN, RUN],
    "allowed": True,
    "note": 'é\n"\x1f',
}
FIELDS = (*EVENT, "seq", "missing")
NO_PROOF = b'{"before":[],"leaves":{},"start":0}'


class InMemoryPath:
    """A file that only ever existed here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def is_fifo(self) -> bool:
        """Never."""
        return False

    def open(self, mode: str) -> io.BytesIO:
        """A handle for reading."""
        return io.BytesIO(self._data)

    def __str__(self) -> str:
        return "file"


def _ledger() -> Log:
    store = MemoryStore()
    log = Log(store, ORIGIN, NORTH)
    with store.transaction():
        for number in (1, 2):
            log.append({**EVENT, "round": number}, Milliseconds(5))
        log.append({"type": "client.run.closed", "run": RUN}, Milliseconds(6))
    return log


def _record(events: bytes, proof: bytes, checkpoint: Checkpoint) -> None:
    read_log("north", RUN, LogRecord(events, proof), checkpoint)


def _event(leaf: bytes) -> None:
    """A party logs whatever bytes it likes as its only event; a verifier reads every field of it."""
    checkpoint = Checkpoint(ORIGIN, 1, leaf_hash(leaf))
    record = LogRecord(leaf + b"\n", NO_PROOF)
    (event,) = read_log("north", RUN, record, checkpoint).events
    assert isinstance(event.role, str)
    for read in (event.text, event.digest, event.digests, event.number, event.decimal, event.flag):
        for name in FIELDS:
            try:
                read(name)
            except DecodeError:
                continue


def _checkpoint(text: bytes) -> None:
    """A log signs whatever text it likes as its checkpoint."""
    mark = base64.b64encode(key_hash(ORIGIN, NORTH.public_key) + NORTH.sign(text)).decode()
    open_checkpoint(text + f"\n{SIGNATURE_PREFIX}{ORIGIN} {mark}\n".encode(), KEYS)


def _stored(key: str, space: str) -> Callable[[bytes], None]:
    """A party's own store, damaged in one value."""

    def run(data: bytes) -> None:
        store = _ledger()._store
        with store.transaction():
            store.put(space, key, data)
        log = Log(store, ORIGIN, NORTH)
        log.events(RUN)

    return run


def ledger_targets() -> list[Target]:
    """Notes, checkpoints and the records of logs."""
    log = _ledger()
    note = log.checkpoint()
    checkpoint = open_checkpoint(note, KEYS)
    record = log.record(RUN)
    text = note.rpartition(b"\n\n")[0] + b"\n"
    first, second = (leaf for _, leaf in log.events(RUN)[:2])
    stored = log._store
    errors = (DecodeError, SignatureError)
    return [
        Target("note", lambda data: open_note(data, KEYS), errors, (note,), "text"),
        Target("checkpoint", _checkpoint, (*errors, LedgerError), (text,), "text"),
        Target(
            "log-record",
            lambda data: _record(data, record.proof, checkpoint),
            (LedgerError,),
            (record.events,),
            "text",
        ),
        Target("log-event", _event, (LedgerError,), (first,), "json"),
        Target("stored-event", _stored("000000000001", EVENTS), (LedgerError,), (second,), "json"),
        Target(
            "stored-head",
            _stored(HEAD, STATE),
            (LedgerError,),
            (stored.get(STATE, HEAD) or b"",),
            "text",
        ),
        Target(
            "stored-checkpoint",
            _stored(CHECKPOINT, STATE),
            (LedgerError,),
            (note, sign_checkpoint(ORIGIN, 0, EMPTY_ROOT, NORTH, ORIGIN)),
            "text",
        ),
    ]


def _roster() -> Roster:
    roles: dict[str, tuple[Any, ...]] = {"lead": ("leader",)}
    return Roster(
        "demo",
        tuple(
            Member(
                name,
                f"{name}-clinic",
                "eu",
                roles.get(name, ("client", "helper")),
                IDENTITIES[name].public_key,
            )
            for name in NAMES
        ),
    )


def _roster_file(roster: Roster) -> bytes:
    lines = ["version = 1", 'federation = "demo"']
    for member in roster.members:
        signature = IDENTITIES[member.name].sign(DOMAIN + roster.canonical).hex()
        roles = ", ".join(f'"{role}"' for role in member.roles)
        lines += [
            "[[member]]",
            f'name = "{member.name}"',
            f'operator = "{member.operator}"',
            f'region = "{member.region}"',
            f"roles = [{roles}]",
            f'key = "{member.key.hex()}"',
            f'signature = "{signature}"',
        ]
    return ("\n".join(lines) + "\n").encode()


def _unpack(data: bytes) -> None:
    """The archive, and the places that its names stand for."""
    for name in unpack(data):
        layout.place(name)
        layout.closed_round(name)
        layout.log_party(name)
        layout.is_known(name)


def evidence_targets() -> list[Target]:
    """Bundles, the roster and the files that an auditor or operator loads."""
    roster = _roster()
    leader = NAMES[1]
    members = {"job.json": b"{}", layout.ROSTER: roster.canonical, layout.aggregate(1): bytes(40)}
    files = {layout.ROSTER: RUN, layout.JOB: RUN}
    head = Head("demo", RUN, "complete", RUN, RUN, ("time",), files)
    manifest = head.canonical()
    keys = {leader: IDENTITIES[leader].public_key}
    return [
        Target("archive", _unpack, (DecodeError,), (pack(members), pack({})), "bytes"),
        Target("bundle-head", Head.from_canonical, (DecodeError,), (manifest,), "json"),
        Target(
            "bundle-signature",
            lambda data: check_signatures(data, manifest, "demo", keys),
            (DecodeError, SignatureError),
            (note_of(manifest, [sign_line(manifest, "demo", leader, IDENTITIES[leader])]),),
            "text",
        ),
        Target("roster", Roster.from_canonical, (DecodeError,), (roster.canonical,), "json"),
        Target(
            "federation-toml",
            lambda data: Roster.load(InMemoryPath(data)),  # type: ignore[arg-type]
            (ConfigError, SignatureError),
            (_roster_file(roster),),
            "text",
        ),
        Target(
            "trust-json",
            lambda data: Trust.load(InMemoryPath(data)),  # type: ignore[arg-type]
            (ConfigError,),
            (Trust.of(roster).canonical(), Trust.of(roster, run=RUN).canonical()),
            "json",
        ),
    ]


# --- budgets ----------------------------------------------------------------------------------

LIMITS = BudgetLimits(Limit(2.0, 1e-4), purposes={"research": 1.5})


def _journal() -> MemoryStore:
    store, now = MemoryStore(), Milliseconds(5)
    budget = Budget(store, LIMITS)
    budget.reserve(RUN, Account("everyone", "research", "record"), 1.0, 1e-5, now)
    budget.charge(RUN, 1, 0.25, now)
    budget.settle(RUN, 0.5, now)
    return store


def _stored_budget(key: str) -> Callable[[bytes], None]:
    """A site's own budget, damaged in one value; whatever is taken for sound must add up."""

    def run(data: bytes) -> None:
        store = _journal()
        with store.transaction():
            store.put(JOURNAL, key, data)
        budget = Budget(store, LIMITS)
        budget.spent("everyone", "research")
        list(budget.history())

    return run


def _known_head(data: bytes) -> None:
    """What a party remembers of a site, damaged."""
    store, roster = MemoryStore(), _roster()
    ports = Ports.of(
        NAMES[1],
        roster,
        entropy=ENTROPY,
        signer=IDENTITIES[NAMES[1]],
        sealing=SeededSealing(ENTROPY),
        store=store,
    )
    with store.transaction():
        store.put(KNOWN_HEADS, NAMES[2], data)
    PeerHeads(Party(Address(NAMES[1], "leader"), roster, ports)).all()


def budget_targets() -> list[Target]:
    """The journal of a budget, and what peers remember of one."""
    stored, errors = _journal(), (VerificationError,)
    first, charge, last = (stored.get(JOURNAL, f"{i:012d}") or b"" for i in range(3))
    head = stored.get(JOURNAL, "head") or b""
    known = (bytes(8), (1).to_bytes(8, "big") + bytes(32), (70).to_bytes(8, "big") + bytes(64 * 32))
    return [
        Target("stored-charge", _stored_budget(f"{1:012d}"), errors, (charge,), "json"),
        Target("stored-reservation", _stored_budget(f"{0:012d}"), errors, (first,), "json"),
        Target("stored-settlement", _stored_budget(f"{2:012d}"), errors, (last,), "json"),
        Target("stored-budget-head", _stored_budget("head"), errors, (head,), "text"),
        Target("known-head", _known_head, errors, known, "bytes"),
    ]


# --- sealed bytes -----------------------------------------------------------------------------


def sealing_targets() -> list[Target]:
    """The openers of sealed bytes, and keys to seal to."""
    targets = []
    for name, sealing in (("hpke", HpkeSealing()), ("seeded", SeededSealing(ENTROPY.fork("seal")))):
        opener = sealing.generate()
        sealed = sealing.seal(b"secret", opener.public_key, b"info")
        targets += [
            Target(
                f"{name}-open",
                functools.partial(opener.open, info=b"info"),
                (DecodeError,),
                (sealed, sealing.seal(b"", opener.public_key, b"info")),
                "bytes",
            ),
            Target(
                f"{name}-key",
                functools.partial(_seal_to, sealing),
                (DecodeError,),
                (opener.public_key,),
                "bytes",
            ),
        ]
    return targets


def _seal_to(sealing: Any, public_key: bytes) -> None:
    sealing.seal(b"secret", public_key, b"info")


@functools.cache
def all_targets() -> dict[str, Target]:
    """Every target by name."""
    from statement_targets import statement_targets
    from witness_targets import witness_targets

    found = [
        *message_targets(),
        *record_targets(),
        *ledger_targets(),
        *witness_targets(),
        *evidence_targets(),
        *statement_targets(),
        *budget_targets(),
        *sealing_targets(),
    ]
    return {target.name: target for target in found}
