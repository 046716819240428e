"""The verifier's result as a page for people: everything that the page says, as plain data.

The page shows what a bundle says next to what the verifier makes of it. It is made on the reader's own
machine and is no evidence itself; it says how to repeat the check.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tacit.errors import TacitError
from tacit.evidence import layout
from tacit.evidence.page_figures import Charges, Participation, charges, participation
from tacit.evidence.page_parties import Duties, Signed, bystanders, duties, signed
from tacit.evidence.page_story import Story, tell
from tacit.evidence.page_words import LIMITS, WORDS, Words, clean
from tacit.evidence.report import CLAIMS, Claim, Report, Status
from tacit.evidence.trust import Trust
from tacit.evidence.view import Missing, View
from tacit.privacy.plan import Plan
from tacit.privacy.statement import make_statement

__all__ = ["Page", "Verdict", "make_page"]

Known = TypeVar("Known")

MAX_NAMES = 20
MAX_COALITIONS = 8

BASIS = ("authenticity", "integrity")
"""If one of these fails, what the bundle says means nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer in one glance: ``level`` is ``pass``, ``caution`` or ``fail``."""

    level: str
    headline: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim with what it means."""

    id: str
    status: str
    level: str
    required: bool
    reason: str
    words: Words


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what is known of it; ``known`` is false where the value says why it is not."""

    name: str
    value: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows; every text is one line of printable characters."""

    federation: str
    run: str
    job: str
    summary: str
    bundle: str
    verdict: Verdict
    simulated: tuple[str, ...]
    rely: tuple[str, ...]
    doubt: tuple[str, ...]
    claims: tuple[ClaimRow, ...]
    run_facts: tuple[Fact, ...]
    story: Story
    charges: Charges | str
    participation: Participation | str
    duties: tuple[Duties, ...] | str
    bystanders: tuple[str, ...]
    privacy: tuple[Fact, ...]
    coalitions: tuple[tuple[int, str], ...]
    promises: tuple[str, ...]
    asked: tuple[Fact, ...]
    model: tuple[Fact, ...]
    signed: tuple[Signed, ...] | str
    faults: tuple[str, ...]
    limits: tuple[str, ...] = LIMITS


def make_page(view: View | None, report: Report, trust: Trust | None) -> Page:
    """Puts together what is known; what is not there is named, and nothing is raised for it.

    Args:
        view: The opened bundle; None if it is not readable.
        report: What the verifier says of it.
        trust: What it was verified against.
    """
    levels = {Status.PASS: "pass", Status.FAIL: "fail", Status.NOT_PROVEN: "caution"}
    claims = tuple(
        ClaimRow(
            claim.id,
            claim.status.value,
            levels[claim.status],
            claim.id in report.required,
            clean(claim.reason),
            WORDS[claim.id],
        )
        for claim in report.claims
    )
    rely, doubt = _topics(report)
    unread = "The bundle is not readable, so this is not known."
    return Page(
        federation=clean(report.federation) or "an unknown federation",
        run=report.run,
        job=_job(view),
        summary=_summary(view),
        bundle=report.bundle,
        verdict=judge(report),
        simulated=tuple(clean(text) for text in report.simulated),
        rely=rely,
        doubt=doubt,
        claims=claims,
        run_facts=_run_facts(view, report),
        story=tell(view) if view is not None else Story((), 0, (unread,)),
        charges=unread if view is None else _either(lambda: charges(view)),
        participation=unread if view is None else _either(lambda: participation(view)),
        duties=unread if view is None else _either(lambda: duties(view, trust)),
        bystanders=() if view is None else bystanders(view),
        privacy=_privacy(view),
        coalitions=_coalitions(view),
        promises=_promises(view),
        asked=_asked(trust),
        model=_model(view),
        signed=unread if view is None else _either(lambda: signed(view, trust)),
        faults=() if view is None else tuple(clean(fault) for fault in view.faults),
    )


def _job(view: View | None) -> str:
    """The job's name; empty if it is not known."""
    try:
        return clean(view.job.name) if view is not None else ""
    except Missing:
        return ""


def _summary(view: View | None) -> str:
    """The run in one sentence, as the bundle tells it; empty if that is not known."""
    try:
        if view is None:
            return ""
        plan, rounds = view.plan, len(view.closed_rounds)
        private = (
            f"epsilon {_rounded_up(plan.epsilon())} at delta {plan.delta:g}, unit {plan.unit}"
            if plan.private
            else "no differential privacy"
        )
        return clean(
            f"{len(view.clients)} sites, purpose '{view.job.purpose}', {rounds} "
            f"{'round' if rounds == 1 else 'rounds'} with a sum, "
            f"aggregation {view.manifest.protocol}, {private}"
        )
    except (Missing, TacitError):
        return ""


def judge(report: Report) -> Verdict:
    """The verdict of a report in words."""
    failed = [claim.id for claim in report.claims if claim.status is Status.FAIL]
    open_ = [
        claim.id
        for claim in report.claims
        if claim.status is Status.NOT_PROVEN and claim.id in report.required
    ]
    if report.exit_code == 1:
        return Verdict(
            "fail",
            "Refused: do not rely on this run",
            f"The evidence contradicts itself or your trust file: {_listed(failed)}.",
        )
    if report.exit_code == 2:
        return Verdict(
            "caution",
            "Not fully proven",
            f"Nothing contradicts the run, but your trust file requires what the bundle does not "
            f"prove: {_listed(open_)}.",
        )
    if not report.required:
        return Verdict(
            "caution",
            "Consistent, but nobody is identified",
            "No trust file was given, so anybody could have made this bundle. Repeat the check with "
            "--trust and a file from somebody you trust.",
        )
    sentence = (
        f"All {len(report.required)} claims that your trust file requires are proven, of "
        f"{len(report.claims)} that were checked."
    )
    if report.status != "complete":
        return Verdict(
            "caution",
            "Verified, but the run is partial",
            f"{sentence} The run did not end as planned.",
        )
    return Verdict("pass", "Verified", sentence)


def _topics(report: Report) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What may be relied on, and what may not."""
    status = {claim.id: claim.status for claim in report.claims}
    if any(status.get(claim) is Status.FAIL for claim in BASIS):
        return (), (
            "anything below: it is what the bundle says, and the bundle is not to be trusted",
        )
    if status.get("authenticity") is not Status.PASS:
        whole = "anything below as the word of known parties: who signed it is not proven"
        return (), (whole, *_topic(report.claims, passed=False))
    return tuple(_topic(report.claims, passed=True)), tuple(_topic(report.claims, passed=False))


def _topic(claims: Iterable[Claim], *, passed: bool) -> Iterable[str]:
    return (WORDS[claim.id].topic for claim in claims if (claim.status is Status.PASS) is passed)


def _either(make: Callable[[], Known]) -> Known | str:
    """What ``make`` returns, or why it cannot be known."""
    try:
        return make()
    except Missing as missing:
        return f"Not known: {clean(missing)}."
    except TacitError as error:
        return f"Not known: {clean(error.message)}."


def _fact(name: str, make: Callable[[], object]) -> Fact:
    try:
        return Fact(name, clean(make()))
    except Missing as missing:
        return Fact(name, f"not known: {clean(missing)}", known=False)
    except TacitError as error:
        return Fact(name, f"not known: {clean(error.message)}", known=False)


def _run_facts(view: View | None, report: Report) -> tuple[Fact, ...]:
    """What the run was."""
    facts = [
        Fact("Run", clean(report.run), bool(report.run)),
        Fact("Federation", clean(report.federation), bool(report.federation)),
        Fact("How it ended, as the leader says", clean(report.status), bool(report.status)),
        Fact("Bundle (SHA-256)", report.bundle),
    ]
    if view is None:
        return tuple(f if f.known else replace(f, value="not known") for f in facts)
    return (
        *facts,
        _fact("Job", lambda: view.job.name),
        _fact("Purpose", lambda: view.job.purpose),
        _fact("Data contract", lambda: view.job.data.contract),
        _fact("Protocol", lambda: view.manifest.protocol),
        _fact("Leader", lambda: view.leader),
        _fact("Sites that hold data", lambda: _names(view.clients)),
        _fact("Helpers", lambda: _names(view.helpers)),
        _fact("Rounds with a sum", lambda: f"{len(view.closed_rounds)} of {view.manifest.rounds}"),
        _fact("Operators in a sum, at least", lambda: view.manifest.min_cohort),
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)}: {', '.join(names[:MAX_NAMES])}{more}" if names else "none"


def _privacy(view: View | None) -> tuple[Fact, ...]:
    """The privacy plan that all parties signed."""
    if view is None:
        return ()
    unit = _fact("Unit of privacy", lambda: view.plan.unit)
    if not unit.known:
        return (unit,)
    if not view.plan.private:
        return (replace(unit, value="none: the run has no differential privacy"),)
    plan = view.plan
    return (
        unit,
        _fact("Epsilon of the whole run, at most", lambda: _rounded_up(plan.epsilon())),
        _fact("Epsilon that each site is charged", lambda: _rounded_up(plan.charge())),
        _fact("Delta", lambda: f"{plan.delta:g}"),
        _fact("Colluding helpers that it allows for", lambda: plan.max_colluding),
        _fact("Clip norm", lambda: f"{plan.clip_norm:g}"),
        _fact("Noise multiplier", lambda: f"{plan.noise_multiplier:.6g}"),
        _fact("Sampling rate", lambda: f"{plan.sampling_rate:g}"),
        _fact("Rounds planned", lambda: plan.rounds),
        _fact("Helpers in a round", lambda: _range(plan.min_helpers, plan.helpers)),
    )


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _coalitions(view: View | None) -> tuple[tuple[int, str], ...]:
    """Epsilon against 0, 1, ... helpers that pool what they know."""
    plan = _plan(view)
    if plan is None:
        return ()
    shown = range(min(plan.helpers, MAX_COALITIONS) + 1)
    counts = sorted({*shown, plan.max_colluding, plan.helpers})
    return tuple((count, _rounded_up(plan.epsilon(colluding=count))) for count in counts)


def _promises(view: View | None) -> tuple[str, ...]:
    """What the privacy figures mean, and against whom."""
    plan = _plan(view)
    if view is None or plan is None:
        return ()
    job = view.job
    public = [f"{job.evaluation.contract} (evaluation)"]
    if job.features.prior is not None:
        public.append(f"{job.features.prior} (prior of the features)")
    statement = make_statement(plan, tuning=job.privacy.tuning, public_data=tuple(public))
    return tuple(clean(line) for line in statement.lines())


def _plan(view: View | None) -> Plan | None:
    """The plan of a run with differential privacy, if the bundle shows one."""
    try:
        return view.plan if view is not None and view.plan.private else None
    except (Missing, TacitError):
        return None


def _rounded_up(epsilon: float) -> str:
    return f"{math.ceil(epsilon * 1e4) / 1e4:.4f}" if math.isfinite(epsilon) else "no promise"


def _model(view: View | None) -> tuple[Fact, ...]:
    if view is None:
        return ()
    final = view.members.get(layout.FINAL)
    said = view.head.model
    return (
        Fact("Released model (SHA-256)", hashlib.sha256(final).hexdigest())
        if final is not None
        else Fact("Released model", "not in the bundle", known=False),
        Fact("The manifest names", said or "no model", bool(said)),
        _fact("Parameters", lambda: f"{view.manifest.dimension:,}"),
        _fact("Model code", lambda: view.job.model),
        _fact("Code (SHA-256)", lambda: f"{view.manifest.code.hex()}"),
        _fact("Server steps", lambda: len(view.closed_rounds)),
        Fact("Transcript behind it (SHA-256)", view.head.transcript),
    )


def _asked(trust: Trust | None) -> tuple[Fact, ...]:
    """What the auditor's own trust file asks of a run."""
    if trust is None:
        return (Fact("Trust file", "none was given: nobody is identified", known=False),)
    names = ", ".join(clean(name) for name in trust.witnesses)
    return (
        Fact("Federation and members", f"{trust.roster.federation}, {len(trust.roster.members)}"),
        Fact("Roster (SHA-256)", trust.roster.digest.hex()),
        Fact("Run", trust.run or "any run of the federation"),
        Fact("Claims", ", ".join(claim for claim in CLAIMS if claim in trust.required)),
        Fact("Other operators that must have cosigned each log", str(trust.quorum)),
        Fact("Independent witnesses that must have", names or "none"),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
