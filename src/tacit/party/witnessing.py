"""Witnessing: the parties of a run cosign each other's logs, so that none is rewritten unnoticed.

Every round the leader carries the newest signed head of each log to the others, and once more at the
end. A party cosigns a head that extends all that it cosigned of that log before, in any run. What does
not is named: whoever signed the message that shows its own log to have gone back is convicted, and the
refusal is logged; what others carry is only refused, for an old head may have come late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tacit.errors import DecodeError, LedgerError, SignatureError
from tacit.ledger.log import log_origin
from tacit.ledger.note import note_text, parse_checkpoint
from tacit.ledger.witness import Witness
from tacit.party.base import Party, keep_envelope, kept_envelope
from tacit.party.terms import Terms
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.envelope import Address, Envelope, Received, split_chunks
from tacit.wire.messages import Cosigned, LogState, Proof, Record, WitnessAnswer, WitnessRequest

__all__ = [
    "Bystander",
    "Cosigner",
    "Duties",
    "Shown",
    "address_of",
    "log_witnessed",
    "parties_of",
    "show_log",
    "show_record",
]

SPACE = "witnessing"
SIZES = "sizes"
"""Where a party remembers which sizes of its own log others hold."""

MAX_SIZES = 16
EVERYBODY = 16
"""Up to so many parties everybody witnesses everybody; beyond, see ``Duties``."""

NEXT_CLIENTS = 8
UNPROVEN = "witness.unproven"
ROLLED_BACK = "witness.rolled-back"
FORKED = "witness.forked"
CONVICTED = (ROLLED_BACK, FORKED)


def parties_of(terms: Terms) -> tuple[PartyName, ...]:
    """Everybody who takes part in a run, in order of names."""
    manifest = terms.manifest
    return tuple(sorted({PartyName(manifest.leader), *terms.clients, *terms.helpers}))


def address_of(terms: Terms, name: PartyName) -> Address:
    """Under which address a party witnesses and seals: once, whatever its roles."""
    return Address(name, "client" if name in terms.clients else "helper")


class Duties:
    """Which logs a party witnesses in a run: all others', or in a large run some of them.

    Then they are those of the leader, of the helpers, and of the next clients in order of names.

    Args:
        terms: The run.
    """

    def __init__(self, terms: Terms) -> None:
        everybody = parties_of(terms)
        self._small = len(everybody) <= EVERYBODY
        core = everybody if self._small else (PartyName(terms.manifest.leader), *terms.helpers)
        self._core: frozenset[PartyName] = frozenset(core)
        self._clients = sorted(terms.clients)

    def of(self, witness: PartyName) -> frozenset[PartyName]:
        """The logs that a party witnesses."""
        if self._small:
            return self._core - {witness}
        start, count = bisect_right(self._clients, witness), len(self._clients)
        after = (self._clients[(start + step) % count] for step in range(min(NEXT_CLIENTS, count)))
        return self._core.union(after) - {witness}


def show_log(party: Party, said: Iterable[Cosigned] = ()) -> LogState:
    """A party's own log now, with proofs from the sizes that its witnesses hold; in a transaction.

    Args:
        party: Whose.
        said: What others said of the log last; by default what was remembered of them.
    """
    log, store = party.ports.log, party.ports.store
    note, now = log.checkpoint(), len(log)
    stored = [int(size) for size in (store.get(SPACE, SIZES) or b"").split()]
    held = {*({one.size for one in said} or stored), *stored[-1:]}
    sizes = sorted(size for size in held if 0 < size < now)[-MAX_SIZES:]
    # Whoever gets this head holds it next.
    keep = sorted({*sizes, now})[-MAX_SIZES:]
    store.put(SPACE, SIZES, b" ".join(b"%d" % size for size in keep))
    return LogState(note, tuple(Proof(old, log.consistency_proof(old)) for old in sizes))


def show_record(party: Party, terms: Terms, policy: bytes) -> Envelope:
    """A party's part of the evidence of a run, as it was sent first; in a transaction.

    Args:
        party: Whose.
        terms: The run.
        policy: What it discloses of its policy; empty for nothing.
    """
    state, leader = party.state(terms.run_id), party.leader(terms)
    kept = kept_envelope(state, "record", leader)
    if kept is not None:
        return kept
    shown, record = show_log(party), party.ports.log.record(terms.run_id)
    vector, chunks = split_chunks(record.events, len(record.events))
    body = Record(shown.note, vector, record.proof, shown.proofs, policy)
    envelope = party.send(terms, leader, body, chunks=chunks)
    keep_envelope(state, "record", envelope)
    return envelope


@dataclass(frozen=True, slots=True)
class Shown:
    """A head of a log as a message showed it.

    Attributes:
        state: The signed head and its proofs.
        owners: Of whose logs it may be.
        source: Who signed the message: only its own log can convict it.
        floor: The size that the source's own log has had before it signed.
    """

    state: LogState
    owners: Collection[PartyName]
    source: PartyName
    floor: int = 0


class Cosigner:
    """Cosigns the logs of others in the name of one party.

    Args:
        party: Whose key and memory.

    Guarantee:
        Against a party that shows two histories of its log, or one that was restored from a backup: no
        honest party cosigns both (tests:
        ``tests/unit/test_party_witnessing.py::test_two_histories_of_one_log_are_never_both_cosigned``,
        ``tests/unit/test_party_witnessing.py::test_a_leader_restored_between_runs_is_named``).
        Against the network and against a leader that repeats, delays or damages what others signed: no
        honest party's log is called rolled back or forked (test:
        ``tests/unit/test_party_witnessing.py::test_a_leader_cannot_convict_another_partys_log``).
    """

    def __init__(self, party: Party) -> None:
        self._party = party
        ports = party.ports
        self._witness = Witness(ports.store, self.origin(party.address.party), ports.signer)

    def origin(self, name: PartyName) -> str:
        """Name of a party's log and of its cosignatures."""
        return log_origin(self._party.roster.federation, name)

    def key(self, name: PartyName) -> bytes:
        """Public key of a party."""
        return self._party.roster.member(name).key

    def forget(self, name: PartyName) -> None:
        """Takes the next head of a party's log as the first; in a transaction."""
        self._witness.forget(self.origin(name))

    def note(self, name: PartyName) -> bytes | None:
        """The last checkpoint of a party's log that was cosigned, as that party signed it."""
        return self._witness.note(self.origin(name))

    def known(self, name: PartyName) -> int:
        """Size of the last head that was cosigned of a party's log."""
        head = self._witness.known(self.origin(name))
        return 0 if head is None else head.size

    def cosign(
        self, terms: Terms, shown: Shown, now: Milliseconds, *, closed: bool = False
    ) -> Cosigned | None:
        """What this party says of a head; in a transaction.

        Args:
            terms: The run.
            shown: The head.
            now: The time of the cosignature.
            closed: The party's log of the run is closed: a refusal is not logged any more.

        Returns:
            Its word; None for a head of no log in ``shown.owners``, or which its owner has not signed.
        """
        try:
            head = parse_checkpoint(note_text(shown.state.note))
        except (DecodeError, LedgerError):
            return None
        owners, me = shown.owners, self._party.address.party
        owner = next((name for name in owners if self.origin(name) == head.origin), me)
        if owner == me:
            return None
        try:
            line = self._cosign(owner, shown.state, now)
        except (DecodeError, SignatureError):
            return None
        except LedgerError as error:
            code, known = self._code(error, owner, head.size, shown), self.known(owner)
            if code in CONVICTED and not closed:
                self._refuse(terms, owner, (code, head.size, known), now)
            return Cosigned(log=owner, witness=me, size=known, line="", code=code)
        return Cosigned(log=owner, witness=me, size=head.size, line=line, code="")

    def _cosign(self, owner: PartyName, state: LogState, now: Milliseconds) -> str:
        proofs = {one.old: tuple(map(Digest, one.path)) for one in state.proofs}
        return self._witness.cosign(state.note, self.key(owner), self.origin(owner), proofs, now)

    def _code(self, error: LedgerError, owner: PartyName, size: int, shown: Shown) -> str:
        """The witness's code, unless somebody else than the log's owner may be to blame."""
        if size == error.details.get("known"):
            return error.code  # Two heads of one size, both signed by the owner.
        if owner != shown.source:
            return UNPROVEN  # Who carried it may have kept it back, or changed its proof.
        if size < shown.floor:
            return ROLLED_BACK
        # Of another run that goes on at the same time more may be known already.
        return UNPROVEN if error.code == ROLLED_BACK else error.code

    def _refuse(
        self, terms: Terms, owner: PartyName, found: tuple[str, int, int], now: Milliseconds
    ) -> None:
        """Logs a refusal, once per run, log and code."""
        code, size, known = found
        state, key = self._party.state(terms.run_id), f"witness-refused/{owner}/{code}"
        if state.get(key) is None:
            state.put(key, b"")
            self._party.log(
                terms, now, "witness.refused", log=owner, code=code, size=size, known=known
            )


def log_witnessed(party: Party, terms: Terms, now: Milliseconds) -> None:
    """Logs what this party cosigned last of the others' logs, before it closes a run; in a transaction.

    Guarantee:
        Against a party that showed one honest witness another history of its log than it shows in
        the end: the evidence of the run holds both, each signed by it
        (test: ``tests/unit/test_party_witnessing.py::test_what_one_witness_saw_is_in_the_evidence``).

    Args:
        party: Who closes the run.
        terms: The run.
        now: The time.
    """
    cosigner = Cosigner(party)
    for name in sorted(Duties(terms).of(party.address.party)):
        note = cosigner.note(name)
        if note is not None:
            party.log(terms, now, "log.witnessed", log=name, note=note.decode())


class Bystander:
    """Answers a leader's requests to witness, at a party that does not lead.

    Args:
        party: The site, or the helper if the party is no client of the run.
    """

    def __init__(self, party: Party) -> None:
        self._party = party
        self._cosigner = Cosigner(party)

    def begin(self, terms: Terms) -> None:
        """Remembers how much of the leader's log was known before this party accepted the run.

        In a transaction. What the leader signs in a later round was signed after that.
        """
        leader = PartyName(terms.manifest.leader)
        self._party.state(terms.run_id).put_number("witness/floor", self._cosigner.known(leader))

    def serve(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        """Cosigns what a request shows, and shows this party's own log.

        A request that came late or twice is not answered.
        """
        party, state = self._party, self._party.state(terms.run_id)
        closed = bool(state.number("closed"))
        if not self._serves(message, terms, closed=closed):
            return []
        body: WitnessRequest = message.body
        floor = state.number("witness/floor")
        with party.ports.store.transaction():
            state.put_number("witness/round", message.round)
            said = self._cosign(message, terms, floor, now)
            own = None if closed else show_log(party, self._of_mine(body.cosigned))
        answer = WitnessAnswer(log=own, cosigned=tuple(said))
        return [party.send(terms, party.leader(terms), answer, round_number=message.round)]

    def _serves(self, message: Received, terms: Terms, *, closed: bool) -> bool:
        """Whether this address takes part, and the request is a new one: round 0 is the last."""
        if self._party.address != address_of(terms, self._party.address.party):
            return False
        last = self._party.state(terms.run_id).number("witness/round")
        return message.round == 0 if closed else message.round > last

    def _cosign(
        self, message: Received, terms: Terms, floor: int, now: Milliseconds
    ) -> list[Cosigned]:
        state, leader = self._party.state(terms.run_id), message.sender.party
        owners = Duties(terms).of(self._party.address.party)
        said = []
        for head in message.body.logs[: len(owners)]:  # An honest leader sends one of each.
            shown = Shown(head, owners, leader, floor)
            one = self._cosigner.cosign(terms, shown, now, closed=message.round == 0)
            if one is not None:
                said.append(one)
                if one.log == leader and not one.code:
                    state.put_number("witness/floor", one.size)
        return said

    def _of_mine(self, cosigned: Sequence[Cosigned]) -> list[Cosigned]:
        return [one for one in cosigned if one.log == self._party.address.party]
