"""The helper: opens mask seeds, adds its noise share, answers once per round.

A second answer is impossible because the key is gone, not because a rule forbids it: the private half
of a round key lives in this object only and is erased when the answer is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from tacit.algebra.ring import RingVector
from tacit.errors import RemoteProtocolError, TacitError
from tacit.party.base import Party, Ports, drop_envelope, keep_envelope, kept_envelope
from tacit.party.context import helper_keys, upload_context
from tacit.party.heads import note_spent
from tacit.party.sealing import seal
from tacit.party.terms import Terms
from tacit.party.witnessing import Bystander, log_witnessed, show_record
from tacit.privacy.noise import noise_blocks
from tacit.secagg.masked import cohort_digest, mask_sum, open_seeds
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, Opener, PartyName
from tacit.wire.envelope import Address, Envelope, Received, digest, split_chunks
from tacit.wire.messages import (
    Finish,
    HelperKey,
    KeyRequest,
    MaskRequest,
    MaskSum,
    Offer,
    Refusal,
    Seal,
    Upload,
    WitnessRequest,
)

__all__ = ["Helper"]


LIFETIME = 3
"""Phases that a round key lives: the wait for all keys, for uploads, and for the helpers."""


@dataclass(frozen=True, slots=True)
class RoundKey:
    """The key of one round; the opener is never stored."""

    round: int
    opener: Opener
    expires: Milliseconds


class Helper(Party):
    """One helper of a federation; serves any number of runs.

    Args:
        name: Its name in the roster.
        roster: The pinned roster.
        ports: The world.

    Guarantee:
        Against a leader that controls all other helpers and any clients: the helper answers at most
        one cohort per round, of at least ``min_cohort`` distinct operators, with its noise share
        inside the answer. Test: ``tests/unit/test_party_helper.py::test_answers_one_cohort_only``.
    """

    def __init__(self, name: PartyName, roster: Roster, ports: Ports) -> None:
        super().__init__(Address(name, "helper"), roster, ports)
        self._keys: dict[Digest, RoundKey] = {}
        self._bystander = Bystander(self)
        self.last_error: TacitError | None = None

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns.

        Raises:
            DecodeError, SignatureError: The bytes prove no sender; nothing was changed.
        """
        self.tick(now)
        message = self.open(envelope.message, envelope.chunks)
        try:
            terms = self._terms_of(message)
        except RemoteProtocolError as error:
            self.last_error = error
            return []  # Without consistent terms there is no run to answer in.
        if terms is None:
            return []
        try:
            return self._handle(message, terms, now)
        except TacitError as error:
            return self._refuse(terms, message, error, now)

    def tick(self, now: Milliseconds) -> list[Envelope]:
        """To be called when time passes: erases round keys that have expired."""
        for run in [run for run, held in self._keys.items() if held.expires <= now]:
            self._erase_key(run)
        return []

    def _terms_of(self, message: Received) -> Terms | None:
        """The terms of the run that a message belongs to; None unless its leader sent it."""
        if isinstance(message.body, Offer):
            return self.offered(message)
        terms = self.known_terms(message.header.run.hex())
        return terms if terms is not None and self.leads(message, terms) else None

    def _handle(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        if self.state(terms.run_id).number("closed"):
            return self._handle_closed(message, terms, now)
        match message.body:
            case Offer():
                return self._join(message, terms, now)
            case MaskRequest():
                return self._answer(message, terms, now)
            case KeyRequest():
                return self._issue_key(terms, message.round, now)
            case WitnessRequest():
                return self._bystander.serve(message, terms, now)
            case Finish():
                return self._close(message, terms, now)
            case _:
                raise RemoteProtocolError("message.kind", "a helper does not serve this message")

    def _handle_closed(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        match message.body:
            case Finish():
                return self._record(terms)
            case WitnessRequest():
                return self._bystander.serve(message, terms, now)
            case Seal():
                return seal(self, message, terms)
        return []

    def _join(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        if self.address.party not in terms.helpers:
            raise RemoteProtocolError(
                "offer.helper", f"{self.address.party} is not a helper of this run"
            )
        if state.get("offer") is None:
            with self.ports.store.transaction():
                state.put("offer", message.raw)
        return self._issue_key(terms, 1, now)

    def _issue_key(self, terms: Terms, wanted: int, now: Milliseconds) -> list[Envelope]:
        """A key for round ``wanted``, or for a later one when its private half was lost."""
        state = self.state(terms.run_id)
        held, leader = self._keys.get(terms.run), self.leader(terms)
        stored = kept_envelope(state, "key-message", leader)
        if held is not None and held.round >= wanted and stored is not None:
            return [stored]
        if wanted > terms.manifest.rounds:
            return []
        # After the loss of the last round's key this is beyond the last round: it tells the leader so.
        number = max(wanted, state.number("key-round") + 1)
        opener = self.ports.sealing.generate()
        envelope = self.send(terms, leader, HelperKey(opener.public_key), round_number=number)
        with self.ports.store.transaction():
            state.put_number("key-round", number)
            keep_envelope(state, "key-message", envelope)
            self.log(
                terms,
                now,
                "helper-key.issued",
                round=number,
                key=digest(opener.public_key).hex(),
            )
        self._erase_key(terms.run)
        expires = Milliseconds(now + LIFETIME * terms.phase)
        self._keys[terms.run] = RoundKey(round=number, opener=opener, expires=expires)
        return [envelope]

    def _answer(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        stored = kept_envelope(state, f"answer/{message.round}", self.leader(terms))
        if stored is not None:
            # A repeat gets the stored bytes, never a second computation.
            return [stored, *self._next_key(terms, message.round, now)]
        if message.round < state.number("key-round"):
            return []  # A round that went by: its key is gone, there is nothing to say.
        held = self._keys.get(terms.run)
        if held is None or held.round != message.round:
            raise RemoteProtocolError("helper.no-key", f"no key of round {message.round} is held")
        keys = helper_keys(self, terms, message.round, message.body.keys)
        if dict(keys).get(self.address.party) != held.opener.public_key:
            raise RemoteProtocolError(
                "helper.other-key",
                "the round was started with another key than this helper holds",
                party=terms.manifest.leader,
            )
        context = upload_context(terms, message.round, Digest(message.body.model), keys)
        uploads = self._cohort(message, terms, context)
        total = self._noisy_mask_sum(uploads, context, terms, (held.opener, len(keys)))
        vector, chunks = split_chunks(terms.ring.to_bytes(total), len(total))
        cohort = cohort_digest([upload.digest for upload in uploads])
        answer = self.send(
            terms,
            self.leader(terms),
            MaskSum(context=context, cohort=cohort, vector=vector),
            round_number=message.round,
            chunks=chunks,
        )
        self._commit_answer(terms, answer, uploads, now)
        self._erase_key(terms.run)
        return [answer, *self._next_key(terms, message.round, now)]

    def _commit_answer(
        self, terms: Terms, answer: Envelope, uploads: list[Received], now: Milliseconds
    ) -> None:
        """Stores the one answer of a round; only after this commit may it leave."""
        state, number = self.state(terms.run_id), uploads[0].round
        members = "\n".join(sorted(upload.sender.party for upload in uploads)).encode()
        with self.ports.store.transaction():
            note_spent(self, terms, uploads)
            self.log(
                terms,
                now,
                "mask-sum.answered",
                round=number,
                context=uploads[0].body.context.hex(),
                cohort=cohort_digest([upload.digest for upload in uploads]).hex(),
                answer=digest(answer.message).hex(),
            )
            drop_envelope(state, f"answer/{state.number('answered')}")
            keep_envelope(state, f"answer/{number}", answer)
            state.put_number("answered", number)
            state.put("first-cohort", state.get("first-cohort") or members)

    def _next_key(self, terms: Terms, answered: int, now: Milliseconds) -> list[Envelope]:
        return self._issue_key(terms, answered + 1, now)

    def _noisy_mask_sum(
        self,
        uploads: list[Received],
        context: Digest,
        terms: Terms,
        held: tuple[Opener, int],
    ) -> RingVector:
        """The sum of masks less this helper's noise share, for the number of helpers present."""
        name = self.address.party
        (opener, present), ring, length = held, terms.ring, terms.manifest.length
        seeds = []
        for upload in uploads:
            sealed = {seed.helper: seed.sealed for seed in upload.body.seeds}.get(name)
            if sealed is None:
                raise RemoteProtocolError(
                    "helper.seed-missing",
                    f"{upload.sender.party} sealed no seed for {name}",
                    party=upload.sender.party,
                )
            seeds.append((upload.sender.party, sealed))
        streams = open_seeds(seeds, context=context, helper=name, opener=opener)
        total = mask_sum(streams, ring, length, run=self.ports.parallel)
        if terms.plan.unit != "none":
            variance, start = terms.plan.share_variance(present), 0
            for noise in noise_blocks(variance, length, self.ports.entropy):
                part = total[start : start + len(noise)]
                ring.subtract_into(part, ring.from_integers(noise))
                start += len(noise)
        return total

    def _cohort(self, message: Received, terms: Terms, context: Digest) -> list[Received]:
        """The cohort's uploads, opened and checked.

        Raises:
            RemoteProtocolError: Names the party that broke a rule.
        """
        uploads = [self.open_signed(raw, terms, Upload, "client") for raw in message.body.uploads]
        parties = [upload.sender.party for upload in uploads]
        strangers = [party for party in parties if party not in terms.clients]
        if strangers or len(set(parties)) != len(parties):
            raise RemoteProtocolError("helper.cohort", "the cohort holds a stranger or a repeat")
        if len(self.roster.operators(parties)) < terms.manifest.min_cohort:
            raise RemoteProtocolError(
                "helper.cohort-too-small",
                f"the cohort has fewer than {terms.manifest.min_cohort} operators",
                party=terms.manifest.leader,
            )
        if all(upload.body.context != context for upload in uploads):
            raise RemoteProtocolError(
                "helper.context",
                "no upload was made for the model and the keys that the leader names",
                party=terms.manifest.leader,
            )
        for upload in uploads:
            if upload.body.context != context or upload.round != message.round:
                raise RemoteProtocolError(
                    "helper.context",
                    f"{upload.sender.party} uploaded for another context",
                    party=upload.sender.party,
                )
        first = self.state(terms.run_id).get("first-cohort")
        members = "\n".join(sorted(parties)).encode()
        if terms.plan.unit == "none" and first not in (None, members):
            raise RemoteProtocolError(
                "helper.cohort-changed", "without noise every sum must have the same cohort"
            )
        return uploads

    def _close(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        self._erase_key(terms.run)
        state = self.state(terms.run_id)
        with self.ports.store.transaction():
            drop_envelope(state, f"answer/{state.number('answered')}")
            drop_envelope(state, "key-message")
            state.put_number("closed", 1)
            # A party that is a client too closes its log, and sends it, in that role.
            if self.address.party not in terms.clients:
                log_witnessed(self, terms, now)
                self.log(terms, now, "run.closed", complete=message.body.complete)
        return self._record(terms)

    def _record(self, terms: Terms) -> list[Envelope]:
        """This helper's part of the evidence; a party that is a client too sends it in that role."""
        if self.address.party in terms.clients:
            return []
        with self.ports.store.transaction():
            return [show_record(self, terms, b"")]

    def _refuse(
        self, terms: Terms, message: Received, error: TacitError, now: Milliseconds
    ) -> list[Envelope]:
        """Tells the leader the code only; the message stays here."""
        self.last_error = error
        if self.seen_before(message):
            return []
        culprit = str(error.details.get("party", ""))
        with self.ports.store.transaction():
            self.log(
                terms, now, "helper.refused", round=message.round, code=error.code, culprit=culprit
            )
        refusal = Refusal(code=error.code, culprit=culprit)
        return [self.send(terms, self.leader(terms), refusal, round_number=message.round)]

    def _erase_key(self, run: Digest) -> None:
        held = self._keys.pop(run, None)
        if held is not None:
            held.opener.erase()
