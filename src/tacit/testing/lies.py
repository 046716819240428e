"""Lies for negative tests: forged messages, and checks that a party refused them without a leak.

All over a ``SmallFederation``, whose identities sign whatever a test makes up.
"""

# ruff: noqa: SLF001 - what must not change lies inside the parties

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.errors import TacitError
from tacit.party.base import log_head
from tacit.party.coordinator import Coordinator
from tacit.party.helper import Helper
from tacit.party.site import Site
from tacit.testing.federation import (
    SITES,
    SmallFederation,
)
from tacit.types import PartyName, Role
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import (
    DOMAIN,
    KIND_OF,
    MAX_MESSAGE,
    WIRE_VERSION,
    Address,
    Envelope,
    Header,
    SignedMessage,
    split_chunks,
)
from tacit.wire.messages import (
    Accept,
    CatchUpRequest,
    HelperKey,
    KeptRequest,
    Record,
    Refusal,
    SealedSeed,
    Vector,
)

__all__ = [
    "ANY_ACCEPT",
    "ANY_RECORD",
    "ANY_VECTOR",
    "EAST",
    "GROUP_ORDER",
    "JUNK_KEY",
    "NORTH",
    "SOUTH",
    "WEST",
    "Lie",
    "Make",
    "about_sum",
    "another_run",
    "by_leader",
    "by_name",
    "client",
    "forge",
    "helper",
    "helper_leaks_nothing",
    "key_of",
    "leader_unmoved",
    "offer_to",
    "plus_group_order",
    "raw",
    "resigned",
    "seeds_of",
    "set_limits",
    "site_leaks_nothing",
    "start_of",
    "sum_of_bytes",
    "unserved",
    "upload_as",
    "with_key",
    "with_upload",
    "without",
]

EAST, NORTH, SOUTH, WEST = SITES
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Order of the base point of Ed25519 (RFC 8032 section 5.1)."""
JUNK_KEY = b"k" * 33
"""No sealing key of any kind."""
ANY_VECTOR = Vector(0, ())
ANY_RECORD = Record(b"x", ANY_VECTOR, b"{}", (), b"")
ANY_ACCEPT = Accept(bytes(32), bytes(32), bytes(32), 0, (), ())
Make = Callable[[SmallFederation, Envelope], Envelope]
"""Turns the honest message into a lie."""


# --- how to lie ---------------------------------------------------------------------------------


def forge(
    small: SmallFederation,
    sender: Address,
    receiver: Address,
    body: Any,
    number: int = 0,
    /,
    *,
    signer: PartyName | None = None,
    chunks: Sequence[bytes] = (),
    **header: Any,
) -> Envelope:
    """A message with any header at all, signed by its sender or by somebody else."""
    fields: dict[str, Any] = {
        "version": WIRE_VERSION,
        "type": KIND_OF[type(body)],
        "run": small.terms.run,
        "round": number,
        "sender": str(sender),
        "receiver": str(receiver),
        "roster": small.roster.digest,
        "job": small.terms.manifest.job,
        "log": log_head(small.sites.get(signer or sender.party, small.leader).ports.log),
        "body": encode(body),
    }
    encoded = encode(Header(**{**fields, **header}))
    signature = small.identity(signer or sender.party).sign(DOMAIN + encoded)
    return Envelope(receiver, encode(SignedMessage(encoded, signature)), chunks)


def by_leader(small: SmallFederation, honest: Envelope, /, **header: Any) -> Envelope:
    """The honest body under another header, signed by the leader."""
    message = small.read(honest)
    return forge(
        small,
        message.sender,
        honest.receiver,
        message.body,
        message.round,
        chunks=honest.chunks,
        **header,
    )


def resigned(envelope: Envelope, change: Callable[[bytes], bytes]) -> Envelope:
    """The envelope with another signature over the same header."""
    signed = decode(SignedMessage, envelope.message, MAX_MESSAGE)
    changed = dataclasses.replace(signed, signature=change(signed.signature))
    return dataclasses.replace(envelope, message=encode(changed))


def plus_group_order(signature: bytes) -> bytes:
    """(R, S + L): the same signature in an encoding that RFC 8032 forbids."""
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


def helper(name: PartyName) -> Address:
    """A party as a helper."""
    return Address(name, "helper")


def client(name: PartyName) -> Address:
    """A party as a client."""
    return Address(name, "client")


def key_of(
    small: SmallFederation,
    name: PartyName,
    number: int,
    key: bytes,
    *,
    role: Role = "helper",
    signer: PartyName | None = None,
) -> bytes:
    """A signed ``HelperKey`` in the name of a party."""
    sender, leader = Address(name, role), small.leader.address
    return forge(small, sender, leader, HelperKey(key), number, signer=signer).message


def raw(small: SmallFederation, message: bytes) -> Envelope:
    """A signed message on its way to the leader."""
    return Envelope(small.leader.address, message)


def with_key(index: int, make: Callable[[SmallFederation, int], bytes]) -> Make:
    """Replaces one helper's key in a round's start or a mask request."""

    def lie(small: SmallFederation, honest: Envelope) -> Envelope:
        message = small.read(honest)
        keys = list(message.body.keys)
        keys[index] = make(small, message.round)
        return small.lie(honest, keys=tuple(keys))

    return lie


def about_sum(**changes: Any) -> Make:
    """Other fields in the previous aggregate; a callable gets (small, aggregate)."""

    def lie(small: SmallFederation, honest: Envelope) -> Envelope:
        aggregate = small.read(honest).body.previous
        fields = {k: v(small, aggregate) if callable(v) else v for k, v in changes.items()}
        return small.lie(honest, previous=dataclasses.replace(aggregate, **fields))

    return lie


def sum_of_bytes(change: Callable[[bytes, int], tuple[bytes, int]]) -> Make:
    """Another vector in the previous aggregate, consistent with its own digests."""

    def lie(small: SmallFederation, honest: Envelope) -> Envelope:
        data, length = change(b"".join(honest.chunks), small.terms.manifest.length)
        vector, chunks = split_chunks(data, length)
        previous = dataclasses.replace(small.read(honest).body.previous, vector=vector)
        return small.lie(honest, chunks, previous=previous)

    return lie


@dataclass(frozen=True)
class Lie:
    """A behaviour: what arrives, and the code of the refusal; ``error`` where the bytes prove no sender."""

    name: str
    make: Make
    code: str = ""
    error: type[TacitError] | None = None


def unserved(body: Any) -> Make:
    """A message of a kind that the receiver does not serve, by the leader."""

    def lie(small: SmallFederation, honest: Envelope) -> Envelope:
        return forge(small, small.leader.address, honest.receiver, body, 1)

    return lie


def with_upload(index: int, make: Callable[[SmallFederation, Envelope], bytes]) -> Make:
    """Replaces one signed upload of a mask request; ``make`` gets the honest one."""

    def lie(small: SmallFederation, request: Envelope) -> Envelope:
        uploads = list(small.read(request).body.uploads)
        uploads[index] = make(small, raw(small, uploads[index]))
        return small.lie(request, uploads=tuple(uploads))

    return lie


def upload_as(sender: Address, number: int = 1, signer: PartyName | None = None) -> Any:
    """The same upload in the name of somebody else, or of another round."""

    def make(small: SmallFederation, honest: Envelope) -> bytes:
        body = small.read(honest).body
        return forge(small, sender, small.leader.address, body, number, signer=signer).message

    return make


def seeds_of(small: SmallFederation, other: bytes) -> tuple[SealedSeed, ...]:
    """The sealed seeds of a signed upload."""
    seeds: tuple[SealedSeed, ...] = small.read(raw(small, other)).body.seeds
    return seeds


def by_name(lies: list[Lie]) -> dict[str, Any]:
    """What ``pytest.mark.parametrize`` takes: one test for each lie, under its name."""
    names = [lie.name for lie in lies]
    if len(set(names)) != len(names):
        raise ValueError("two lies have one name")
    return {"argnames": "lie", "argvalues": lies, "ids": names}


def set_limits(small: SmallFederation, name: PartyName = NORTH, **limits: Any) -> None:
    """Changes a site's ``[limits]``, as its operator could."""
    site = small.sites[name]
    changed = site._setup.config.limits.model_copy(update=limits)
    config = site._setup.config.model_copy(update={"limits": changed})
    site._setup = site._admission._setup = dataclasses.replace(site._setup, config=config)


def another_run(small: SmallFederation) -> SmallFederation:
    """A second run of the same federation, by the same parties."""
    return SmallFederation(small.folder, seed="another run")


def offer_to(small: SmallFederation, receiver: Address) -> Envelope:
    """The honest offer."""
    return forge(small, small.leader.address, receiver, small.offer)


def start_of(small: SmallFederation, name: PartyName) -> Envelope:
    """The start of the round in progress, for another site."""
    assert small.leader._desk is not None
    body, chunks = small.leader._desk.start, small.leader._desk.chunks
    number = small.leader._round.number
    return forge(small, small.leader.address, client(name), body, number, chunks=chunks)


def without(*names: PartyName) -> Make:
    """A round's start without the keys of some helpers."""

    def lie(small: SmallFederation, start: Envelope) -> Envelope:
        keys = zip(SITES, small.read(start).body.keys, strict=True)
        return small.lie(start, keys=tuple(key for name, key in keys if name not in names))

    return lie


# --- what must not happen -----------------------------------------------------------------------


def _served(
    party: Site | Helper | Coordinator,
    small: SmallFederation,
    envelope: Envelope,
    error: type[TacitError] | None,
) -> tuple[list[Any], str]:
    """The bodies of the answers, or the code of the error that ``receive`` raised as it should."""
    try:
        made = party.receive(envelope, small.clock())
    except TacitError as raised:
        assert error is not None, f"raised {raised!r}"
        assert isinstance(raised, error), f"raised {raised!r}"
        return [], raised.code
    assert error is None, "raised nothing"
    return [small.read(one).body for one in made], ""


def site_leaks_nothing(small: SmallFederation, envelope: Envelope, lie: Lie) -> None:
    """North's site refuses: nothing is uploaded, charged or taken over."""
    site = small.sites[NORTH]
    state = site.state(small.terms.run_id)
    kept = ("uploads", "round", "upload", "upload-digest", "model", "applied", "first-cohort")

    def everything() -> list[Any]:
        return [site.budget.entries(), *(state.get(key) for key in kept)]

    site._seen.clear()  # Some lies differ in their chunks only.
    before, site.last_error = everything(), None
    bodies, raised = _served(site, small, envelope, lie.error)
    if [type(body) for body in bodies] == [CatchUpRequest]:
        # It may have missed something, and asks for it once a round; then it refuses.
        bodies, raised = _served(site, small, envelope, lie.error)
    if [type(body) for body in bodies] == [KeptRequest]:
        # What may be damage on the way is asked for again, some times; nothing else happens.
        assert (raised, site.last_error.code if site.last_error else "") == ("", lie.code)
        pending = site._runs[small.terms.run_id].readd
        assert pending is not None
        pending.failures = 0
    elif lie.error is not None:
        assert raised == lie.code
    else:
        # What is wrong with its own files is nobody's business: then the code that leaves is another.
        assert [type(body) for body in bodies] == ([Refusal] if lie.code else [])
        assert (site.last_error.code if site.last_error else "") == lie.code
    assert everything() == before


def helper_leaks_nothing(small: SmallFederation, envelope: Envelope, lie: Lie) -> None:
    """North's helper refuses: no answer is made or stored, and the key is not used up."""
    party = small.helpers[NORTH]
    state = party.state(small.terms.run_id)
    held = party._keys.get(small.terms.run)

    def everything() -> list[Any]:
        answers = [key for key, _ in state.items("answer/")]
        return [answers, *(state.get(key) for key in ("answered", "key-round", "first-cohort"))]

    before = everything()
    bodies, raised = _served(party, small, envelope, lie.error)
    if lie.error is not None:
        assert raised == lie.code
    else:
        assert all(isinstance(body, Refusal) for body in bodies)
        assert [body.code for body in bodies] == ([lie.code] if lie.code else [])
    assert everything() == before
    assert party._keys.get(small.terms.run) is held


def leader_unmoved(small: SmallFederation, envelope: Envelope, error: str = "") -> None:
    """The leader answers nothing, and its round is as it was."""
    leader = small.leader

    def everything() -> tuple[Any, ...]:
        work = leader._work
        parts = (
            (bytes(work._sum.to_bytes()), list(work.uploads), list(work.answers)) if work else ()
        )
        return (leader.phase, leader.chain.applied, set(leader._excluded), parts)

    before = everything()
    bodies, raised = _served(leader, small, envelope, TacitError if error else None)
    assert (bodies, raised) == ([], error)
    assert everything() == before
