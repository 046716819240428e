"""What must hold in a federation of processes after any fault: budgets, logs, sums, and an end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tacit import errors
from tacit.engine.store import STATE, SqliteStore
from tacit.evidence.report import Status
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.ledger.log import Log, log_origin
from tacit.privacy.journal import Journal
from tacit.testing.cluster import Cluster
from tacit.testing.federation import LEADER
from tacit.trust.identity import Identity
from tacit.types import PartyName

__all__ = ["Books", "check_end", "check_run", "read_books", "settled"]

SURE = ("authenticity", "integrity", "cohort", "one-sum-per-upload", "epsilon", "budget")
"""What the bundle of a complete run proves, whoever was killed meanwhile."""


@dataclass(frozen=True, slots=True)
class Books:
    """What one member's state says: verified log, verified journal.

    Args:
        events: Of the log, in order.
        charges: Charged rounds by run, in order, from the journal.
        open: Runs whose reservation is open.
    """

    events: tuple[Mapping[str, Any], ...]
    charges: Mapping[str, tuple[int, ...]]
    open: frozenset[str]

    def rounds(self, run: str, kind: str) -> tuple[int, ...]:
        """The rounds of a run's events of one type."""
        return tuple(
            event["round"]
            for event in self.events
            if (event["type"], event.get("run")) == (kind, run)
        )

    def check(self) -> None:
        """One charge for every round in which an upload was committed, and none besides."""
        runs = {event["run"] for event in self.events if "run" in event}
        for run in runs | set(self.charges):
            charged = self.charges.get(run, ())
            assert charged == self.rounds(run, "upload.sent"), f"{run}: uploads and charges differ"
            assert charged == self.rounds(run, "budget.charged"), f"{run}: log and journal differ"
            assert list(charged) == sorted(set(charged)), f"{run}: a round was charged twice"

    def check_extends(self, earlier: Books) -> None:
        """Nothing that was there is gone or has changed."""
        assert self.events[: len(earlier.events)] == earlier.events, "the log went back"
        for run, charged in earlier.charges.items():
            assert self.charges[run][: len(charged)] == charged, f"a charge of {run} is gone"


def read_books(cluster: Cluster, name: PartyName) -> Books:
    """Opens a member's state, which verifies log and journal; its process may be running."""
    folder = cluster.folders[name]
    store = SqliteStore(folder / STATE)
    with contextlib.closing(store), store.transaction():
        signer = Identity.load(folder / "keys" / "identity.key")
        log = Log(store, log_origin(cluster.roster.federation, name), signer)
        journal = Journal(store)
        journal.refresh()
        charges: dict[str, tuple[int, ...]] = {}
        for record in journal.records():
            if record.kind == "charge":
                charges[record.run] = (*charges.get(record.run, ()), record.round_number)
        still = frozenset(entry.run for entry in journal.entries.values() if entry.open)
        events = tuple(json.loads(data) for _, data in log.events())
    return Books(events, charges, still)


def check_run(cluster: Cluster, run: str, told: Mapping[str, Any]) -> None:
    """An ended run is complete, or ended for a reason with a code; its bundle, if any, holds no lie."""
    failure = told["failure"]
    if told["status"] == "complete":
        assert failure is None, failure
    else:
        kind = getattr(errors, str(failure["error"]))
        assert issubclass(kind, errors.TacitError), failure
        assert failure["code"] not in ("internal", "run.code"), failure
    books = read_books(cluster, LEADER)
    rounds = books.rounds(run, "aggregate.computed")
    assert list(rounds) == sorted(set(rounds)), f"a round of {run} was summed twice"
    summed = [
        event["cohort"]
        for event in books.events
        if (event["type"], event.get("run")) == ("aggregate.computed", run)
    ]
    assert len(set(summed)) == len(summed), f"two sums of {run} have one cohort"
    bundle = cluster.run_folder(run) / "bundle.zip"
    if told["status"] == "failed":
        assert not bundle.exists()
        return
    report = verify_bundle(bundle, Trust.of(cluster.roster, run=run))
    assert report.run == run
    assert report.status == told["status"]
    wrong = [claim for claim in report.claims if claim.status is Status.FAIL]
    assert not wrong, wrong
    if told["status"] == "complete" and not cluster.halted:  # Who is halted signs for nothing.
        unproven = [report.claim(name) for name in SURE]
        assert all(claim.status is Status.PASS for claim in unproven), unproven


def settled(cluster: Cluster) -> bool:
    """Whether no site holds a reservation any more."""
    return not any(read_books(cluster, name).open for name in cluster.layout.names)


def check_end(
    cluster: Cluster, before: Mapping[PartyName, Books], seconds: float
) -> Mapping[PartyName, Books]:
    """After a fault, with everybody running: reservations close, and everybody's books are right.

    Args:
        cluster: The federation.
        before: Books of sites as they were earlier.
        seconds: Until all reservations must be closed.

    Returns:
        The books of all sites now.
    """
    cluster.wait_for(lambda: settled(cluster), "reservations to close", seconds)
    now = {name: read_books(cluster, name) for name in cluster.layout.names}
    for name, books in now.items():
        books.check()
        if name in before:
            books.check_extends(before[name])
    return now
