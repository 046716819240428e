"""What the leader does for witnessing: it carries the heads of logs around, and keeps cosignatures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

from tacit.errors import DecodeError, SignatureError
from tacit.ledger.note import MAX_SIGNATURES, add_signatures, check_cosignature, note_text
from tacit.party.base import Party
from tacit.party.terms import Terms
from tacit.party.witnessing import Cosigner, Duties, Shown, address_of, parties_of, show_log
from tacit.types import Milliseconds, PartyName
from tacit.wire.envelope import Envelope, Received
from tacit.wire.messages import Cosigned, LogState, WitnessAnswer, WitnessRequest

__all__ = ["Circulation"]

MAX_COSIGNATURES = MAX_SIGNATURES - 64
"""Of one checkpoint, in the order in which they came; others are the log's and independent witnesses'."""


class Circulation:
    """The heads of all logs of one run at its leader, who is a witness too.

    What is lost with the process costs cosignatures of a round or two.

    Args:
        party: The leader.
        terms: The run.

    Guarantee: No cosignature is kept that does not verify
        (test: ``tests/unit/test_party_witnessing.py::test_a_forged_cosignature_is_not_kept``), and
        nothing that a witness says or leaves out changes the run
        (test: ``tests/sim/test_witnessing.py::test_hostile_witnesses_cost_cosignatures_only``).
    """

    def __init__(self, party: Party, terms: Terms) -> None:
        self._party = party
        self._terms = terms
        self._state = party.state(terms.run_id)
        self._cosigner = Cosigner(party)
        self._duties = Duties(terms)
        self._others = [name for name in parties_of(terms) if name != party.address.party]
        self._heads: dict[PartyName, LogState] = {}
        self._sent: dict[tuple[PartyName, PartyName], LogState] = {}
        # By log and witness: the last word, and the cosignature of the final head.
        self._said: defaultdict[PartyName, dict[PartyName, Cosigned]] = defaultdict(dict)
        self._lines: defaultdict[PartyName, dict[PartyName, str]] = defaultdict(dict)
        self._awaited: set[PartyName] = set()

    # --- every round -------------------------------------------------------------------------

    def begin(self) -> None:
        """Remembers how much of each log was known before the run, in a transaction."""
        for name in self._others:
            self._remember(name, 0, self._cosigner.known(name))

    def requests(self, number: int) -> list[Envelope]:
        """The requests of a round: to each party the heads that it has not been sent yet."""
        me = self._party.address.party
        with self._party.ports.store.transaction():
            self._heads[me] = show_log(self._party, self._said[me].values())
        return [self._request(name, number) for name in self._others]

    def take(self, message: Received, now: Milliseconds) -> None:
        """Cosigns the head in an answer; one that came late or twice is ignored."""
        name, body = message.sender.party, message.body
        last, floor = self._remembered(name)
        if message.sender != address_of(self._terms, name) or message.round <= last:
            return
        with self._party.ports.store.transaction():
            floor = self._cosign(name, body, floor, now)
            self._remember(name, message.round, floor)
        for one in self._words(name, body):
            self._said[PartyName(one.log)][name] = one

    def _words(self, name: PartyName, body: WitnessAnswer) -> list[Cosigned]:
        """What a party says of the logs that it witnesses, once of each."""
        duties = self._duties.of(name)
        said = {one.log: one for one in body.cosigned if one.witness == name and one.log in duties}
        return list(said.values())

    def _cosign(self, name: PartyName, body: WitnessAnswer, floor: int, now: Milliseconds) -> int:
        """Cosigns a party's own head; the size that its log has had since."""
        if body.log is None:
            return floor
        shown = Shown(body.log, (name,), name, floor)
        one = self._cosigner.cosign(self._terms, shown, now)
        if one is None:
            return floor
        self._said[name][self._party.address.party] = one
        if one.code:
            return floor
        self._heads[name] = body.log
        return one.size

    def _request(self, name: PartyName, number: int) -> Envelope:
        heads = []
        for owner in sorted(self._duties.of(name)):
            head = self._heads.get(owner)
            if head is not None and self._sent.get((name, owner)) != head:
                self._sent[name, owner] = head
                heads.append(head)
        body = WitnessRequest(logs=tuple(heads), cosigned=tuple(self._said[name].values()))
        address = address_of(self._terms, name)
        return self._party.send(self._terms, address, body, round_number=number)

    def _remember(self, name: PartyName, number: int, floor: int) -> None:
        self._state.put(f"witness/{name}", b"%d %d" % (number, floor))

    def _remembered(self, name: PartyName) -> tuple[int, int]:
        """The last round in which a party answered, and the size that its log has had."""
        number, _, floor = (self._state.get(f"witness/{name}") or b"0 0").partition(b" ")
        return int(number), int(floor)

    # --- at the end --------------------------------------------------------------------------

    def last(self, heads: Mapping[PartyName, LogState], now: Milliseconds) -> list[Envelope]:
        """The requests for the final heads, which the leader cosigns first.

        Args:
            heads: The final head of every party whose record is in, the leader's own included.
            now: The time of its cosignatures.
        """
        self._heads = dict(heads)
        self._said.clear()
        self._sent.clear()
        with self._party.ports.store.transaction():
            for name in sorted(heads.keys() & set(self._others)):
                shown = Shown(heads[name], (name,), name)
                one = self._cosigner.cosign(self._terms, shown, now, closed=True)
                self._keep(self._party.address.party, one)
        self._awaited = heads.keys() & set(self._others)  # Nobody else answers any more.
        return [self._request(name, 0) for name in sorted(self._awaited)]

    def take_last(self, message: Received) -> bool:
        """Keeps the cosignatures of final heads that verify; whether all answers are in."""
        name = message.sender.party
        if message.sender == address_of(self._terms, name) and message.round == 0:
            for one in self._words(name, message.body):
                self._keep(name, one)
            self._awaited.discard(name)
        return not self._awaited

    def refused(self) -> list[Cosigned]:
        """What witnesses refused to cosign at the end, with their reasons."""
        words = (one for word in self._said.values() for one in word.values())
        return [one for one in words if one.code]

    def checkpoints(self) -> dict[PartyName, bytes]:
        """The final checkpoint of every log that was cosigned, with the cosignatures."""
        return {
            name: add_signatures(self._heads[name].note, islice(lines.values(), MAX_COSIGNATURES))
            for name, lines in self._lines.items()
        }

    def _keep(self, witness: PartyName, one: Cosigned | None) -> None:
        head = self._heads.get(PartyName(one.log)) if one is not None else None
        if one is None or head is None:
            return
        log = PartyName(one.log)
        if one.code:
            self._said[log][witness] = one
            return
        name, key = self._cosigner.origin(witness), self._cosigner.key(witness)
        try:
            check_cosignature(one.line, note_text(head.note), name, key)
        except (DecodeError, SignatureError):
            return
        self._lines[log][witness] = one.line
