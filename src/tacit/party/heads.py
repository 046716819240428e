"""What a party remembers of the budgets of others, so that none goes back unnoticed.

A client shows the head of its budget's journal in every ``Accept``. Leader and clients remember the
last one of each client, and write into their own signed logs what they saw: that countersigns it. Who
saw a signed upload remembers that too: the reservation of its run cannot be said to be unused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from tacit.errors import RemoteProtocolError, TacitError, VerificationError
from tacit.party.base import Party
from tacit.party.chain import ModelChain
from tacit.party.computation import Computation
from tacit.party.terms import Terms
from tacit.party.witnessing import Cosigner
from tacit.privacy.journal import WINDOW, Heads
from tacit.types import Digest, Milliseconds, PartyName
from tacit.wire.envelope import Received
from tacit.wire.messages import Accept

__all__ = ["PeerHeads", "Standing", "compare_heads", "note_spent"]

SPACE = "budget-heads"
"""The last heads, by site."""

RUNS = "budget-runs"
"""The run of a reservation, by site and number."""

SPENT = "budget-spent"
"""Of whom a signed upload was seen, by run and site."""

DISTRUST = "budget-distrust"
COUNT_BYTES = 8
DIGEST_BYTES = 32
FAULTS = ("budget.head", "budget.rolled-back", "budget.forked", "budget.refunded")

Standing = Literal["first", "continued", "repeated", "unprovable"]
"""``first``: nothing was known. ``continued``: the journal goes on from what was known. ``repeated``:
an earlier state that was known, so that nothing was reserved since. ``unprovable``: what was known is
older than what is shown."""


def compare_heads(
    site: PartyName, known: Heads | None, shown: Heads, spent: Collection[int] = ()
) -> Standing:
    """How the head that a site shows stands to the last one that is remembered of it.

    Args:
        site: Whose.
        known: What is remembered, None for nothing.
        shown: What its acceptance says now.
        spent: Numbers of reservations in whose runs an upload of the site was seen.

    Raises:
        RemoteProtocolError: It is malformed, or the budget went back: it made fewer reservations
            (``budget.rolled-back``), others (``budget.forked``), or took one back that was spent
            (``budget.refunded``).
    """
    oldest = shown.count - len(shown.digests) + 1
    if (
        len(shown.digests) != min(shown.count, WINDOW)
        or list(shown.released) != sorted(set(shown.released))
        or not all(oldest <= number <= shown.count for number in shown.released)
    ):
        raise RemoteProtocolError(
            "budget.head",
            f"site {site} shows {len(shown.digests)} digests of {shown.count} reservations, or says of "
            "others that they were released",
            party=site,
        )
    standing = _standing(site, known, shown)
    if not set(spent).isdisjoint(shown.released):
        raise _went_back("budget.refunded", site, known, shown)
    return standing


def _standing(site: PartyName, known: Heads | None, shown: Heads) -> Standing:
    if known is None or not known.count:
        return "first"
    if shown.count < known.count:
        # An answer that was overtaken by one to a later offer shows a state that is known.
        if shown.count and shown.at(shown.count) == known.at(shown.count):
            return "repeated"
        raise _went_back("budget.rolled-back", site, known, shown)
    then = shown.at(known.count)
    if then is None:
        return "unprovable"
    if then != known.at(known.count):
        raise _went_back("budget.forked", site, known, shown)
    return "continued"


WENT_BACK = {
    "budget.rolled-back": "it has made {shown} reservations, {seen} were seen here",
    "budget.forked": "it has made other reservations than the {seen} that were seen here",
    "budget.refunded": "it released a reservation in whose run its upload was seen here",
}


def _went_back(
    code: str, site: PartyName, known: Heads | None, shown: Heads
) -> RemoteProtocolError:
    seen = known.count if known is not None else 0
    return RemoteProtocolError(
        code,
        f"the privacy budget of site {site} went back: "
        + WENT_BACK[code].format(shown=shown.count, seen=seen),
        remedy=f"the state of {site} was restored from a backup or deleted, and has forgotten what was "
        "spent since: put its latest state back. If that is lost, its operator lowers [budget] in "
        "site.toml by what its later runs cost, and every other party that agrees runs "
        f"'tacit budget heads FOLDER --accept {site}'",
        party=site,
        seen=seen,
        shown=shown.count,
    )


def note_spent(party: Party, terms: Terms, uploads: Sequence[Received]) -> None:
    """Remembers whose signed uploads were seen in a run, inside a transaction.

    Only a signature counts: a leader's word that somebody took part must not convict anybody later.
    """
    others = {upload.sender.party for upload in uploads} - {party.address.party}
    for site in sorted(others if terms.plan.unit != "none" else ()):
        party.ports.store.put(SPENT, f"{terms.run_id}/{site}", b"")


class PeerHeads:
    """The heads that one party remembers, in its store.

    Args:
        party: Who remembers.

    Guarantee:
        Against a site's operator who restores or deletes its state, with honest software: no other
        client uploads in a run with that site, and an honest leader does not begin it
        (tests: ``tests/unit/test_party_heads.py::test_a_restored_budget_is_refused_by_leader_and_sites``,
        ``tests/unit/test_party_heads.py::test_what_was_spent_cannot_be_released_after_a_restore``,
        ``tests/sim/test_faults.py::test_a_restored_budget_gives_no_result``).
    """

    def __init__(self, party: Party) -> None:
        self._party = party

    def known(self, site: PartyName) -> Heads | None:
        """What is remembered of a site.

        Raises:
            VerificationError: It is damaged.
        """
        stored = self._party.ports.store.get(SPACE, site)
        return None if stored is None else _decode(site, stored)

    def all(self) -> dict[PartyName, Heads]:
        """What is remembered, by site.

        Raises:
            VerificationError: It is damaged.
        """
        stored = self._party.ports.store.items(SPACE)
        return {PartyName(site): _decode(PartyName(site), value) for site, value in stored}

    def meet(
        self, chain: ModelChain[Computation], accepts: Sequence[bytes], now: Milliseconds
    ) -> list[Received]:
        """Opens the acceptances of a run and looks at the head of every client, inside a transaction.

        Raises:
            RemoteProtocolError: One is missing, repeated or from somebody else, or a budget went back.
        """
        opened = chain.open_accepts(accepts)
        self.observe(chain.terms, opened, now)
        return opened

    def observe(self, terms: Terms, accepts: Sequence[Received], now: Milliseconds) -> None:
        """Compares, logs and remembers the heads of others, inside a transaction.

        Raises:
            RemoteProtocolError: A head is malformed, or a budget went back.
        """
        for message in accepts:
            site: PartyName = message.sender.party
            body: Accept = message.body
            if site == self._party.address.party:
                continue
            shown = Heads(
                body.reservations, tuple(Digest(head) for head in body.heads), body.released
            )
            standing = compare_heads(site, self.known(site), shown, self._spent(site))
            if standing != "repeated":
                self._party.ports.store.put(SPACE, site, _encode(shown))
            self._note_run(terms, site, shown)
            head = shown.digests[-1].hex() if shown.digests else ""
            self._party.log(
                terms,
                now,
                "budget.head",
                site=site,
                count=shown.count,
                head=head,
                standing=standing,
            )

    def accept(self, site: PartyName, now: Milliseconds) -> bool:
        """Forgets a party on the operator's word, and logs it; false if nothing is remembered of it.

        The next heads that it shows, of its budget and of its log, are taken as the first.
        """
        store, cosigner = self._party.ports.store, Cosigner(self._party)
        stored, events = store.get(SPACE, site), cosigner.known(site)
        if stored is None and not events:
            return False
        stored = stored or b""
        with store.transaction():
            store.delete(SPACE, site)
            cosigner.forget(site)
            for key, _ in store.items(RUNS, f"{site}/"):
                store.delete(RUNS, key)
            self._party.act(
                now,
                "operator.heads-accepted",
                site=site,
                count=int.from_bytes(stored[:COUNT_BYTES], "big"),
                head=stored[COUNT_BYTES:][-DIGEST_BYTES:].hex(),
                events=events,
            )
        return True

    def _spent(self, site: PartyName) -> list[int]:
        """The reservations of a site in whose runs its upload was seen."""
        store = self._party.ports.store
        return [
            int(key.rpartition("/")[2])
            for key, run in store.items(RUNS, f"{site}/")
            if store.get(SPENT, f"{run.decode()}/{site}") is not None
        ]

    def _note_run(self, terms: Terms, site: PartyName, shown: Heads) -> None:
        """Remembers whose reservation the last one is, and forgets those that no window reaches."""
        store = self._party.ports.store
        if terms.plan.unit != "none":  # Otherwise the last one is of an earlier run.
            store.put(RUNS, f"{site}/{shown.count:012d}", terms.run_id.encode())
        for key, run in store.items(RUNS, f"{site}/"):
            if int(key.rpartition("/")[2]) <= shown.count - WINDOW:
                store.delete(RUNS, key)
                store.delete(SPENT, f"{run.decode()}/{site}")

    def note(self, terms: Terms, error: TacitError) -> None:
        """Keeps the finding that a budget went back, inside a transaction: the run stays refused."""
        if error.code in FAULTS:
            finding = f"{error.code} {error.details['party']}".encode()
            self._party.state(terms.run_id).put(DISTRUST, finding)

    def require(self, terms: Terms) -> None:
        """Refuses a run in which a budget went back.

        Raises:
            RemoteProtocolError: It did; with the code that was found.
        """
        finding = self._party.state(terms.run_id).get(DISTRUST)
        if finding is not None:
            code, _, site = finding.decode().partition(" ")
            raise RemoteProtocolError(
                code, f"the privacy budget of site {site} went back before this run", party=site
            )


def _encode(heads: Heads) -> bytes:
    return heads.count.to_bytes(COUNT_BYTES, "big") + b"".join(heads.digests)


def _decode(site: PartyName, stored: bytes) -> Heads:
    count, rest = int.from_bytes(stored[:COUNT_BYTES], "big"), stored[COUNT_BYTES:]
    starts = range(0, len(rest), DIGEST_BYTES)
    heads = Heads(count, tuple(Digest(rest[start : start + DIGEST_BYTES]) for start in starts))
    if len(stored) != COUNT_BYTES + DIGEST_BYTES * min(count, WINDOW):
        raise VerificationError(
            "budget.damaged-head",
            f"what is remembered of the budget of site {site} is damaged",
            remedy=f"put this party's own state back, or run 'tacit budget heads FOLDER --accept {site}'",
        )
    return heads
