"""The helper: opens mask seeds, adds its noise share, answers once per round.

A second answer is impossible because the key is gone, not because a rule forbids it: the private half
of a round key lives in this object only and is erased when the answer is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import subtract_into, to_ring
from tacit.errors import RemoteProtocolError, TacitError
from tacit.party.base import Party, Ports, pack, unpack
from tacit.party.terms import Terms
from tacit.privacy.noise import discrete_gaussian
from tacit.secagg.masked import cohort_digest, mask_sum
from tacit.trust.roster import Roster
from tacit.types import Digest, Milliseconds, Opener, PartyName
from tacit.wire.envelope import Address, Envelope, Received, digest, split_chunks
from tacit.wire.messages import (
    Finish,
    HelperKey,
    MaskRequest,
    MaskSum,
    Offer,
    Refusal,
    RoundAbort,
    Upload,
)

__all__ = ["Helper"]


@dataclass(frozen=True, slots=True)
class RoundKey:
    """The key of one round; the opener is never stored."""

    round: int
    opener: Opener


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
        self.last_error: TacitError | None = None

    def receive(self, envelope: Envelope, now: Milliseconds) -> list[Envelope]:
        """Handles one message; the answers may be sent once this returns.

        Raises:
            DecodeError, SignatureError: The bytes prove no sender; nothing was changed.
        """
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

    def _terms_of(self, message: Received) -> Terms | None:
        """The terms of the run that a message belongs to; None unless its leader sent it."""
        if isinstance(message.body, Offer):
            return self.offered(message)
        terms = self.known_terms(message.header.run.hex())
        return terms if terms is not None and self.leads(message, terms) else None

    def _handle(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        if self.state(terms.run_id).number("closed"):
            own = self.address.party not in terms.clients
            return [self.record(terms)] if own and isinstance(message.body, Finish) else []
        match message.body:
            case Offer():
                return self._join(message, terms, now)
            case MaskRequest():
                return self._answer(message, terms, now)
            case RoundAbort():
                return self._issue_key(terms, message.round + 1, now)
            case Finish():
                return self._close(message, terms, now)
            case _:
                raise RemoteProtocolError("message.kind", "a helper does not serve this message")

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
        held = self._keys.get(terms.run)
        stored = state.get("key-message")
        if held is not None and held.round >= wanted and stored is not None:
            return [unpack(stored, self.leader(terms))]
        if wanted > terms.manifest.rounds:
            return []
        # After the loss of the last round's key this is beyond the last round: it tells the leader so.
        number = max(wanted, state.number("key-round") + 1)
        opener = self.ports.sealing.generate()
        envelope = self.send(
            terms, self.leader(terms), HelperKey(opener.public_key), round_number=number
        )
        with self.ports.store.transaction():
            state.put_number("key-round", number)
            state.put("key-message", pack(envelope))
            self.log(
                terms,
                now,
                "helper-key.issued",
                round=number,
                key=digest(opener.public_key).hex(),
            )
        self._erase_key(terms.run)
        self._keys[terms.run] = RoundKey(round=number, opener=opener)
        return [envelope]

    def _answer(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        state = self.state(terms.run_id)
        stored = state.get(f"answer/{message.round}")
        if stored is not None:
            # A repeat gets the stored bytes, never a second computation.
            return [unpack(stored, self.leader(terms)), *self._next_key(terms, message.round, now)]
        if message.round < state.number("key-round"):
            return []  # A round that went by: its key is gone, there is nothing to say.
        held = self._keys.get(terms.run)
        if held is None or held.round != message.round:
            raise RemoteProtocolError("helper.no-key", f"no key of round {message.round} is held")
        uploads = self._cohort(message, terms)
        context = Digest(uploads[0].body.context)
        total = self._noisy_mask_sum(uploads, context, terms, held.opener)
        vector, chunks = split_chunks(total.astype("<u4", copy=False).tobytes(), len(total))
        cohort = cohort_digest([upload.digest for upload in uploads])
        answer = self.send(
            terms,
            self.leader(terms),
            MaskSum(context=context, cohort=cohort, vector=vector),
            round_number=message.round,
            chunks=chunks,
        )
        members = "\n".join(sorted(upload.sender.party for upload in uploads)).encode()
        with self.ports.store.transaction():
            self.log(
                terms,
                now,
                "mask-sum.answered",
                round=message.round,
                context=context.hex(),
                cohort=cohort.hex(),
                answer=digest(answer.message).hex(),
            )
            state.delete(f"answer/{state.number('answered')}")
            state.put(f"answer/{message.round}", pack(answer))
            state.put_number("answered", message.round)
            state.put("first-cohort", state.get("first-cohort") or members)
        self._erase_key(terms.run)
        return [answer, *self._next_key(terms, message.round, now)]

    def _next_key(self, terms: Terms, answered: int, now: Milliseconds) -> list[Envelope]:
        return self._issue_key(terms, answered + 1, now)

    def _noisy_mask_sum(
        self, uploads: list[Received], context: Digest, terms: Terms, opener: Opener
    ) -> NDArray[np.uint32]:
        name = self.address.party
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
        length = terms.manifest.length
        total = mask_sum(seeds, context=context, helper=name, opener=opener, length=length)
        if terms.plan.share_variance:
            noise = discrete_gaussian(terms.plan.share_variance, length, self.ports.entropy)
            subtract_into(total, to_ring(noise))
        return total

    def _cohort(self, message: Received, terms: Terms) -> list[Received]:
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
        context = uploads[0].body.context
        for upload in uploads:
            if upload.body.context != context or upload.round != message.round:
                raise RemoteProtocolError(
                    "helper.context",
                    f"{upload.sender.party} uploaded for another context",
                    party=upload.sender.party,
                )
        first = self.state(terms.run_id).get("first-cohort")
        members = "\n".join(sorted(parties)).encode()
        if not terms.plan.share_variance and first not in (None, members):
            raise RemoteProtocolError(
                "helper.cohort-changed", "without noise every sum must have the same cohort"
            )
        return uploads

    def _close(self, message: Received, terms: Terms, now: Milliseconds) -> list[Envelope]:
        self._erase_key(terms.run)
        state = self.state(terms.run_id)
        with self.ports.store.transaction():
            state.delete(f"answer/{state.number('answered')}")
            state.delete("key-message")
            state.put_number("closed", 1)
            # A party that is a client too closes its log, and sends it, in that role.
            if self.address.party not in terms.clients:
                self.log(terms, now, "run.closed", complete=message.body.complete)
        return [] if self.address.party in terms.clients else [self.record(terms)]

    def _refuse(
        self, terms: Terms, message: Received, error: TacitError, now: Milliseconds
    ) -> list[Envelope]:
        """Tells the leader the code only; the message stays here."""
        self.last_error = error
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
