"""How a run ends at its leader: records come in, final heads are cosigned, the bundle is signed."""

from __future__ import annotations

from tacit.errors import DecodeError
from tacit.ledger.log import log_origin
from tacit.ledger.note import MAX_SIGNATURES, open_cosigned
from tacit.party.base import Party
from tacit.party.chain import ModelChain
from tacit.party.circulation import Circulation
from tacit.party.computation import Computation
from tacit.party.sealing import opens_seal
from tacit.party.terms import Terms
from tacit.party.transcript import Transcript
from tacit.party.witnessing import address_of, log_witnessed, parties_of, show_log
from tacit.types import Milliseconds, PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import Address, Envelope, Received, digest, join_chunks
from tacit.wire.messages import MAX_EVIDENCE, Finish, LogState, Record, Seal

__all__ = ["Ending", "addresses_of"]

MAX_OTHERS = MAX_SIGNATURES - 1
"""The leader signs, too."""


def addresses_of(terms: Terms) -> list[Address]:
    """Clients and helpers; a party that is both closes as a client, after it closed as a helper."""
    helpers = [Address(name, "helper") for name in terms.helpers]
    return [*helpers, *(Address(name, "client") for name in terms.clients)]


class Ending:
    """The end of one run.

    Args:
        party: The leader.
        terms: The run.
        chain: Its models.
        transcript: What the bundle will hold.
        circulation: Its witnesses.
    """

    def __init__(
        self,
        party: Party,
        terms: Terms,
        chain: ModelChain[Computation],
        transcript: Transcript,
        circulation: Circulation,
    ) -> None:
        self._party = party
        self._terms = terms
        self._chain = chain
        self._transcript = transcript
        self._circulation = circulation
        self._others = [name for name in parties_of(terms) if name != party.address.party]
        self._heads: dict[PartyName, LogState] = {}
        self._manifest = b""
        self._signatures: dict[PartyName, str] = {}

    @property
    def signatures(self) -> tuple[str, ...]:
        """The others' signature lines of the bundle's manifest, as many as one note holds, by name."""
        chosen = sorted(self._signatures)[:MAX_OTHERS]
        return tuple(self._signatures[name] for name in chosen)

    def awaited(self, *, sealing: bool) -> set[PartyName]:
        """Whose record, or whose signature of the manifest, is still to come."""
        return set(self._others) - set(self._signatures if sealing else self._heads)

    def finish(self, *, complete: bool) -> list[Envelope]:
        """Tells everybody that the run ends, and remembers how."""
        model = self._chain.current
        previous, chunks = self._transcript.last_aggregate()
        body = Finish(
            complete=complete,
            model=model.digest if model is not None else digest(b""),
            previous=previous,
        )
        with self._party.ports.store.transaction():
            self._party.state(self._terms.run_id).put_number("complete", int(complete))
        send = self._party.send
        return [send(self._terms, to, body, chunks=chunks) for to in addresses_of(self._terms)]

    def take_record(self, message: Received) -> bool:
        """Keeps a party's record; whether all are in.

        Raises:
            DecodeError, SignatureError, LedgerError: Its chunks are not what was signed, or its
                checkpoint is not one of its log with its signature alone.
        """
        name, body = message.sender.party, message.body
        self._check_checkpoint(name, body.checkpoint)
        events = join_chunks(body.events, message.chunks, body.events.length, 1)
        with self._party.ports.store.transaction():
            self._keep(name, events, body)
        self._heads[name] = LogState(body.checkpoint, body.proofs)
        return self._heads.keys() >= set(self._others)

    def _check_checkpoint(self, name: PartyName, note: bytes) -> None:
        """Cosignatures will be added to it, so that no other line may stand there yet."""
        origin = log_origin(self._party.roster.federation, name)
        owner = (origin, self._party.roster.member(name).key)
        checkpoint, _, others = open_cosigned(note, owner, {})
        if checkpoint.origin != origin or others:
            raise DecodeError("record.checkpoint", f"{name} sent another checkpoint than its log's")

    def _keep(self, name: PartyName, events: bytes, body: Record) -> None:
        self._transcript.put(f"log-{name}", events)
        self._transcript.put(f"proof-{name}", body.proof)
        self._transcript.put(f"checkpoint-{name}", body.checkpoint)
        if body.policy:
            self._transcript.put(f"policy-{name}", body.policy)

    def close(self, *, complete: bool, now: Milliseconds) -> list[Envelope]:
        """Closes the leader's own log, once; the requests to cosign all final heads."""
        party, terms, me = self._party, self._terms, self._party.address.party
        with party.ports.store.transaction():
            if not party.state(terms.run_id).number("closed"):
                self._log_end(complete, now)
            shown, record = show_log(party), party.ports.log.record(terms.run_id)
            self._transcript.put(f"log-{me}", record.events)
            self._transcript.put(f"proof-{me}", record.proof)
            self._transcript.put(f"checkpoint-{me}", shown.note)
        self._heads[me] = shown
        return self._circulation.last(self._heads, now)

    def _log_end(self, complete: bool, now: Milliseconds) -> None:
        party, model = self._party, self._chain.current
        if model is not None:
            released = digest(self._chain.workload.released(model).astype("<f8").tobytes())
            party.log(self._terms, now, "model.released", model=released.hex())
        log_witnessed(party, self._terms, now)
        party.log(self._terms, now, "run.closed", complete=complete)
        party.state(self._terms.run_id).put_number("closed", 1)

    def conclude(self) -> None:
        """Puts the cosignatures that came into the transcript; they are asked for no more."""
        with self._party.ports.store.transaction():
            for name, note in self._circulation.checkpoints().items():
                self._transcript.put(f"checkpoint-{name}", note)
            for one in self._circulation.refused():
                self._transcript.put(f"refused/{one.log}/{one.witness}", encode(one))
            self._party.state(self._terms.run_id).put_number("concluded", 1)

    def seal(self, manifest: bytes) -> list[Envelope]:
        """Asks every party to sign the manifest of the bundle; nobody if no message can hold it."""
        self._manifest = manifest
        self._signatures.clear()
        if len(manifest) > MAX_EVIDENCE:
            return []
        body = Seal(manifest=manifest)
        return [
            self._party.send(self._terms, address_of(self._terms, name), body)
            for name in self._others
        ]

    def take_seal(self, message: Received) -> bool:
        """Keeps a signature of the manifest that verifies; whether all are there."""
        name, line = message.sender.party, message.body.line
        if opens_seal(self._party, name, self._manifest, line):
            self._signatures[name] = line
        return self._signatures.keys() >= set(self._others)
