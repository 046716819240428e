"""Claims about rounds: who is in a sum, that helpers answered once, and how the models follow."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring
from tacit.errors import DecodeError, TacitError
from tacit.evidence import layout
from tacit.evidence.claims_logs import (
    check_added_up,
    check_ending,
    check_followed,
    check_hidden,
    check_rounds,
    check_shown,
)
from tacit.evidence.report import Claim, Findings
from tacit.evidence.tensors import read_model
from tacit.evidence.view import Missing, RoundView, View
from tacit.learn.early_stop import should_stop
from tacit.learn.server import ServerState
from tacit.party.coordinates import server_rule
from tacit.secagg.masked import cohort_digest
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Received

__all__ = ["cohort", "model_chain", "one_sum_per_upload"]

Floats = NDArray[np.float64]


def cohort(view: View) -> Claim:
    """Every sum is over enough operators, in one context, with every helper that a site requires."""
    findings = Findings("cohort")
    closed = view.closed_rounds
    if not closed:
        findings.unproven("no round was closed")
    smallest: list[int] = []
    for round_view in closed:
        _guarded(findings, partial(_check_cohort, view, round_view, findings, smallest))
    for round_view in view.rounds if view.masked else ():
        for client in round_view.uploads:
            _guarded(findings, partial(_check_insisted, view, round_view, client, findings))
    _guarded(findings, partial(check_rounds, view, findings))
    for party in dict.fromkeys([*view.clients, *view.helpers]):
        _guarded(findings, partial(check_hidden, view, party, findings))
    return findings.conclude(
        lambda: (
            f"{len(closed)} sums, each over at least {min(smallest)} operators "
            f"(required: {view.manifest.min_cohort}) in one context"
        )
    )


def _guarded(findings: Findings, check: Callable[[], None]) -> None:
    """One round that lacks something does not hide what is wrong with another."""
    try:
        check()
    except Missing as missing:
        findings.unproven(str(missing))
    except TacitError as error:
        findings.fail(error.message)


def _members(view: View, round_view: RoundView) -> dict[PartyName, Received]:
    """The uploads that are in the sum of a round."""
    digests = view.logged_cohort(round_view.number)
    members = {
        name: upload for name, upload in round_view.uploads.items() if upload.digest in digests
    }
    if len(members) != len(digests):
        raise Missing(f"an upload of round {round_view.number}'s cohort is not in the bundle")
    return members


def _check_cohort(
    view: View, round_view: RoundView, findings: Findings, smallest: list[int]
) -> None:
    number, manifest = round_view.number, view.manifest
    members = _members(view, round_view)
    operators = view.roster.operators(members)
    smallest.append(len(operators))
    findings.require(
        len(operators) >= manifest.min_cohort,
        f"round {number} has {len(operators)} operators, required are {manifest.min_cohort}",
    )
    findings.require(set(members) <= set(view.clients), f"round {number} holds a stranger's upload")
    name = cohort_digest([upload.digest for upload in members.values()])
    contexts = {upload.body.context for upload in members.values()}
    if view.masked:
        expected = view.context(round_view, view.logged_model(number))
        findings.require(
            contexts == {expected}, f"an upload of round {number} names another context"
        )
        for upload in members.values():
            sealed = {seed.helper for seed in upload.body.seeds}
            findings.require(
                sealed == set(view.present(round_view)),
                f"an upload of round {number} is not masked for every helper present",
            )
        for helper in view.present(round_view):
            _check_answer(round_view, helper, (expected, name), findings)
    else:
        findings.require(len(contexts) == 1, f"the uploads of round {number} differ in context")
    for event in view.log(view.leader).in_round("aggregate.computed", number):
        findings.require(
            event.digest("cohort") == name, f"the leader summed another cohort in round {number}"
        )


def _check_insisted(
    view: View, round_view: RoundView, client: PartyName, findings: Findings
) -> None:
    """The helpers that a client's site insists on were there, and enough that could not all collude."""
    number, present = round_view.number, set(view.present(round_view))
    sealed = {PartyName(seed.helper) for seed in round_view.uploads[client].body.seeds}
    for event in view.log(client).of("offer.accepted"):
        required = set(event.texts("required_helpers"))
        for helper in sorted(required - sealed):
            findings.fail(f"{client} uploaded in round {number} without its helper {helper}")
        for helper in sorted(required & sealed - present):
            findings.unproven(f"the key of helper {helper} for round {number} is not there")
        colluding = event.number("max_colluding_helpers")
        findings.require(
            len(view.roster.operators(sealed & set(view.helpers))) > colluding,
            f"{client} uploaded in round {number} although all helpers present might have colluded "
            f"(it reckons with {colluding})",
        )


def _check_answer(
    round_view: RoundView, helper: PartyName, expected: tuple[Digest, Digest], findings: Findings
) -> None:
    answer = round_view.mask_sums.get(helper)
    if answer is None:
        findings.unproven(
            f"the answer of helper {helper} in round {round_view.number} is not there"
        )
    elif (answer.body.context, answer.body.cohort) != expected:
        findings.fail(f"helper {helper} answered for another cohort in round {round_view.number}")


def one_sum_per_upload(view: View) -> Claim:
    """No helper answered twice in a round or context, and no upload is in two sums."""
    findings = Findings("one-sum-per-upload")
    if not view.masked:
        findings.unproven("aggregation is plain: the leader holds every contribution")
        return findings.conclude("")
    for helper in view.helpers:
        _guarded(findings, partial(_check_answers, view, helper, findings))
    _guarded(findings, partial(_check_reuse, view, findings))
    _guarded(findings, partial(check_shown, view, findings))
    answers = sum(len(round_view.mask_sums) for round_view in view.rounds)
    return findings.conclude(
        f"{answers} answers of {len(view.helpers)} helpers, one per helper and round; "
        "no upload is in two sums"
    )


def _check_answers(view: View, helper: PartyName, findings: Findings) -> None:
    """The helper's log against itself and against the transcript."""
    log = view.log(helper)
    rounds: dict[int, bytes] = {}
    contexts: set[bytes] = set()
    for event in log.of("mask-sum.answered"):
        number, context = event.number("round"), event.digest("context")
        if number in rounds or context in contexts:
            findings.fail(f"helper {helper} answered twice in round {number}")
        rounds[number] = event.digest("answer")
        contexts.add(context)
    for round_view in view.rounds:
        answer = round_view.mask_sums.get(helper)
        if answer is not None:
            findings.require(
                rounds.get(round_view.number) == answer.digest,
                f"helper {helper} did not log its answer of round {round_view.number}",
            )
    if not log.closed:
        findings.unproven(f"the log of helper {helper} ends before the run was closed")


def _check_reuse(view: View, findings: Findings) -> None:
    seen: dict[bytes, int] = {}
    for event in view.log(view.leader).of("cohort.fixed"):
        number = event.number("round")
        for upload in event.digests("uploads"):
            findings.require(
                upload not in seen,
                f"an upload is in the sums of rounds {seen.get(upload)} and {number}",
            )
            seen[upload] = number


def model_chain(view: View) -> Claim:
    """Every model follows from the first one and the published sums; the last one was released."""
    findings, steps = Findings("model-chain"), list[int]()
    _guarded(findings, partial(_recompute, view, findings, steps))
    for client in view.clients:
        _guarded(findings, partial(check_followed, view, client, findings))
        _guarded(findings, partial(check_added_up, view, client, findings))
    return findings.conclude(
        lambda: (
            f"{len(steps)} server steps recomputed bit for bit; they end in the released model; sites "
            f"added {_added_up(view)} sums up again"
        )
    )


def _recompute(view: View, findings: Findings, steps: list[int]) -> None:
    """Every server step, into ``steps`` by its round, and the model that they end in."""
    rule = server_rule(view.job)
    state = rule.start(_initial(view))
    earlier: set[Digest] = set()
    losses: list[float] = []
    for round_view in view.rounds:
        _guarded(findings, partial(_check_model, view, round_view, state, findings))
        if round_view.aggregate is not None:
            earlier.add(_digest(rule.released(state)))
            total = _total(view, round_view, findings)
            losses.append(_held_out_loss(view, round_view, total, state))
            state = view.terms.coordinates.step(total, view.plan, state)
            steps.append(round_view.number)
    _check_early_stop(view, losses, findings)
    _check_release(view, rule.released(state), earlier, findings)


def _added_up(view: View) -> int:
    return sum(len(view.log(client).of("aggregate.verified")) for client in view.clients)


def _initial(view: View) -> Floats:
    data = view.members.get(layout.INITIAL)
    if data is None:
        raise Missing("the bundle holds no first model")
    if len(data) != 8 * view.manifest.dimension:
        raise DecodeError("evidence.model", f"{layout.INITIAL} has another length than the model")
    return np.frombuffer(data, dtype="<f8")


def _check_model(view: View, round_view: RoundView, state: ServerState, findings: Findings) -> None:
    """The round trained on ``state``: in the leader's log, in the clients', in every upload."""
    number, known = round_view.number, state.digest
    findings.require(
        view.logged_model(number) == known, f"the model of round {number} does not follow"
    )
    for client in view.clients:
        for event in view.log(client).in_round("model.checked", number):
            findings.require(
                event.digest("model") == known,
                f"{client} trained on another model in round {number}",
            )
    if view.masked and round_view.uploads:
        context = view.context(round_view, known)
        for client, upload in round_view.uploads.items():
            findings.require(
                upload.body.context == context,
                f"the upload of {client} in round {number} was made for another model",
            )


def _held_out_loss(
    view: View, round_view: RoundView, total: NDArray[np.int64], state: ServerState
) -> float:
    """The loss on held-out records in a round's sum; NaN if there is none."""
    if not view.job.evaluation.patience:
        return math.nan
    helpers = len(view.present(round_view))
    if not view.plan.min_helpers <= helpers <= view.plan.helpers:
        raise Missing(
            f"keys of round {round_view.number} are not there, or too few helpers had one"
        )
    found = view.terms.coordinates.metrics(total, view.plan, state, helpers)
    return found.get("held_out_loss", math.nan)


def _check_early_stop(view: View, losses: list[float], findings: Findings) -> None:
    """A complete run that left rounds out did so because of its held-out losses, and at once."""
    patience, rounds = view.job.evaluation.patience, view.manifest.rounds
    early = any(should_stop(losses[:count], patience) for count in range(1, len(losses)))
    findings.require(not early, "the run went on although its held-out losses said to stop")
    if not patience or not view.complete or should_stop(losses, patience):
        return  # Without patience log-inclusion insists on every round.
    log = view.log(view.leader)
    events = [*log.of("round.started"), *log.of("round.aborted")]
    findings.require(
        max((event.number("round") for event in events), default=0) == rounds,
        "the run stopped early although its held-out losses did not say so",
    )


def _total(view: View, round_view: RoundView, findings: Findings) -> NDArray[np.int64]:
    """A round's centred sum, as the leader logged it and no larger than an honest one."""
    data, manifest, plan = round_view.aggregate or b"", view.manifest, view.plan
    ring = Ring(plan.ring_bits)
    if len(data) != ring.item_bytes * manifest.length:
        raise DecodeError(
            "evidence.aggregate", f"the sum of round {round_view.number} has another length"
        )
    logged = [
        event.digest("sum")
        for event in view.log(view.leader).in_round("aggregate.computed", round_view.number)
    ]
    findings.require(
        logged == [hashlib.sha256(data).digest()],
        f"the sum of round {round_view.number} is not the one that the leader logged",
    )
    total = ring.centred(ring.from_bytes(data, manifest.length))
    norm = float(np.linalg.norm(total.astype(np.float64)))
    findings.require(
        norm <= plan.aggregate_norm_bound(manifest.length),
        f"the sum of round {round_view.number} is too large to be honest",
    )
    return total


def _check_release(
    view: View, released: Floats, earlier: AbstractSet[Digest], findings: Findings
) -> None:
    data = view.members.get(layout.FINAL)
    if data is None:
        findings.unproven("the bundle holds no released model")
        return
    theta, metadata = read_model(data)
    findings.require(
        metadata == {"run": view.head.run, "transcript": view.head.transcript},
        f"{layout.FINAL} does not name this run and its transcript",
    )
    same = theta == released.astype("<f8").tobytes()
    findings.require(same, "the released model is not the one that the rounds lead to")
    expected = _digest(released)
    # The leader wrote the last sum and its own log; only the clients' chains bind the last model.
    for client in view.clients:
        _guarded(findings, partial(check_ending, view, client, (expected, earlier), findings))
    logged = view.log(view.leader).of("model.released")
    for event in logged:
        findings.require(
            event.digest("model") == expected, "the leader logged the release of another model"
        )
    if len(logged) != 1:
        reason = f"the leader logged {len(logged)} releases of a model"
        (findings.fail if view.complete or logged else findings.unproven)(reason)


def _digest(parameters: Floats) -> Digest:
    return Digest(hashlib.sha256(parameters.astype("<f8").tobytes()).digest())
