"""Claims about what each site decided, issued, spent and charged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal

from tacit.errors import TacitError
from tacit.evidence import layout
from tacit.evidence.records import Event, PartyLog
from tacit.evidence.report import Claim, Findings
from tacit.evidence.view import Missing, View, inconsistency
from tacit.party.price import epsilon_milli
from tacit.types import PartyName
from tacit.wire.messages import Accept

__all__ = ["budget", "epsilon", "policy", "receipts"]

TOLERANCE = Decimal("1e-9")
"""Relative; covers the last digits of an epsilon computed on another platform, nothing more."""

VERSION_TOLERANCE = Decimal("1e-6")
"""Relative; two versions of the accountant differ by less, whoever lies about privacy by more."""


def _at_least(recorded: Decimal, needed: Decimal, reason: str, findings: Findings) -> None:
    """Fails with ``reason`` if the recorded epsilon is below the recomputed one."""
    if recorded >= needed * (1 - TOLERANCE):
        return
    if recorded >= needed * (1 - VERSION_TOLERANCE):
        findings.unproven(f"{reason}; by less than 1e-6: accountant versions differ")
    else:
        findings.fail(reason)


def _epsilon(view: View, rounds: int | None = None) -> Decimal:
    """The plan's epsilon for so many rounds, by default for all."""
    return Decimal(repr(view.plan.charge(rounds)))


def _each_client(
    view: View, findings: Findings, check: Callable[[PartyName, PartyLog], None]
) -> None:
    for client in view.clients:
        try:
            check(client, view.log(client))
        except Missing as missing:
            findings.unproven(str(missing))
        except TacitError as error:
            findings.fail(f"{client}: {error.message}")


def _first(log: PartyLog, *kinds: str) -> int | None:
    """Index of the first event of these kinds."""
    return min((event.index for kind in kinds for event in log.of(kind)), default=None)


def _uploaders(view: View) -> set[PartyName]:
    """The clients whose uploads the transcript shows."""
    return {client for round_view in view.rounds for client in round_view.uploads}


def _accept(view: View, client: PartyName) -> Accept:
    message = view.messages.get(layout.accept(client))
    if message is None or not isinstance(message.body, Accept):
        raise Missing(f"the acceptance of {client} is not in the bundle")
    return message.body


def policy(view: View) -> Claim:
    """Each client's policy allowed the run before anything left, and every round had the same lock."""
    findings = Findings("policy")

    uploaders = _uploaders(view)

    def check(client: PartyName, log: PartyLog) -> None:
        decisions = log.of("policy.decided")
        if not all(event.flag("allowed") for event in decisions) or not decisions:
            took_part = client in uploaders or log.of("upload.sent")
            reason = f"the policy of {client} did not allow the run"
            (findings.fail if took_part else findings.unproven)(reason)
            return
        accept, first = _accept(view, client), decisions[0]
        same = (first.digest("policy"), first.digest("contract")) == (
            accept.policy,
            accept.contract,
        )
        findings.require(same, f"{client} accepted under another policy or contract")
        rounds = {event.digest("policy") for event in log.of("upload.sent")}
        findings.require(
            rounds <= {accept.policy},
            f"{client} uploaded under another policy than it accepted under",
        )
        _check_price(view, client, first, findings)
        accepted = [event.digest("accept") for event in log.of("offer.accepted")]
        findings.require(
            accepted == [view.messages[layout.accept(client)].digest],
            f"the acceptance of {client} is not the one that it logged",
        )
        left = _first(log, "offer.accepted", "upload.sent")
        findings.require(
            left is None or first.index < left, f"{client} took part before its policy decided"
        )

    _each_client(view, findings, check)
    return findings.conclude(f"the policies of all {len(view.clients)} clients allowed the run")


def _check_price(view: View, client: PartyName, decided: Event, findings: Findings) -> None:
    """The policy was asked about the epsilon that the plan costs."""
    asked = decided.text("epsilon_milli")
    expected, epsilon = str(epsilon_milli(view.plan)), view.plan.charge()
    if math.isfinite(epsilon):
        near = {str(math.ceil(epsilon * 1000 * (1 + sign * 1e-6))) for sign in (-1, 1)}
        if asked != expected and asked in near:
            findings.unproven(
                f"the policy of {client} was asked about epsilon {asked}/1000, the plan costs "
                f"{expected}/1000; at the edge of rounding: accountant versions differ"
            )
            return
    findings.require(
        asked == expected,
        f"the policy of {client} was asked about epsilon {asked}/1000, the plan costs "
        f"{expected}/1000",
    )


def receipts(view: View) -> Claim:
    """Each client issued the receipt of its data, read under the same lock, before its first upload."""
    findings = Findings("receipts")
    uploaders = _uploaders(view)

    def check(client: PartyName, log: PartyLog) -> None:
        issued, sent = log.of("receipt.issued"), _first(log, "upload.sent")
        if client not in uploaders and sent is None:
            return
        if not issued or (sent is not None and issued[0].index > sent):
            findings.fail(f"{client} uploaded without a receipt")
            return
        event, accept = issued[0], _accept(view, client)
        event.digest("receipt")
        findings.require(
            event.digest("contract") == accept.contract, f"the receipt of {client} is of other data"
        )
        findings.require(
            event.digest("policy") == accept.policy,
            f"the data of {client} were read under another policy",
        )
        findings.require(
            event.digest("schema") == view.manifest.schema,
            f"the receipt of {client} names another schema",
        )

    _each_client(view, findings, check)
    if not uploaders:
        findings.unproven("no upload is in the bundle")
    return findings.conclude(f"{len(uploaders)} clients issued receipts before their first upload")


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
    uploaders = _uploaders(view)

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
            needed = _epsilon(view, len(rounds))
            _at_least(stated[-1], needed, f"{client} charged less epsilon than {needed}", findings)
        uploaded = client in uploaders or bool(log.of("upload.sent")) or bool(charges)
        whole, settled = _epsilon(view) if uploaded else Decimal(0), log.of("run.settled")
        for event in settled:
            epsilon = event.decimal("epsilon")
            reason = f"{client} settled epsilon {epsilon}, the plan needs {whole}"
            _at_least(epsilon, whole, reason, findings)
            recorded.append(epsilon)
        if uploaded and not settled:
            findings.unproven(f"{client} has not settled its epsilon")

    _each_client(view, findings, check)
    if not recorded:
        findings.unproven("no client settled an epsilon")
    return findings.conclude(
        lambda: (
            f"recorded epsilon is at most {max(recorded)} per site at delta {view.plan.delta}, "
            f"with up to {view.plan.max_colluding} colluding helper(s)"
        )
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
            epsilon, needed = event.decimal("epsilon"), _epsilon(view)
            reason = f"{client} reserved epsilon {epsilon}, the plan needs {needed}"
            _at_least(epsilon, needed, reason, findings)
            findings.require(
                (event.number("count"), event.text("head")) == _head(_accept(view, client)),
                f"{client} showed another head of its budget than it logged",
            )
        _check_settlement(client, log, findings)

    _each_client(view, findings, check)
    return findings.conclude(
        lambda: (
            f"{sum(uploads)} uploads, each charged before it left, and settled; the head of every "
            f"budget is countersigned by at least {witnesses} others"
        )
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
            fewest = min(fewest, check(client, _head(_accept(view, client))))
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
