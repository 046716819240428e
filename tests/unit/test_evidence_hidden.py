"""A leader with its own key only: it rewrites transcript, its log and the manifest, and is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from tacit.algebra.encoding import decode as decode_fixed
from tacit.algebra.ring import Ring
from tacit.evidence import Report, Status, Trust, layout, verify_bundle
from tacit.evidence.tensors import read_model, write_model
from tacit.ledger.log import Log, log_origin
from tacit.ledger.note import add_signatures
from tacit.testing.bundles import LEADER, ROUNDS, SITES, SyntheticRun, sealed
from tacit.testing.store import MemoryStore
from tacit.types import Milliseconds
from tacit.wire.envelope import digest

EAST = SITES[0]
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def honest() -> SyntheticRun:
    return SyntheticRun().play()


def verify(run: SyntheticRun, members: Members, *, complete: bool = True) -> Report:
    return verify_bundle(sealed(run, members, complete=complete), Trust.of(run.roster))


def failed(report: Report) -> set[str]:
    return {claim.id for claim in report.claims if claim.status is Status.FAIL}


def relogged(
    run: SyntheticRun, members: Members, change: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> Members:
    """The leader's log written anew: ``change`` says what becomes of each event."""
    lines = members[layout.events(LEADER)].splitlines()
    store = MemoryStore()
    log = Log(store, log_origin(run.roster.federation, LEADER), run.identities[LEADER])
    with store.transaction():
        for event in (event for line in lines for event in change(json.loads(line))):
            fields = {k: v for k, v in event.items() if k not in ("seq", "previous", "time")}
            log.append(fields, Milliseconds(event["time"]))
    record, note = log.record(run.run.hex()), log.checkpoint()
    # Nobody saw the old one: or 'witness' alone would find it out.
    cosigned = add_signatures(note, [run.cosignature(note, site) for site in SITES])
    return {
        **members,
        layout.events(LEADER): record.events,
        layout.proof(LEADER): record.proof,
        layout.checkpoint(LEADER): cosigned,
    }


RING = Ring(32)


def model_after(run: SyntheticRun, members: Members, rounds: int) -> np.ndarray:
    state = run.rule.start(run.initial)
    for number in range(1, rounds + 1):
        data = members.get(layout.aggregate(number))
        if data is not None:
            total = RING.centred(RING.from_bytes(data, len(data) // 4))
            state = run.rule.step(state, decode_fixed(total, run.plan.grid) / run.plan.divisor)
    return run.rule.released(state)


def releasing(run: SyntheticRun, members: Members, theta: np.ndarray, **changes: Any) -> Members:
    """The leader releases ``theta`` and logs it; ``changes`` by event kind."""
    released = hashlib.sha256(theta.astype("<f8").tobytes()).hexdigest()

    def change(event: dict[str, Any]) -> list[dict[str, Any]]:
        kind = event["type"].removeprefix("leader.")
        if kind == "model.released":
            event["model"] = released
        rewrite = changes.get(kind.replace(".", "_"))
        return rewrite(event) if rewrite is not None else [event]

    final = write_model(theta, run.run.hex(), "")
    return {**relogged(run, members, change), layout.FINAL: final}


def without_rounds(members: Members, *numbers: int) -> Members:
    folders = tuple(f"transcript/r{number:06d}/" for number in numbers)
    return {name: data for name, data in members.items() if not name.startswith(folders)}


def test_the_tools_of_this_test_forge_nothing_by_themselves(honest) -> None:
    theta = model_after(honest, honest.evidence(), ROUNDS)
    assert verify(honest, releasing(honest, honest.evidence(), theta)).exit_code == 0


@pytest.mark.parametrize("numbers", [(3,), (2, 3), (2,), (1,)])
@pytest.mark.parametrize("aborted", [False, True])
def test_hidden_rounds_fail(honest, numbers: tuple[int, ...], aborted: bool) -> None:
    """Dropped from transcript and log, or logged as aborted instead."""
    members = without_rounds(honest.evidence(), *numbers)

    def hide(event: dict[str, Any]) -> list[dict[str, Any]]:
        if event.get("round") not in numbers:
            return [event]
        given_up = {**event, "type": "leader.round.aborted", "code": "helper-timeout"}
        return [given_up] if aborted and event["type"] == "leader.round.started" else []

    forged = releasing(
        honest,
        members,
        model_after(honest, members, ROUNDS),
        round_started=hide,
        cohort_fixed=hide,
        aggregate_computed=hide,
    )
    for complete in (True, False):
        report = verify(honest, forged, complete=complete)
        assert "model-chain" in failed(report), str(report)
        if not aborted and (complete or numbers != (3,)):
            assert "cohort" in failed(report), str(report)


def test_a_sum_withheld_and_logged_as_an_abort_fails(honest) -> None:
    """The messages of the round stay, only its sum is gone."""
    members = honest.evidence()
    del members[layout.aggregate(ROUNDS)]

    def give_up(event: dict[str, Any]) -> list[dict[str, Any]]:
        given_up = {**event, "type": "leader.round.aborted", "code": "helper-timeout"}
        return [given_up if event["round"] == ROUNDS else event]

    theta = model_after(honest, members, ROUNDS)
    report = verify(honest, releasing(honest, members, theta, aggregate_computed=give_up))
    assert failed(report) == {"model-chain", "witness"}, str(report)


def test_a_round_without_sum_or_abort_fails(honest) -> None:
    members = honest.evidence()
    del members[layout.aggregate(ROUNDS)]
    report = verify(honest, members)
    assert "cohort" in failed(report), str(report)


def test_a_round_with_sum_and_abort_fails(honest) -> None:
    both = relogged(
        honest,
        honest.evidence(),
        lambda event: (
            [event, {**event, "type": "leader.round.aborted"}]
            if event["type"] == "leader.aggregate.computed"
            else [event]
        ),
    )
    assert failed(verify(honest, both)) == {"cohort", "witness"}


def test_a_last_sum_of_choice_fails(honest) -> None:
    """Nothing after it shows which sum the clients saw, but the model that they closed with."""
    members = honest.evidence()
    data = np.array([1, 2, 3], dtype="<u4").tobytes()
    members[layout.aggregate(ROUNDS)] = data

    def summed(event: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**event, "sum": digest(data).hex()} if event["round"] == ROUNDS else event]

    theta = model_after(honest, members, ROUNDS)
    report = verify(honest, releasing(honest, members, theta, aggregate_computed=summed))
    assert failed(report) == {"model-chain", "witness"}, str(report)


@pytest.mark.parametrize("model", [None, "", "stale"])
def test_a_client_that_names_no_or_an_earlier_model_proves_nothing(honest, model) -> None:
    if model == "stale":
        theta = model_after(honest, honest.evidence(), 2)
        model = digest(theta.astype("<f8").tobytes()).hex()

    def edit(party, event):
        if party != EAST or event["type"] != "client.run.closed":
            return event
        rest = {name: value for name, value in event.items() if name != "model"}
        return rest if model is None else {**rest, "model": model}

    run = SyntheticRun(edit=edit).play()
    report = verify(run, run.evidence())
    assert report.claim("model-chain").status is Status.NOT_PROVEN, str(report)
    assert report.exit_code == 2


@pytest.mark.parametrize("copies", [0, 2])
def test_the_leader_logs_one_release(honest, copies: int) -> None:
    forged = relogged(
        honest,
        honest.evidence(),
        lambda event: [event] * (copies if event["type"] == "leader.model.released" else 1),
    )
    assert failed(verify(honest, forged)) == {"model-chain"}


def test_a_partial_run_sealed_as_complete_fails() -> None:
    stopped = SyntheticRun().begin().round(1).close(complete=False)
    assert failed(verify(stopped, stopped.evidence(), complete=False)) == set()
    assert "log-inclusion" in failed(verify(stopped, stopped.evidence()))


@pytest.mark.parametrize("party", [EAST, LEADER])
def test_each_party_must_have_closed_a_complete_run(party: str) -> None:
    def edit(who, event):
        closes = who == party and event["type"].endswith("run.closed")
        return {**event, "complete": False} if closes else event

    run = SyntheticRun(edit=edit).play()
    assert failed(verify(run, run.evidence())) == {"log-inclusion"}


def test_a_complete_run_went_through_all_rounds() -> None:
    run = SyntheticRun().begin().round(1).round(2).close()
    assert failed(verify(run, run.evidence())) == {"log-inclusion"}
    run = SyntheticRun().begin().round(1).round(2).round(3, closed=False).close()
    assert verify(run, run.evidence()).exit_code == 0


@pytest.mark.parametrize("changes", [{"run": "00" * 32}, {"transcript": "00" * 32}, {"run": ""}])
def test_the_released_file_names_its_evidence(honest, changes) -> None:
    members = honest.evidence()
    theta, metadata = read_model(members[layout.FINAL])
    members[layout.FINAL] = write_model(np.frombuffer(theta), **{**metadata, **changes})
    data = sealed(honest, members, restate=False)
    report = verify_bundle(data, Trust.of(honest.roster))
    assert report.claim("model-chain").status is Status.FAIL


@pytest.mark.parametrize(
    "change",
    [
        lambda data: save({"theta": np.zeros(3), "weights": np.ones(2)}),
        lambda data: data + b"\x00" * 8,
        lambda data: data.replace(b'"__metadata__":{', b'"__metadata__":{"more":"x",', 1),
    ],
)
def test_the_released_file_holds_nothing_else(honest, change) -> None:
    members = honest.evidence()
    members[layout.FINAL] = change(members[layout.FINAL])
    assert "model-chain" in failed(verify(honest, members))


def test_other_tools_read_the_released_file(honest) -> None:
    data = honest.evidence()[layout.FINAL]
    theta = load(data)["theta"]
    assert theta.dtype == np.float64
    assert theta.tobytes() == honest.rule.released(honest.state).tobytes()


@pytest.mark.parametrize("folder", ["r0000001", "r000000", "r0000000"])
def test_a_second_spelling_of_a_round_is_no_member(honest, folder: str) -> None:
    members = honest.evidence()
    name = layout.upload(1, EAST)
    members[name.replace("r000001", folder)] = members[name]
    assert failed(verify(honest, members)) == {"integrity"}
    assert layout.place(name.replace("r000001", "r1000001")) is not None


def test_an_answer_that_is_not_shown_is_not_proven(honest) -> None:
    members = honest.evidence()
    del members[layout.mask_sum(2, EAST)]
    report = verify(honest, members)
    assert report.claim("one-sum-per-upload").status is Status.NOT_PROVEN


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((), "PASS"),
        (("owed", "verified"), "PASS"),
        (("owed",), "NOT PROVEN"),
        (("owed", "refuted"), "FAIL"),
    ],
)
def test_what_a_site_found_when_it_added_up_counts(events: tuple[str, ...], status: str) -> None:
    run = SyntheticRun().begin()
    run.round(1)
    for kind in events:
        run.log(SITES[1], "client", f"aggregate.{kind}", round=1)
    for number in range(2, ROUNDS + 1):
        run.round(number)
    report = verify(run, run.close().evidence())
    (claim,) = [claim for claim in report.claims if claim.id == "model-chain"]
    assert claim.status.value == status, str(report)
