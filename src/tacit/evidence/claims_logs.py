"""The parties' logs against the transcript: what a leader took part in and does not show.

The leader writes the transcript and its own log as it likes. What it cannot write are the logs of
clients and helpers: every round that one of them took part in must be accounted for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Set as AbstractSet

from tacit.evidence.report import Findings
from tacit.evidence.view import View
from tacit.types import Digest, PartyName

__all__ = [
    "check_added_up",
    "check_ending",
    "check_followed",
    "check_hidden",
    "check_rounds",
    "check_shown",
]

ROUND_EVENTS = ("model.checked", "upload.sent", "mask-sum.answered")
"""What a client or helper logs only in a round that the leader began."""


def _aborted(view: View) -> set[int]:
    return {event.number("round") for event in view.log(view.leader).of("round.aborted")}


def _started(view: View) -> set[int]:
    return {event.number("round") for event in view.log(view.leader).of("round.started")}


def check_rounds(view: View, findings: Findings) -> None:
    """Every round of the transcript is one of the run's, and has either a sum or an abort."""
    aborted, closed = _aborted(view), {round_view.number for round_view in view.closed_rounds}
    for number in sorted(closed & aborted):
        findings.fail(f"round {number} has a sum, and the leader logged that it gave none")
    for round_view in view.rounds:
        number = round_view.number
        findings.require(
            1 <= number <= view.manifest.rounds,
            f"the run has no round {number}, the transcript has",
        )
        # A partial run may have been stopped in the middle of its last round.
        if view.complete:
            findings.require(
                number in closed | aborted, f"round {number} has neither a sum nor an abort"
            )


def check_hidden(view: View, party: PartyName, findings: Findings) -> None:
    """Every round in a party's log is in the transcript, or given up by the leader."""
    known = {round_view.number for round_view in view.rounds}
    log = view.log(party)
    named = {event.number("round") for kind in ROUND_EVENTS for event in log.of(kind)}
    if named <= known:
        return
    known |= _aborted(view)
    if not view.complete:
        known |= _started(view) and {max(_started(view))}
    hidden = sorted(named - known)
    if hidden:
        findings.fail(f"{party} took part in round {hidden[0]}, which the transcript does not show")


def check_shown(view: View, findings: Findings) -> None:
    """What helpers and clients sent in a round with a sum is there."""
    for round_view in view.closed_rounds:
        number = round_view.number
        for helper in view.helpers:
            for event in view.log(helper).in_round("mask-sum.answered", number):
                answer = round_view.mask_sums.get(helper)
                if answer is None:
                    findings.unproven(f"the answer of {helper} in round {number} is not there")
                else:
                    findings.require(
                        answer.digest == event.digest("answer"),
                        f"the answer of {helper} in round {number} is not the one it logged",
                    )
        cohort = set(view.logged_cohort(number))
        for client in view.clients:
            upload = round_view.uploads.get(client)
            for event in view.log(client).in_round("upload.sent", number):
                sent = event.digest("upload")
                if upload is None and sent in cohort:
                    findings.unproven(f"the upload of {client} in round {number} is not there")


def check_followed(view: View, client: PartyName, findings: Findings) -> None:
    """Whenever a client trained, the last sum that it had applied is the last one shown before."""
    closed = [round_view.number for round_view in view.closed_rounds]
    for event in view.log(client).of("model.checked"):
        number, applied = event.number("round"), event.number("aggregate_round")
        before = bisect_left(closed, number)
        last = closed[before - 1] if before else 0
        findings.require(
            applied == last,
            f"{client} had the sum of round {applied} when round {number} began, "
            f"the last one shown is of round {last}",
        )


def check_added_up(view: View, client: PartyName, findings: Findings) -> None:
    """No client found a sum to be false, and each that wanted to add one up was shown what it needs."""
    log = view.log(client)
    for event in log.of("aggregate.refuted"):
        findings.fail(
            f"{client} found that the sum of round {event.number('round')} is not that of its uploads"
        )
    verified = {event.number("round") for event in log.of("aggregate.verified")}
    for event in log.of("aggregate.owed"):
        if event.number("round") not in verified and not log.of("aggregate.refuted"):
            findings.unproven(
                f"{client} was not shown the uploads behind the sum of round {event.number('round')}"
            )


def check_ending(
    view: View, client: PartyName, models: tuple[Digest, AbstractSet[Digest]], findings: Findings
) -> None:
    """The model that a client's own chain ended with is the released one.

    Args:
        view: The bundle.
        client: Whose log.
        models: The released model, and those that a client holds that fell behind.
        findings: What speaks against it.
    """
    released, earlier = models
    ends = [event for event in view.log(client).of("run.closed") if event.role != "leader"]
    if not ends:
        findings.unproven(f"{client} did not close the run")
    for event in ends:
        if event.fields.get("model", "") == "":
            findings.unproven(f"{client} named no model when it closed the run")
            continue
        ended = event.digest("model")
        if ended != released and ended in earlier:
            findings.unproven(f"{client} did not follow the run to the released model")
        else:
            findings.require(ended == released, f"{client} ended the run with another model")
