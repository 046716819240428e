"""The verifier as a whole: honest bundles, bundles changed on the way, trust, exit codes."""

from __future__ import annotations

import json

import pytest
import rfc8785

from tacit.errors import ConfigError
from tacit.evidence import CLAIMS, Report, Status, Trust, verify_bundle
from tacit.evidence.archive import pack
from tacit.evidence.head import check_signatures, note_of, sign_line
from tacit.evidence.report import default_required
from tacit.ledger.log import Log
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, reseal, sealed
from tacit.testing.entropy import SeededEntropy
from tacit.testing.store import MemoryStore
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster
from tacit.types import PartyName


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
    report = verify_bundle(sealed(run, run.evidence()))
    assert statuses(report) == dict.fromkeys(CLAIMS, "PASS") | dict.fromkeys(
        ("authenticity", "witness"), "NOT PROVEN"
    )
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
        report = verify_bundle(sealed(run, run.evidence()), Trust.of(trust))
        assert report.claim("authenticity").status is Status.FAIL
        assert report.exit_code == 1


def test_a_bundle_of_another_run_than_the_trust_file_names_fails(run) -> None:
    data = sealed(run, run.evidence())
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
    data = sealed(short, short.evidence(), complete=False)
    assert verify_bundle(data, Trust.of(short.roster)).exit_code == 2
    proven = ("authenticity", "integrity", "same-job", "cohort", "policy", "receipts")
    report = verify_bundle(data, Trust.of(short.roster, proven))
    assert report.exit_code == 0, str(report)


def test_a_partial_bundle_proves_what_it_holds(short) -> None:
    report = verify_bundle(sealed(short, short.evidence(), complete=False))
    assert report.status == "partial"
    found = statuses(report)
    assert "FAIL" not in found.values(), str(report)
    unproven = {claim for claim, status in found.items() if status == "NOT PROVEN"}
    assert unproven == {
        "authenticity",
        "log-inclusion",
        "witness",
        "one-sum-per-upload",
        "epsilon",
        "budget",
        "model-chain",
    }


def test_a_complete_bundle_cannot_hide_the_end_of_a_log(short) -> None:
    report = verify_bundle(sealed(short, short.evidence(), complete=True))
    assert report.claim("log-inclusion").status is Status.FAIL


@pytest.mark.parametrize("party", [LEADER, SITES[0]])
def test_without_a_log_what_rests_on_it_is_not_proven(run, party) -> None:
    members = {n: d for n, d in run.evidence().items() if not n.startswith(f"logs/{party}.")}
    report = verify_bundle(sealed(run, members), Trust.of(run.roster))
    found = statuses(report)
    assert found["log-inclusion"] == found["same-job"] == "NOT PROVEN"
    assert found["cohort" if party == LEADER else "budget"] == "NOT PROVEN"
    assert "FAIL" not in found.values(), str(report)
    assert report.exit_code == 2


def test_a_plain_run_proves_no_privacy_but_the_rest() -> None:
    run = SyntheticRun(protocol="plain", unit="none").play()
    required = default_required(masked=False, private=False)
    report = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster, required))
    assert report.exit_code == 0, str(report)
    unproven = {claim.id for claim in report.claims if claim.status is Status.NOT_PROVEN}
    assert unproven == {"one-sum-per-upload", "epsilon", "budget"}


def test_a_run_that_lost_a_round_passes() -> None:
    run = SyntheticRun().begin().round(1).round(2, closed=False).round(3).close()
    report = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster))
    assert report.exit_code == 0, str(report)


def test_report_as_json_and_text(run) -> None:
    report = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster))
    record = json.loads(report.to_json())
    assert [claim["id"] for claim in record["claims"]] == list(CLAIMS)
    assert record["exit_code"] == 0
    assert record["claims"][0].keys() == {"id", "status", "reason", "required"}
    assert all(claim in str(report) for claim in CLAIMS)


def test_every_party_signs_the_manifest(run) -> None:
    members = run.evidence()
    for missing in SITES:
        rest = tuple(name for name in run.identities if name != missing)
        found = verify_bundle(pack(reseal(run, members, signers=rest)), Trust.of(run.roster))
        assert found.claim("authenticity").status is Status.NOT_PROVEN
        assert f"{missing} took part and did not sign the manifest" in found.claims[0].reason
        assert found.exit_code == 2
    found = verify_bundle(pack(reseal(run, members, signers=SITES)), Trust.of(run.roster))
    assert found.claim("authenticity").status is Status.FAIL, "the leader's is always there"


def test_a_thousand_parties_can_sign() -> None:
    """A manifest of many parties is a note of many lines, and stays one."""
    names = [PartyName(f"site-{number:04d}") for number in range(1000)]
    signers = {name: Identity.generate(SeededEntropy(name)) for name in names}
    lines = [sign_line(b"{}", "demo", name, signer) for name, signer in signers.items()]
    keys = {name: signer.public_key for name, signer in signers.items()}
    assert check_signatures(note_of(b"{}", reversed(lines)), b"{}", "demo", keys) == set(names)


def test_every_forged_message_is_named() -> None:
    """Also among so many that their signatures are checked on several threads."""
    run = SyntheticRun(rounds=8).play()
    members = run.members()
    names = [name for name in members if name.endswith(".msg")]
    assert len(names) > 64
    for name in names[::17]:
        forged = bytearray(members[name])
        forged[-1] ^= 1
        found = verify_bundle(pack({**members, name: bytes(forged)}))
        assert found.claim("authenticity").status is Status.FAIL
        assert name in found.claim("authenticity").reason


@pytest.mark.parametrize("version", [1, 3])
def test_a_bundle_of_another_version_is_refused_with_the_reason(run, version: int) -> None:
    manifest = {**json.loads(run.members()["manifest.json"]), "version": version}
    data = pack({**run.members(), "manifest.json": rfc8785.dumps(manifest)})
    found = verify_bundle(data)
    assert f"of version '{version}' of the format" in found.claim("integrity").reason
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda event: {**event, "receipt": "11" * 32}, "east rewrote its log after"),
        (lambda event: None, "east rewrote its log after"),
        (lambda event: event, ""),
    ],
)
def test_a_history_rewritten_after_a_message_fails(change, reason: str) -> None:
    """By its own party, which signs and has cosigned its log as it is in the end."""
    run = SyntheticRun().begin().round(1).round(2).round(3)
    store, east = MemoryStore(), SITES[0]
    log = Log(store, run.origin(east), run.identities[east])
    for _, data in run.logs[east].events():
        event = json.loads(data)
        kept = {k: v for k, v in event.items() if k not in ("seq", "time", "previous")}
        if event["type"].endswith("receipt.issued"):
            kept = change(kept)
        if kept is not None:
            with store.transaction():
                log.append(kept, event["time"])
    run.stores[east], run.logs[east] = store, log
    run.close()
    claim = verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster)).claim("log-inclusion")
    assert claim.status is (Status.FAIL if reason else Status.PASS)
    assert reason in claim.reason
