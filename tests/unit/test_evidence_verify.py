"""The verifier as a whole: honest bundles, bundles changed on the way, trust, exit codes."""

from __future__ import annotations

import json

import pytest

from tacit.errors import ConfigError
from tacit.evidence import CLAIMS, Report, Status, Trust, verify_bundle
from tacit.evidence.archive import pack
from tacit.evidence.report import default_required
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, sealed
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster


@pytest.fixture(scope="module")
def run() -> SyntheticRun:
    return SyntheticRun().play()


@pytest.fixture(scope="module")
def short() -> SyntheticRun:
    """A small, partial run: cheap to verify many times."""
    return SyntheticRun().begin().round(1).record()


def statuses(report: Report) -> dict[str, str]:
    return {claim.id: claim.status.value for claim in report.claims}


def test_an_honest_run_passes_every_claim(run, tmp_path) -> None:
    report = verify_bundle(run.write(tmp_path / "bundle.zip"), Trust.of(run.roster))
    assert statuses(report) == dict.fromkeys(CLAIMS, "PASS"), str(report)
    assert report.exit_code == 0
    assert (report.run, report.status) == (run.run.hex(), "complete")


def test_without_a_trust_file_authenticity_is_not_proven(run) -> None:
    report = verify_bundle(sealed(run, run.writer.members))
    assert statuses(report) == dict.fromkeys(CLAIMS, "PASS") | {"authenticity": "NOT PROVEN"}
    assert report.exit_code == 0


def test_another_federation_fails_authenticity(run) -> None:
    stranger = Identity.generate(SeededEntropy("stranger")).public_key
    members = [
        Member(m.name, m.operator, m.region, m.roles, stranger if m.name == LEADER else m.key)
        for m in run.roster.members
    ]
    for trust in (
        Roster("synthetic", tuple(members)),
        Roster("synthetic", run.roster.members[:-1]),
        Roster(
            "synthetic",
            (*run.roster.members, Member(SITES[0] + "x", "x", "eu", ("client",), stranger)),
        ),
        Roster("other", run.roster.members),
    ):
        report = verify_bundle(sealed(run, run.writer.members), Trust.of(trust))
        assert report.claim("authenticity").status is Status.FAIL
        assert report.exit_code == 1


def test_a_bundle_of_another_run_than_the_trust_file_names_fails(run) -> None:
    data = sealed(run, run.writer.members)
    assert verify_bundle(data, Trust.of(run.roster, run=run.run.hex())).exit_code == 0
    report = verify_bundle(data, Trust.of(run.roster, run="aa" * 32))
    assert report.claim("same-job").status is Status.FAIL
    assert report.exit_code == 1


def test_one_flipped_byte_anywhere_is_refused(short, tmp_path) -> None:
    """On the way: any byte of the archive, of its members or of its own structure."""
    data = short.write(tmp_path / "bundle.zip", complete=False).read_bytes()
    assert verify_bundle(data).exit_code == 0
    names = [name.encode() for name in short.members(complete=False)]
    structural = {
        position
        for name in names
        for start in (data.find(name), data.rfind(name))
        for position in range(max(0, start - 46), start + len(name))
    }
    structural |= set(range(len(data) - 22, len(data)))
    for position in sorted(structural | set(range(0, len(data), 97))):
        forged = bytearray(data)
        forged[position] ^= 0x01
        assert verify_bundle(bytes(forged)).exit_code == 1, position


def test_one_flipped_byte_in_any_member_is_refused_in_a_rebuilt_archive(short) -> None:
    """By someone who repairs the zip, but holds no key."""
    members = short.members(complete=False)
    for name, content in members.items():
        for position in (0, len(content) // 2, len(content) - 1):
            forged = bytearray(content)
            forged[position] ^= 0x01
            report = verify_bundle(pack({**members, name: bytes(forged)}))
            assert report.exit_code == 1, (name, position)


def test_a_member_added_or_removed_in_a_rebuilt_archive_is_refused(short) -> None:
    members = short.members(complete=False)
    for name in members:
        rest = {other: data for other, data in members.items() if other != name}
        assert verify_bundle(pack(rest)).exit_code == 1, name
    for name in ("other.txt", "logs/stranger.jsonl", "transcript/r000002/aggregate.bin"):
        report = verify_bundle(pack({**members, name: b""}))
        assert report.claim("integrity").status is Status.FAIL, name


@pytest.mark.parametrize("data", [b"", b"not a zip", pack({}), pack({"manifest.json": b"{}"})])
def test_what_is_no_bundle_fails_integrity_and_proves_nothing(data: bytes) -> None:
    report = verify_bundle(data)
    assert statuses(report) == dict.fromkeys(CLAIMS, "NOT PROVEN") | {"integrity": "FAIL"}
    assert report.exit_code == 1


def test_a_missing_file_is_a_configuration_error(tmp_path) -> None:
    with pytest.raises(ConfigError):
        verify_bundle(tmp_path / "bundle.zip")


def test_exit_code_2_when_a_required_claim_is_not_proven(short) -> None:
    data = sealed(short, short.writer.members, complete=False)
    assert verify_bundle(data, Trust.of(short.roster)).exit_code == 2
    proven = ("authenticity", "integrity", "same-job", "cohort", "policy", "receipts")
    report = verify_bundle(data, Trust.of(short.roster, proven))
    assert report.exit_code == 0, str(report)


def test_a_partial_bundle_proves_what_it_holds(short) -> None:
    report = verify_bundle(sealed(short, short.writer.members, complete=False))
    assert report.status == "partial"
    found = statuses(report)
    assert "FAIL" not in found.values(), str(report)
    unproven = {claim for claim, status in found.items() if status == "NOT PROVEN"}
    assert unproven == {
        "authenticity",
        "log-inclusion",
        "one-sum-per-upload",
        "epsilon",
        "budget",
        "model-chain",
    }


def test_a_complete_bundle_cannot_hide_the_end_of_a_log(short) -> None:
    report = verify_bundle(sealed(short, short.writer.members, complete=True))
    assert report.claim("log-inclusion").status is Status.FAIL


@pytest.mark.parametrize("party", [LEADER, SITES[0]])
def test_without_a_log_what_rests_on_it_is_not_proven(run, party) -> None:
    members = {n: d for n, d in run.writer.members.items() if not n.startswith(f"logs/{party}.")}
    report = verify_bundle(sealed(run, members), Trust.of(run.roster))
    found = statuses(report)
    assert found["log-inclusion"] == found["same-job"] == "NOT PROVEN"
    assert found["cohort" if party == LEADER else "budget"] == "NOT PROVEN"
    assert "FAIL" not in found.values(), str(report)
    assert report.exit_code == 2


def test_a_plain_run_proves_no_privacy_but_the_rest() -> None:
    run = SyntheticRun(protocol="plain", unit="none").play()
    required = default_required(masked=False, private=False)
    report = verify_bundle(sealed(run, run.writer.members), Trust.of(run.roster, required))
    assert report.exit_code == 0, str(report)
    unproven = {claim.id for claim in report.claims if claim.status is Status.NOT_PROVEN}
    assert unproven == {"one-sum-per-upload", "epsilon", "budget"}


def test_a_run_that_lost_a_round_passes() -> None:
    run = SyntheticRun().begin().round(1).round(2, closed=False).round(3).close()
    report = verify_bundle(sealed(run, run.writer.members), Trust.of(run.roster))
    assert report.exit_code == 0, str(report)


def test_report_as_json_and_text(run) -> None:
    report = verify_bundle(sealed(run, run.writer.members), Trust.of(run.roster))
    record = json.loads(report.to_json())
    assert [claim["id"] for claim in record["claims"]] == list(CLAIMS)
    assert record["exit_code"] == 0
    assert record["claims"][0].keys() == {"id", "status", "reason", "required"}
    assert all(claim in str(report) for claim in CLAIMS)
