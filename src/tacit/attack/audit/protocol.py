"""The audit of the protocol: every protection is tried for, in real runs, and a missing one has a name.

Alarms: ``noise-too-small``, ``noise-too-large``, ``noise-not-gaussian``, ``noise-repeats``,
``sum-not-exact``, ``clip-skipped``, ``mask-reused``, ``cohort-of-one``, ``unredacted``,
``receipt-without-redaction``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from tacit.attack.audit import checks
from tacit.attack.audit.canaries import (
    LONG_ROW,
    Canaries,
    CanaryFederation,
    CanaryModel,
    FactoredCanaryModel,
    canary_job,
    sites_of,
)
from tacit.attack.audit.redaction import audit_redaction
from tacit.attack.defences import Defence
from tacit.attack.findings import Findings, OnProgress
from tacit.attack.measure import Estimate, proportion
from tacit.attack.scratch import LEADER, ScratchFederation
from tacit.attack.transcript import Transcript
from tacit.attack.workbench import Workbench
from tacit.party.job import JobSpec
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Address, Channel, Envelope, open_message, sign_message
from tacit.wire.messages import MaskRequest, MaskSum

__all__ = ["PARTS", "Part", "audit_protocol"]

Part = Literal["noise", "masks", "clip", "cohorts", "redaction"]
PARTS: tuple[Part, ...] = get_args(Part)

WIDTH = 4
"""Coordinates of a loud canary: clipped one by one and not as a whole, it is twice too long."""

CANARIES = 256
RUNS = 2
RARE = 0.05
"""Below this sampling rate a run of a few rounds may sample no canary: clipping is then tried at rate 1."""


@dataclass
class _Report:
    """One audit: what it works on, and what it has found so far.

    Args:
        bench: The job under attack.
        defence: The column.
        measured: Figures.
        alarms: What is broken.
        notes: What could not be tried, and where something was found.
    """

    bench: Workbench
    defence: Defence
    measured: dict[str, Estimate] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def transcripts(self) -> list[Transcript]:
        """Runs with the same public inputs: what two of them have in common is not random."""
        bench, canaries = self.bench, _canaries(self.bench)
        job, rounds = _job(bench, self.defence, canaries), bench.pick(2, 3, 12)
        model = CanaryModel(canaries)
        return [
            _federation(bench, job, canaries, model).run(rounds=min(rounds, job.rounds))
            for _ in range(bench.pick(RUNS, RUNS, 3 * RUNS))
        ]

    def alarm(self, name: str, *, broken: bool) -> None:
        """Raises an alarm, once."""
        if broken and name not in self.alarms:
            self.alarms.append(name)


def audit_protocol(
    bench: Workbench,
    defence: Defence,
    on_progress: OnProgress,
    parts: Sequence[Part] = PARTS,
) -> Findings:
    """Tries every protection that a column has. Row ``formal-epsilon``.

    The auditor knows all data and holds all keys: it need not estimate what a mechanism does, it looks.

    Args:
        bench: The job under attack.
        defence: The column.
        on_progress: Called after every part.
        parts: Which protections are tried.

    Returns:
        Measured figures, and an alarm for every protection that was found broken. A sound system raises one
        with probability below 1e-6.

    Guarantee:
        Noise of a third of its size, noise from a seeded generator, a skipped clip, masks that return, an
        answer for one upload and a receipt without redaction each raise the alarm of that name. Checked by
        ``tests/attack/test_power.py::test_a_planted_bug_raises_the_alarm_of_its_name``.
    """
    report = _Report(bench, defence)
    if bench.profile == "demo" and defence != "tacit":
        parts = ()
        report.notes.append("Protections are tried in the column of Tacit only at this profile.")
    tried = {"noise": _noise, "masks": _masks, "clip": _clip, "cohorts": _cohorts}
    tried |= {"redaction": _redaction}
    for number, part in enumerate(parts, 1):
        tried[part](report)
        on_progress(number / len(parts))
    return Findings(
        adversary="auditor with all data and keys",
        measured=report.measured,
        notes=tuple(report.notes),
        alarms=tuple(report.alarms),
    )


def _masked(defence: Defence) -> bool:
    return defence in ("masking", "noise", "tacit")


def _federation(
    bench: Workbench, job: JobSpec, canaries: Canaries, model: CanaryModel
) -> CanaryFederation:
    """All canaries, loud, among the sites."""
    holdings = np.array_split(np.arange(canaries.count), sites_of(bench.job))
    return CanaryFederation(job, model, canaries.data(loud=True), list(holdings))


def _job(bench: Workbench, defence: Defence, canaries: Canaries) -> JobSpec:
    rare = bench.job.privacy.sampling_rate < RARE
    return canary_job(
        bench.job,
        defence,
        canaries,
        sites=sites_of(bench.job),
        privacy={"sampling_rate": 1.0} if rare else None,
    )


def _canaries(bench: Workbench, count: int = CANARIES) -> Canaries:
    return Canaries(count, WIDTH, bench.job.privacy.clip_norm)


def _noise(report: _Report) -> None:
    """Each share and each sum: as much as the plan says, Gaussian, and never the same."""
    if report.defence not in ("noise", "tacit") or report.bench.job.privacy.unit == "none":
        return
    figures = checks.noise_figures(report.transcripts)
    for vectors in (figures.shares.values(), figures.sums.values()):
        verdict = checks.variance_is_wrong(vectors)
        report.alarm("noise-too-small", broken=verdict < 0)
        report.alarm("noise-too-large", broken=verdict > 0)
    report.alarm("noise-not-gaussian", broken=checks.shape_is_wrong(figures.shares.values()))
    report.alarm("noise-repeats", broken=checks.correlated(figures.shares))
    report.alarm("sum-not-exact", broken=not figures.exact)
    pooled = np.concatenate(list(figures.sums.values()))
    value = float(np.sqrt(np.square(pooled).mean()))
    reach = 1.96 / np.sqrt(2.0 * len(pooled))
    report.measured["noise.ratio"] = Estimate(
        value,
        value * (1.0 - reach),
        value * (1.0 + reach),
        0.0,
        None,
        len(pooled),
        "ratio",
        "standard deviation of the noise in published sums over that of the plan; 1 is as promised",
    )


def _masks(report: _Report) -> None:
    """No mask and no seed twice, in rounds, sites, helpers or runs."""
    if _masked(report.defence):
        runs = report.transcripts
        broken = checks.reused_masks(runs) or checks.repeated_seeds(runs)
        report.alarm("mask-reused", broken=broken)


def _clip(report: _Report) -> None:
    """Short rows, long rows and factored ones: production encodes each by a function of its own."""
    bench, defence = report.bench, report.defence
    canaries = _canaries(bench)
    longest = [_longest(transcript, canaries) for transcript in report.transcripts]
    wide = _canaries(bench, LONG_ROW // WIDTH)
    for other, model in ((canaries, FactoredCanaryModel(canaries, 16)), (wide, CanaryModel(wide))):
        job = _job(bench, defence, other)
        run = _federation(bench, job, other, model).run(rounds=1)
        longest.append(_longest(run, other))
    found = [value for value, _ in longest]
    report.alarm("clip-skipped", broken=max(found) > 1.0)
    if min(found) == 0.0:
        report.notes.append("In one of the runs no canary was sampled: its clipping was not tried.")
    report.measured["clip.norm"] = Estimate(
        max(found),
        max(found),
        max(found),
        None,
        1.0,
        sum(count for _, count in longest),
        "ratio",
        "largest integer norm of a record with a gradient a million times too long, over the sensitivity",
    )
    if defence in ("noise", "tacit") and bench.job.privacy.unit == "record":
        _clip_own(report)


def _clip_own(report: _Report) -> None:
    """The job's own model and way of clipping: a site with one record contributes one row."""
    bench, sites = report.bench, sites_of(report.bench.job)
    picked = bench.generator("audit-clip").choice(len(bench.data), sites, replace=False)
    federation = bench.scratch(
        report.defence, list(picked.reshape(sites, 1)), privacy={"sampling_rate": 1.0}
    )
    transcript = federation.run(rounds=1)
    whole = Canaries(1, federation.workload.length, 1.0)
    ratio, count = _longest(transcript, whole)
    report.alarm("clip-skipped", broken=ratio > 1.0)
    report.measured["clip.own"] = Estimate(
        ratio,
        ratio,
        ratio,
        None,
        1.0,
        count,
        "ratio",
        "the same of public records, by the job's model",
    )


def _longest(transcript: Transcript, canaries: Canaries) -> tuple[float, int]:
    """The largest norm of one canary over the plan's sensitivity, by exact integers; and how many were seen."""
    bound, most, count = transcript.plan.sensitivity, 0, 0
    for one in transcript.closed:
        for site in one.cohort:
            blocks = canaries.blocks(transcript.contribution(one, site)).astype(object)
            squares = (blocks * blocks).sum(axis=1)
            most, count = max(most, *squares), count + sum(1 for square in squares if square)
    ratio = float(np.sqrt(most / bound**2))
    return (max(ratio, np.nextafter(1.0, 2.0)) if most > bound**2 else min(ratio, 1.0)), count


def _cohorts(report: _Report) -> None:
    """A leader asks for the masks of one upload, and of one less than a cohort."""
    bench, defence = report.bench, report.defence
    if not _masked(defence):
        return
    canaries = _canaries(bench)
    job = _job(bench, defence, canaries)
    asked = answered = 0
    for size in sorted({1, job.aggregation.min_cohort - 1}):
        federation = _federation(bench, job, canaries, CanaryModel(canaries))
        liar = _Liar(federation, size)
        federation.run(liar, rounds=1)
        asked, answered = asked + len(liar.asked), answered + len(liar.answered)
    report.alarm("cohort-of-one", broken=answered > 0)
    if asked:
        report.measured["cohort.answered"] = proportion(
            answered, asked, null=None, how="helpers asked about too few uploads, and their answers"
        )


class _Liar:
    """A tap: every request to a helper is replaced by one about too few uploads, signed by the leader."""

    def __init__(self, federation: ScratchFederation, size: int) -> None:
        self._federation = federation
        self._size = size
        self.asked: set[tuple[PartyName, int]] = set()
        self.answered: set[tuple[PartyName, int]] = set()

    def __call__(self, envelope: Envelope) -> Envelope:
        roster = self._federation.roster
        message = open_message(envelope.message, roster.authenticate)
        place = int(message.round)
        if isinstance(message.body, MaskSum) and (message.sender.party, place) in self.asked:
            self.answered.add((message.sender.party, place))
        if not isinstance(message.body, MaskRequest):
            return envelope
        self.asked.add((envelope.receiver.party, place))
        few = tuple(sorted(message.body.uploads))[: self._size]
        header = message.header
        channel = Channel(
            run=Digest(header.run),
            roster=Digest(header.roster),
            job=Digest(header.job),
            sender=Address(LEADER, "leader"),
            signer=self._federation.identities[LEADER],
            log=header.log,
        )
        body = dataclasses.replace(message.body, uploads=few)
        return sign_message(channel, envelope.receiver, body, round_number=place)


def _redaction(report: _Report) -> None:
    """Planted values are searched for in everything that leaves a site."""
    bench, defence = report.bench, report.defence
    plain = canary_job(bench.job, defence, _canaries(bench), sites=4)
    found = audit_redaction(plain, defence, bench.generator("audit-redaction", defence))
    report.alarm("unredacted", broken=bool(found.found))
    report.alarm("receipt-without-redaction", broken=bool(found.unclaimed))
    for column in found.found:
        report.notes.append(f"A planted value of the column '{column}' was found.")
    for column in found.unclaimed:
        report.notes.append(f"The receipt does not say of '{column}' what the contract demands.")
    report.measured["redaction.found"] = proportion(
        len(found.found),
        6,
        null=None,
        how=f"columns; {found.planted} values, {found.searched} bytes",
    )
