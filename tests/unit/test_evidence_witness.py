"""Cosignatures: enough of them, by others, each valid; and what a witness refused counts."""

from __future__ import annotations

import pytest

from tacit.evidence import Claim, Status, Trust, layout, verify_bundle
from tacit.ledger.note import add_signatures, cosign, sign_checkpoint
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, sealed
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.types import PartyName

EAST, NORTH, SOUTH, WEST = SITES


@pytest.fixture(scope="module")
def run() -> SyntheticRun:
    return SyntheticRun().play()


def witnessed(run: SyntheticRun, names, trust: Trust | None = None) -> Claim:
    """The claim, with the log of east cosigned by these only."""
    note = run.logs[EAST].checkpoint()
    cosigned = add_signatures(note, [run.cosignature(note, name) for name in names])
    members = {**run.evidence(), layout.checkpoint(EAST): cosigned}
    return verify_bundle(sealed(run, members), trust or Trust.of(run.roster)).claim("witness")


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ((LEADER, NORTH, SOUTH, WEST), Status.PASS),
        ((NORTH, SOUTH, WEST), Status.PASS),
        ((SOUTH, WEST), Status.NOT_PROVEN),
        ((), Status.NOT_PROVEN),
    ],
)
def test_more_than_half_of_the_others_must_have_cosigned(run, names, status) -> None:
    claim = witnessed(run, names)
    assert claim.status is status
    if status is Status.NOT_PROVEN:
        assert f"cosigned by {len(names)} other operators, required are 3" in claim.reason


def test_the_trust_file_says_how_many(run) -> None:
    assert witnessed(run, (NORTH,), Trust.of(run.roster, quorum=1)).status is Status.PASS
    assert witnessed(run, (NORTH,), Trust.of(run.roster, quorum=2)).status is Status.NOT_PROVEN
    assert witnessed(run, SITES[1:], Trust.of(run.roster, quorum=5)).status is Status.NOT_PROVEN


def test_without_a_trust_file_nobodys_cosignature_counts(run) -> None:
    data = sealed(run, run.evidence())
    assert verify_bundle(data).claim("witness").status is Status.NOT_PROVEN


def test_every_independent_witness_must_have_cosigned_every_log(run) -> None:
    witness = Identity.generate(SeededEntropy("independent"))
    trust = Trust.of(run.roster, witnesses={"w.example/1": witness.public_key})
    members = run.evidence()
    assert verify_bundle(sealed(run, members), trust).claim("witness").status is Status.NOT_PROVEN
    for party in run.logs:
        note = members[layout.checkpoint(party)]
        line = cosign(note, witness, "w.example/1", 7)
        members[layout.checkpoint(party)] = add_signatures(note, [line])
    claim = verify_bundle(sealed(run, members), trust).claim("witness")
    assert claim.status is Status.PASS
    assert "1 independent witness" in claim.reason
    # One whom the auditor does not know says nothing, and is no fault either.
    assert verify_bundle(sealed(run, members), Trust.of(run.roster)).exit_code == 0


def test_a_forged_cosignature_fails(run) -> None:
    note = run.logs[EAST].checkpoint()
    forged = cosign(note, run.identities[LEADER], run.origin(NORTH), 7)
    members = {**run.evidence(), layout.checkpoint(EAST): add_signatures(note, [forged])}
    claim = verify_bundle(sealed(run, members), Trust.of(run.roster)).claim("witness")
    assert claim.status is Status.FAIL
    assert claim.reason.startswith("log of east")


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("witness.rolled-back", Status.FAIL, "west found that the log of east had lost events"),
        ("witness.forked", Status.FAIL, "west found that the log of east had other events"),
        ("witness.unproven", Status.PASS, ""),
    ],
)
def test_what_a_witness_refused_counts(code: str, status: Status, reason: str) -> None:
    run = SyntheticRun().begin().round(1).round(2).round(3)
    run.log(WEST, "client", "witness.refused", log=EAST, code=code, size=3, known=5)
    run.close()
    claim = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster)).claim("witness")
    assert claim.status is status
    assert reason in claim.reason


def test_a_malformed_refusal_fails() -> None:
    run = SyntheticRun().begin().round(1).round(2).round(3)
    run.append(WEST, {"type": "witness.refused", "log": EAST})
    run.close()
    claim = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster)).claim("witness")
    assert claim.status is Status.FAIL


def closed_with(note: str, log: str = EAST) -> Claim:
    """Of a run at whose end west remembers a checkpoint of another log."""
    run = SyntheticRun().begin().round(1).round(2).round(3)
    run.log(WEST, "client", "log.witnessed", log=log, note=note)
    return verify_bundle(sealed(run, run.close().evidence()), Trust.of(run.roster)).claim("witness")


def other_history(size: int, signer: PartyName = EAST) -> str:
    """A checkpoint of the log of east with other events than it shows in the end."""
    run = SyntheticRun()
    return sign_checkpoint(
        run.origin(EAST), size, bytes(32), run.identities[signer], run.origin(EAST)
    ).decode()


def test_what_one_witness_alone_has_seen_convicts() -> None:
    claim = closed_with(other_history(9))
    assert claim.status is Status.FAIL
    assert "west has seen another history of the log of east, signed by east" in claim.reason


def test_what_a_witness_has_seen_and_the_bundle_does_not_reach_is_not_proven() -> None:
    claim = closed_with(other_history(10_000))
    assert claim.status is Status.NOT_PROVEN
    assert "west has seen 10000 events of the log of east" in claim.reason


@pytest.mark.parametrize(
    ("note", "log"),
    [
        (other_history(9, NORTH), EAST),  # Nobody can make up what another one signed.
        (other_history(9), NORTH),
        (other_history(9), "nobody"),
        ("not a note", EAST),
    ],
)
def test_a_false_memory_counts_against_its_holder(note: str, log: str) -> None:
    claim = closed_with(note, log)
    assert claim.status is Status.FAIL
    assert claim.reason.startswith("log of west")


def test_a_missing_checkpoint_proves_nothing(run) -> None:
    members = run.evidence()
    del members[layout.checkpoint(EAST)]
    claim = verify_bundle(sealed(run, members), Trust.of(run.roster)).claim("witness")
    assert claim.status is Status.NOT_PROVEN
