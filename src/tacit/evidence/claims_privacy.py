"""Claims about what each site spent and charged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal

from tacit.errors import TacitError
from tacit.evidence.prices import Price
from tacit.evidence.records import Event, PartyLog
from tacit.evidence.report import Claim, Findings
from tacit.evidence.view import Missing, View, inconsistency
from tacit.types import PartyName
from tacit.wire.messages import Accept

__all__ = ["budget", "each_client", "epsilon", "first_index"]


def each_client(
    view: View, findings: Findings, check: Callable[[PartyName, PartyLog], None]
) -> None:
    """Checks one client after the other; what one lacks does not hide what is wrong with another."""
    for client in view.clients:
        try:
            check(client, view.log(client))
        except Missing as missing:
            findings.unproven(str(missing))
        except TacitError as error:
            findings.fail(f"{client}: {error.message}")


def first_index(log: PartyLog, *kinds: str) -> int | None:
    """Index of the first event of these kinds."""
    return min((event.index for kind in kinds for event in log.of(kind)), default=None)


def epsilon(view: View) -> Claim:
    """No client recorded less epsilon than the plan's accountant gives.

    A charge covers the rounds up to it. A settlement covers the whole plan once anything was
    uploaded, because the leader chose when to stop after it had seen sums (``settled_epsilon``).
    """
    findings = Findings("epsilon")
    problem = inconsistency(view)
    if problem is not None:
        findings.fail(problem)
        return findings.conclude("")
    if view.plan.unit == "none":
        findings.unproven("the run has no differential privacy")
        return findings.conclude("")
    recorded: list[Decimal] = []
    price = Price(view)
    _check_job_price(view, findings)

    def check(client: PartyName, log: PartyLog) -> None:
        charges = log.of("budget.charged")
        rounds = {charge.number("round") for charge in charges}
        if not findings.require(
            all(1 <= number <= view.plan.rounds for number in rounds),
            f"{client} charged a round that the plan does not have",
        ):
            return
        stated = list(_stated(charges))
        if stated:
            price.check(f"{client} charged", stated[-1], len(rounds), findings)
        uploaded = client in view.uploaders or bool(log.of("upload.sent")) or bool(charges)
        settled = log.of("run.settled")
        for event in settled:
            epsilon = event.decimal("epsilon")
            price.check(f"{client} settled", epsilon, None if uploaded else 0, findings)
            recorded.append(epsilon)
        if uploaded and not settled:
            findings.unproven(f"{client} has not settled its epsilon")

    each_client(view, findings, check)
    if not recorded:
        findings.unproven("no client settled an epsilon")
    return findings.conclude(
        lambda: (
            f"recorded epsilon is at most {max(recorded)} per site at delta {view.plan.delta}, "
            f"with up to {view.plan.max_colluding} colluding helper(s); enough by {price.accountants}"
        )
    )


def _check_job_price(view: View, findings: Findings) -> None:
    """The plan costs no more than the job promised; without the accountant, recorded figures tell."""
    cost, plan = view.cost(), view.plan
    if cost is None:
        return
    findings.require(
        math.isfinite(cost),
        "against leader and helpers, who see who takes part, epsilon is infinite",
    )
    promised = plan.epsilon() if plan.visible_sampling else cost
    findings.require(
        promised <= view.job.privacy.epsilon * (1 + 1e-9),
        "the privacy plan spends more epsilon than the job says",
    )


def budget(view: View) -> Claim:
    """Each upload was charged before it left, settled, and every budget's head seen by the others."""
    findings = Findings("budget")
    witnesses = _check_heads(view, findings)
    if view.plan.unit == "none":
        findings.unproven("the run has no differential privacy, nothing is charged")
        return findings.conclude("")
    uploads: list[int] = []

    def check(client: PartyName, log: PartyLog) -> None:
        charges = log.of("budget.charged")
        sent = log.of("upload.sent")
        uploads.append(len(sent))
        for event in sent:
            number = event.number("round")
            paid = any(c.index < event.index for c in log.in_round("budget.charged", number))
            findings.require(paid, f"{client} uploaded in round {number} without a charge")
        _check_transcript(view, client, sent, findings)
        reserved = log.of("budget.reserved")
        if charges and (not reserved or reserved[0].index > charges[0].index):
            findings.fail(f"{client} charged before it had reserved")
        for event in reserved:
            _check_reserved(view, client, event, findings)
            findings.require(
                (event.number("count"), event.text("head")) == _head(view.accept(client).body),
                f"{client} showed another head of its budget than it logged",
            )
        _check_settlement(client, log, findings)

    each_client(view, findings, check)
    return findings.conclude(
        lambda: (
            f"{sum(uploads)} uploads, each charged before it left, and settled; the head of every "
            f"budget is countersigned by at least {witnesses} others"
        )
    )


def _check_reserved(view: View, client: PartyName, event: Event, findings: Findings) -> None:
    """A reservation covers the plan; without the accountant, all that the client settled."""
    epsilon = event.decimal("epsilon")
    if view.cost() is not None:
        Price(view).check(f"{client} reserved", epsilon, None, findings)
        return
    for settled in view.log(client).of("run.settled"):
        findings.require(
            epsilon >= settled.decimal("epsilon"), f"{client} reserved less than it settled"
        )


def _head(accept: Accept) -> tuple[int, str]:
    """What a client shows of its budget: reservations ever made, digest of its journal."""
    return accept.reservations, accept.heads[-1].hex() if accept.heads else ""


def _check_heads(view: View, findings: Findings) -> int:
    """The others logged the head that a client shows; returns by how many, at least."""
    fewest = len(view.parties)

    def check(client: PartyName, shown: tuple[int, str]) -> int:
        witnesses = 0
        for other in view.parties:
            log = view.logs[other]
            if other == client or not isinstance(log, PartyLog):
                continue
            seen = [event for event in log.of("budget.head") if event.text("site") == client]
            for event in seen:
                findings.require(
                    (event.number("count"), event.text("head")) == shown,
                    f"{other} saw another head of the budget of {client} than it showed here",
                )
            if not seen and log.of("upload.sent"):
                findings.unproven(f"{other} uploaded and logged no head of the budget of {client}")
            witnesses += bool(seen)
        if not witnesses:
            findings.unproven(f"nobody logged a head of the budget of {client}")
        return witnesses

    for client in view.clients:
        try:
            fewest = min(fewest, check(client, _head(view.accept(client).body)))
        except Missing as missing:
            findings.unproven(str(missing))
        except TacitError as error:
            findings.fail(f"{client}: {error.message}")
    return fewest


def _check_transcript(view: View, client: PartyName, sent: list[Event], findings: Findings) -> None:
    """Every upload that the leader shows was logged by its client, once per round."""
    logged: dict[int, bytes] = {}
    for event in sent:
        number = event.number("round")
        findings.require(number not in logged, f"{client} uploaded twice in round {number}")
        logged[number] = event.digest("upload")
    for round_view in view.rounds:
        upload = round_view.uploads.get(client)
        if upload is not None:
            findings.require(
                logged.get(round_view.number) == upload.digest,
                f"the upload of {client} in round {round_view.number} is not in its log",
            )


def _check_settlement(client: PartyName, log: PartyLog, findings: Findings) -> None:
    charges, settled = log.of("budget.charged"), log.of("run.settled")
    if not charges:
        return
    if not settled:
        reason = f"{client} did not settle its charges"
        (findings.fail if log.closed else findings.unproven)(reason)
        return
    last, rounds = settled[-1], {event.number("round") for event in charges}
    findings.require(
        last.index > charges[-1].index and last.number("rounds") >= len(rounds),
        f"the settlement of {client} does not cover every charge",
    )
    for stated in _stated(charges):
        findings.require(
            last.decimal("epsilon") >= stated, f"{client} settled less than it had charged"
        )


def _stated(charges: list[Event]) -> Iterator[Decimal]:
    """The epsilons that charges name; they never decrease, the last is the largest."""
    return (event.decimal("epsilon") for event in charges if "epsilon" in event.fields)
