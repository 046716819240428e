"""Claims about what sites decided, on which rules and contracts, and where the data could go."""

from __future__ import annotations

import math

from tacit.errors import TacitError
from tacit.evidence import layout
from tacit.evidence.claims_identity import manifest_signers
from tacit.evidence.claims_privacy import each_client, first_index
from tacit.evidence.records import Event, PartyLog
from tacit.evidence.report import Claim, Findings
from tacit.evidence.view import Missing, View
from tacit.policy.request import UNBOUNDED_EPSILON
from tacit.types import PartyName

__all__ = ["policy", "receipts", "residency"]

DIGITS = 40
"""Of a figure in a reason; honest ones have fewer."""


def policy(view: View) -> Claim:
    """Each client's policy allowed the run before anything left; a disclosed one is the approved one."""
    findings = Findings("policy")

    def check(client: PartyName, log: PartyLog) -> None:
        decisions = log.of("policy.decided")
        if not all(event.flag("allowed") for event in decisions) or not decisions:
            took_part = client in view.uploaders or log.of("upload.sent")
            reason = f"the policy of {client} did not allow the run"
            (findings.fail if took_part else findings.unproven)(reason)
            return
        accept, first = view.accept(client), decisions[0]
        same = (first.digest("policy"), first.digest("contract")) == (
            accept.body.policy,
            accept.body.contract,
        )
        findings.require(same, f"{client} accepted under another policy or contract")
        rounds = {event.digest("policy") for event in log.of("upload.sent")}
        findings.require(
            rounds <= {accept.body.policy},
            f"{client} uploaded under another policy than it accepted under",
        )
        _check_price(view, client, first, findings)
        accepted = [event.digest("accept") for event in log.of("offer.accepted")]
        findings.require(
            accepted == [accept.digest],
            f"the acceptance of {client} is not the one that it logged",
        )
        left = first_index(log, "offer.accepted", "upload.sent")
        findings.require(
            left is None or first.index < left, f"{client} took part before its policy decided"
        )

    each_client(view, findings, check)
    signed = manifest_signers(view)
    for site, found in view.disclosures.items():
        if isinstance(found, TacitError):
            findings.fail(found.message)
        elif isinstance(found, Missing):
            findings.unproven(str(found))
        elif site not in signed:
            # Its acceptance does not name them: anyone who puts the bundle together could.
            findings.unproven(
                f"{site} did not sign the manifest: that its approvers are those in "
                f"{layout.policy(site)} is not its word"
            )
    return findings.conclude(
        f"the policies of all {len(view.clients)} clients allowed the run; {len(view.disclosures)} "
        "are disclosed, as their approvers signed them"
    )


def _check_price(view: View, client: PartyName, decided: Event, findings: Findings) -> None:
    """The policy was asked about the epsilon that the plan costs.

    Without the accountant: about the epsilon that the client reserved, which ``epsilon`` and ``budget``
    judge.
    """
    asked = decided.text("epsilon_milli")
    epsilon = view.cost() if view.plan.private else math.inf
    if epsilon is None:
        reserved = view.log(client).of("budget.reserved")
        epsilon = max((float(event.decimal("epsilon")) for event in reserved), default=None)
        if epsilon is None:
            findings.unproven(f"{client} reserved nothing, and the accountant is not installed")
            return
    if not math.isfinite(epsilon):
        expected, near = str(UNBOUNDED_EPSILON), set()
    else:
        expected = str(math.ceil(epsilon * 1000))
        near = {str(math.ceil(epsilon * 1000 * (1 + sign * 1e-6))) for sign in (-1, 1)}
    if asked != expected and asked in near:
        findings.unproven(
            f"the policy of {client} was asked about epsilon {asked}/1000, the plan costs "
            f"{expected}/1000; at the edge of rounding: accountant versions differ"
        )
        return
    findings.require(
        asked == expected,
        f"the policy of {client} was asked about epsilon {asked[:DIGITS]}/1000, the plan costs "
        f"{expected[:DIGITS]}/1000",
    )


def receipts(view: View) -> Claim:
    """Each client issued the receipt of its data, read under the same lock, before its first upload."""
    findings = Findings("receipts")

    def check(client: PartyName, log: PartyLog) -> None:
        issued, sent = log.of("receipt.issued"), first_index(log, "upload.sent")
        if client not in view.uploaders and sent is None:
            return
        if not issued or (sent is not None and issued[0].index > sent):
            findings.fail(f"{client} uploaded without a receipt")
            return
        logged = {event.digest("upload") for event in log.of("upload.sent")}
        for round_view in view.rounds:
            upload = round_view.uploads.get(client)
            findings.require(
                upload is None or upload.digest in logged,
                f"{client} did not log its upload of round {round_view.number}: nothing shows that the "
                "receipt came first",
            )
        accept = view.accept(client).body
        for event in issued:
            event.digest("receipt")
            findings.require(
                event.digest("contract") == accept.contract,
                f"a receipt of {client} is of other data",
            )
            findings.require(
                event.digest("policy") == accept.policy,
                f"the data of {client} were read under another policy",
            )
            findings.require(
                event.digest("schema") == view.manifest.schema,
                f"a receipt of {client} names another schema",
            )

    each_client(view, findings, check)
    if not view.uploaders:
        findings.unproven("no upload is in the bundle")
    return findings.conclude(
        f"{len(view.uploaders)} clients issued receipts before their first upload"
    )


def residency(view: View) -> Claim:
    """Site, leader and helpers are where each uploader's disclosed contract lets the data be used."""
    findings = Findings("residency")
    bound = 0
    # What left in a round that gave no sum is in no transcript, but in the site's log.
    uploaders = [
        client for client in view.clients if client in view.uploaders or _sent(view, client)
    ]
    for client in uploaders:
        try:
            disclosed = view.disclosure(client)
        except Missing as missing:
            findings.unproven(str(missing))
            continue
        if disclosed is None:
            findings.unproven(
                f"{client} does not disclose its contract ({layout.policy(client)}): where its data "
                "may be used is not known"
            )
            continue
        allowed = disclosed.allowed_regions
        if allowed is None:
            continue
        bound += 1
        for party in dict.fromkeys([client, view.leader, *view.helpers]):
            region = view.roster.member(party).region
            findings.require(
                region in allowed,
                f"{party} is in {region}, where the contract of {client} does not allow its data",
            )
    if not view.uploaders:
        findings.unproven("no upload is in the bundle")
    return findings.conclude(
        f"the contracts of {len(uploaders)} clients are disclosed; {bound} of them limit regions, "
        "and by the roster every site, the leader and every helper are within"
    )


def _sent(view: View, client: PartyName) -> bool:
    """Whether a client's log says that an upload left."""
    log = view.logs[client]
    return isinstance(log, PartyLog) and bool(log.of("upload.sent"))
