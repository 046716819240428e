"""Both verifiers judge alike what parties with their own keys made up: lies in logs, rounds and models."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
from standalone import disagreements, verifier

from tacit.evidence import Trust, layout
from tacit.evidence.archive import pack
from tacit.ledger.note import sign_checkpoint
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, reseal, sealed
from tacit.types import PartyName
from tacit.wire.envelope import digest
from tacit.wire.messages import Upload, Vector

EAST, NORTH = SITES[0], SITES[1]
OTHER = "00" * 32
GONE = object()
VALUES: dict[type, tuple[Any, ...]] = {
    str: (GONE, "", OTHER, "0.1", "1e9", "Infinity", "NaN", "-1", "1", EAST, NORTH, 7, ["x"]),
    int: (GONE, 0, 1, 2, 9, 2**53 - 1, "1", True),
    bool: (GONE, True, False, 1, "true"),
    list: (GONE, [], [OTHER], [OTHER, OTHER], [EAST, NORTH], ["lead"], [1], "east"),
}


def agree(run: SyntheticRun, *, complete: bool = True, members: dict[str, bytes] | None = None):
    """The run as its leader would present it, to both."""
    shown = run.evidence(complete=complete) if members is None else members
    found = disagreements(sealed(run, shown, complete=complete), Trust.of(run.roster))
    assert found == []


def lies(party: PartyName, kind: str, make: Any) -> SyntheticRun:
    """A run in which one party changes every event of a kind before it logs it."""

    def edit(who: PartyName, event: dict[str, Any]) -> dict[str, Any] | None:
        return make(event) if who == party and event["type"] == kind else event

    return SyntheticRun(edit=edit).play()


@functools.cache
def fields() -> list[tuple[PartyName, str, str, type]]:
    """Every field of every kind of event that ``EAST`` or the leader logs."""
    found: dict[tuple[PartyName, str, str, type], None] = {}

    def edit(who: PartyName, event: dict[str, Any]) -> dict[str, Any]:
        if who in (EAST, LEADER):
            for name, value in event.items():
                if name not in ("type", "run"):
                    found[who, event["type"], name, type(value)] = None
        return event

    SyntheticRun(edit=edit).play()
    return list(found)


def changes() -> list[tuple[PartyName, str, str, Any]]:
    return [
        (party, kind, name, value) for party, kind, name, of in fields() for value in VALUES[of]
    ]


def changed(name: str, value: Any):
    def make(event: dict[str, Any]) -> dict[str, Any]:
        rest = {key: item for key, item in event.items() if key != name}
        return rest if value is GONE else {**rest, name: value}

    return make


KINDS = list(dict.fromkeys((party, kind) for party, kind, *_ in fields()))


@pytest.mark.parametrize(("party", "kind"), KINDS)
def test_about_events_that_were_never_logged(party, kind):
    agree(lies(party, kind, lambda event: None))


@pytest.mark.slow
@pytest.mark.parametrize(("party", "kind"), KINDS)
def test_about_events_that_were_logged_as_something_else(party, kind):
    agree(lies(party, kind, lambda event: {**event, "type": "client.something.else"}))


@pytest.mark.parametrize(
    ("party", "kind", "name", "value"),
    random.Random(11).sample(changes(), 24),
    ids=lambda item: str(item)[:20] if item is not GONE else "gone",
)
def test_about_changed_fields(party, kind, name, value):
    agree(lies(party, kind, changed(name, value)))


@pytest.mark.slow
@pytest.mark.parametrize(("party", "kind", "name", "of"), fields())
def test_about_every_changed_field(party, kind, name, of):
    for value in VALUES[of]:
        agree(lies(party, kind, changed(name, value)))


@pytest.mark.parametrize("by", [1e-12, 1e-7, 1e-5, 0.5, -0.5])
def test_about_epsilons_that_are_a_little_or_much_too_small(by):
    epsilon = repr(SyntheticRun().plan.epsilon() * (1 - by))
    for kind in ("client.run.settled", "client.budget.reserved"):
        agree(lies(EAST, kind, changed("epsilon", epsilon)))


def test_about_what_helpers_found_in_each_others_logs():
    for code in ("witness.forked", "witness.rolled-back", "witness.unproven", ""):
        run = SyntheticRun().begin().round(1)
        refusal = {"log": NORTH, "code": code, "size": 3, "known": 4}
        run.append(EAST, {"type": "helper.witness.refused", "run": run.run.hex(), **refusal})
        run.append(EAST, {"type": "party.restarted"})
        run.round(2).round(3).close()
        agree(run)


def test_about_what_witnesses_remember():
    origin, identities = SyntheticRun().origin(EAST), SyntheticRun().identities
    notes = [
        sign_checkpoint(origin, size, bytes(32), identities[signer], origin).decode()
        for size, signer in ((9, EAST), (10_000, EAST), (0, EAST), (9, NORTH))
    ]
    for note in [*notes, "no note", 7]:
        for log in (EAST, NORTH, "nobody", 7):
            run = SyntheticRun().begin().round(1)
            fields = {"type": "client.log.witnessed", "run": run.run.hex(), "log": log}
            run.append(SITES[-1], {**fields, "note": note})
            agree(run.round(2).round(3).close())


def test_about_small_cohorts_and_false_answers():
    agree(SyntheticRun().begin().round(1).round(2, members=SITES[:3]).round(3).close())
    run = SyntheticRun(min_cohort=3).begin().round(1, answers={EAST: SITES[:3]})
    agree(run.round(2).round(3).close())
    agree(SyntheticRun().begin().round(1).round(2, model=digest(b"crafted")).round(3).close())


def test_about_second_answers_and_reused_uploads():
    for shown in (True, False):
        run = SyntheticRun().begin().round(1).round(2)
        body = Upload(digest(b"context"), (), Vector(0, ()))
        upload = run.sign(EAST, "client", body, 2)
        if shown:
            run.writer._members.pop(layout.mask_sum(2, EAST))
        run.answer(EAST, 2, digest(b"context"), [upload], shown=shown)
        agree(run.round(3).close())
    cohorts: list[list[str]] = []

    def edit(party, event):
        if event["type"] == "leader.cohort.fixed":
            cohorts.append(event["uploads"])
            if len(cohorts) == 2:
                return {**event, "uploads": [cohorts[0][0], *event["uploads"][1:]]}
        return event

    agree(SyntheticRun(edit=edit).play())


def test_about_released_models():
    for released in (np.array([0.0, 0.0, 1.0]), np.zeros(2), np.array([np.nan] * 3)):
        agree(SyntheticRun().begin().round(1).round(2).round(3).close(released=released))


def test_about_runs_that_ended_early():
    for complete in (True, False):
        for told in (True, False):
            run = SyntheticRun().begin().round(1).close(rounds=1, complete=told)
            agree(run, complete=complete)
        agree(SyntheticRun().begin().close(complete=False), complete=complete)
        agree(SyntheticRun().begin().round(1).record(LEADER, EAST), complete=complete)


@pytest.fixture(scope="module")
def honest() -> SyntheticRun:
    return SyntheticRun(neighbours=True).play()


def test_about_logs_that_were_cut_swapped_or_mixed(honest):
    members = honest.evidence()
    kinds = (layout.events, layout.proof, layout.checkpoint)
    for kind in kinds:
        agree(honest, members={**members, kind(EAST): members[kind(NORTH)]})
        agree(honest, members={**members, kind(EAST): b""})
    swapped = dict(members)
    for kind in kinds:
        swapped[kind(EAST)], swapped[kind(NORTH)] = members[kind(NORTH)], members[kind(EAST)]
    agree(honest, members=swapped)
    agree(honest, members={**members, "logs/stranger.jsonl": b""})
    lines = members[layout.events(EAST)].splitlines(keepends=True)
    for dropped in range(0, len(lines), 9):
        left = b"".join(lines[:dropped] + lines[dropped + 1 :])
        agree(honest, members={**members, layout.events(EAST): left})


def test_about_messages_in_other_places(honest):
    members = honest.evidence()
    other = SyntheticRun(min_cohort=3).begin().round(1).writer.members
    upload, answer = layout.upload(1, EAST), layout.mask_sum(1, EAST)
    for name, data in (
        (layout.upload(3, EAST), members[layout.upload(2, EAST)]),
        (upload, other[upload]),
        (upload, members[answer]),
        (answer, members[layout.key(1, EAST)]),
        (layout.accept(EAST), members[layout.accept(NORTH)]),
        (layout.OFFER, members[layout.accept(NORTH)]),
        (layout.key(4, EAST), members[layout.key(3, EAST)]),
    ):
        agree(honest, members={**members, name: data})


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "content",
    [b"{}", pytest.param(b"", marks=SLOW), pytest.param(b"\xff" * 64, marks=SLOW)],
    ids=["table", "empty", "ones"],
)
def test_about_members_with_nonsense(honest, content):
    members = honest.evidence()
    for name in members:
        if not name.startswith(("transcript/r", "logs/s", "logs/w")) and name != layout.ROSTER:
            data = pack(reseal(honest, {**members, name: content}, restate=False))
            assert disagreements(data, Trust.of(honest.roster)) == [], name


# --- where the file is the stricter one -----------------------------------------------------------


def judged(run: SyntheticRun, members: dict[str, bytes], claim: str) -> Any:
    """What the file alone says of one claim."""
    trust = verifier.read_trust(Trust.of(run.roster).canonical())
    found = verifier.verify(sealed(run, members), trust)
    return next(item for item in found.claims if item.id == claim)


def test_a_receipt_after_the_first_names_the_accepted_lock_too():
    run = SyntheticRun().begin().round(1)
    fields = dict.fromkeys(("receipt", "contract", "policy", "plan", "schema"), OTHER)
    run.append(EAST, {"type": "client.receipt.issued", "run": run.run.hex(), **fields})
    run.round(2).round(3).close()
    found = judged(run, run.evidence(), "receipts")
    assert found.status == verifier.FAIL
    assert f"the receipt of {EAST} names another" in found.reason


def test_what_a_claim_lacks_does_not_hide_what_contradicts_it():
    run = lies(LEADER, "leader.round.started", changed("model", OTHER))
    members = {k: v for k, v in run.evidence().items() if not k.startswith(f"logs/{SITES[-1]}.")}
    found = judged(run, members, "model-chain")
    assert (found.status, found.reason.partition(";")[0]) == (
        verifier.FAIL,
        "the model of round 1 does not follow",
    )


def test_a_site_uploaded_if_its_log_says_so(honest):
    gone = {layout.policy(EAST), *(layout.upload(number, EAST) for number in (1, 2, 3))}
    members = {name: data for name, data in honest.evidence().items() if name not in gone}
    found = judged(honest, members, "residency")
    assert found.status == verifier.NOT_PROVEN
    assert f"{EAST} does not disclose its contract" in found.reason
