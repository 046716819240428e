"""One federated run of a demonstration: a fresh federation on disk, trained and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.connect import SanitisedBatch
from tacit.demo.scoreboard import Score
from tacit.engine.folder import FolderSource, SiteFolder, World
from tacit.engine.local import Tap, wall_clock
from tacit.federation import Federation
from tacit.outcome import Outcome
from tacit.party.job import JobSpec
from tacit.party.price import policy_request
from tacit.party.terms import Terms
from tacit.policy.contract import Contract
from tacit.session import Session
from tacit.trust.roster import Roster
from tacit.types import PartyName

__all__ = [
    "RUN",
    "Holding",
    "Prepared",
    "Trained",
    "evaluation_batch",
    "holdings",
    "prepare",
    "train",
]

RUN = "run"
"""Folder of the run in its federation: one each, so it needs no number."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one site brings: its records through its contract, and the policy lock that guards them."""

    site: PartyName
    batch: SanitisedBatch
    policy: str


def holdings(federation: Path, contract: str) -> list[Holding]:
    """Every site of a federation folder, by name."""
    paths = _sites(federation)
    opened = Federation.open(JobSpec.load(federation / "job.toml"), federation, paths)
    _, terms = opened.offer()
    return [_holding(SiteFolder.load(path), contract, terms, opened.lead.roster) for path in paths]


def _holding(folder: SiteFolder, contract: str, terms: Terms, roster: Roster) -> Holding:
    """What the site's policy lets the demonstration's run read."""
    source, now = folder.sources[contract], wall_clock()
    request = policy_request(
        terms, roster, site=folder.config, contract=source.contract, pinned=True, now=now
    )
    lock = folder.lock(now)
    permission = folder.policy.permit(request, source.contract, lock)
    return Holding(folder.name, source.read(permission, now), lock.hex())


def evaluation_batch(federation: Path) -> SanitisedBatch:
    """The public evaluation set of a federation folder."""
    folder = federation / "evaluation"
    return FolderSource(Contract.load(folder / "contract.toml"), folder).read_public(
        "evaluation", wall_clock()
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to start, and how long it took to get there."""

    federation: Path
    session: Session
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run."""

    federation: Path
    session: Session
    outcome: Outcome
    score: Score


def prepare(job: Path, *, rounds: int | None = None, world: World | None = None) -> Prepared:
    """Opens and checks everything.

    Args:
        job: The job file, in its federation's folder.
        rounds: Other than the job says, for a short demonstration.
        world: Entropy and sealing.
    """
    started = time.perf_counter()
    spec = JobSpec.load(job)
    if rounds is not None:
        spec = spec.model_copy(update={"rounds": rounds})
    federation = job.parent
    session = Session.begin(spec, federation, _sites(federation), out=federation / RUN, world=world)
    return Prepared(federation, session, time.perf_counter() - started)


def train(
    prepared: Prepared,
    on_progress: Callable[[float], None],
    tap: Tap = lambda envelope: envelope,
) -> Trained:
    """Runs to the end.

    Args:
        prepared: From ``prepare``.
        on_progress: Called with the share done, 0 to 1.
        tap: Sees every envelope.

    Raises:
        KeyboardInterrupt: The person at the keyboard stopped the run.
        TacitError: The run gave no result.
    """
    started = time.perf_counter()
    outcome = prepared.session.execute(
        on_progress=lambda at: on_progress(at.round / at.rounds), tap=tap
    )
    if not outcome.complete:
        failure = outcome.failure
        if failure is None or failure.code == "run.interrupted":
            raise KeyboardInterrupt
        raise failure
    seconds = prepared.seconds + time.perf_counter() - started
    return Trained(prepared.federation, prepared.session, outcome, _score(outcome, seconds))


def _score(outcome: Outcome, seconds: float) -> Score:
    traffic = outcome.traffic
    sites = [traffic.sent[site] + traffic.received[site] for site in outcome.spent]
    private = outcome.epsilon is not None
    return Score(
        accuracy=outcome.metrics["accuracy"],
        auc=outcome.metrics["auc"],
        epsilon=max(outcome.spent.values()) if private else None,
        traffic=sum(sites) / len(sites),
        seconds=seconds,
    )


def _sites(federation: Path) -> Sequence[Path]:
    return sorted(path.parent for path in (federation / "sites").glob("*/site.toml"))
