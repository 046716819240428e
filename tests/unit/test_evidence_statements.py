"""Statements: what they say follows from the bundle, other tools can read them, and nothing is malleable."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.errors import DecodeError, TacitError
from tacit.evidence import Status, Trust, layout, verify_bundle
from tacit.evidence.dsse import Statement, open_envelope, sign_statement
from tacit.evidence.sbom import installed_sbom, read_sbom, sbom
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, sealed


@pytest.fixture(scope="module")
def run() -> SyntheticRun:
    return SyntheticRun().play()


@pytest.fixture(scope="module")
def members(run) -> dict[str, bytes]:
    return run.evidence()


def predicate(members, name: str) -> dict:
    envelope = json.loads(members[layout.statement(name)])
    return json.loads(base64.b64decode(envelope["payload"]))["predicate"]


def test_other_tools_can_check_the_signature(run, members) -> None:
    """By the specification, with nothing of this library."""
    for name in layout.DERIVED:
        envelope = json.loads(members[layout.statement(name)])
        payload = base64.b64decode(envelope["payload"])
        kind = envelope["payloadType"]
        assert kind == "application/vnd.in-toto+json"
        signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        (signature,) = envelope["signatures"]
        assert signature["keyid"] == "synthetic/lead"
        key = Ed25519PublicKey.from_public_bytes(run.roster.member(LEADER).key)
        key.verify(base64.b64decode(signature["sig"]), signed)
        statement = json.loads(payload)
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == f"urn:tacit:evidence:{name}:v1"
        assert all(len(subject["digest"]["sha256"]) == 64 for subject in statement["subject"])


def test_what_they_say_follows_from_the_run(run, members) -> None:
    budget = predicate(members, "privacy-budget")
    assert budget["epsilon"] == repr(run.plan.epsilon())
    assert budget["sites"] == {
        site: {"charged_rounds": 3, "epsilon": repr(run.plan.epsilon())} for site in SITES
    }
    assert budget["delta"] == "1e-05"
    assert predicate(members, "run")["closed"] == [1, 2, 3]
    rounds = predicate(members, "aggregation")["rounds"]
    assert [one["cohort"] for one in rounds] == [list(SITES)] * 3
    assert rounds[0]["sum"] == hashlib.sha256(members[layout.aggregate(1)]).hexdigest()
    model = predicate(members, "model")
    assert model["parameters"] == hashlib.sha256(run.rule.released(run.state).tobytes()).hexdigest()
    approvals = predicate(members, "policy-approvals")["sites"]
    assert approvals[SITES[0]]["approvers"] == ["officer"]


def test_the_model_names_its_evidence_and_the_evidence_the_model(run) -> None:
    members = run.members()
    header = members[layout.FINAL]
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    manifest = json.loads(members[layout.MANIFEST])
    assert metadata == {"run": manifest["run"], "transcript": manifest["transcript"]}
    assert manifest["model"] == hashlib.sha256(header).hexdigest()


def test_a_run_without_privacy_or_model_has_fewer() -> None:
    run = SyntheticRun(unit="none").play()
    names = {layout.statement_name(name) for name in run.evidence()} - {None}
    assert names == set(layout.DERIVED) - {"privacy-budget"}
    begun = SyntheticRun().begin().round(1).record()
    names = {layout.statement_name(name) for name in begun.evidence(complete=False)} - {None}
    assert names == set(layout.DERIVED) - {"model"}


def test_a_statement_that_does_not_belong_fails(run) -> None:
    other = SyntheticRun(unit="none").play()
    foreign = {
        layout.statement("privacy-budget"): run.evidence()[layout.statement("privacy-budget")]
    }
    data = sealed(other, {**other.evidence(), **foreign}, restate=False)
    claim = verify_bundle(data, Trust.of(other.roster)).claim("statements")
    assert claim.status is Status.FAIL
    assert "does not belong" in claim.reason


def test_reports_of_others_pass_when_they_are_about_the_run(run, members) -> None:
    transcript = json.loads(run.members()[layout.MANIFEST])["transcript"]
    keys = [(run.origin(site), run.identities[site]) for site in SITES[:2]]
    report = Statement("attack-report", (("transcript", transcript),), {"attacks": []})
    added = {layout.statement("attack-report"): sign_statement(report, keys)}
    data = sealed(run, {**members, **added})
    verified = verify_bundle(data, Trust.of(run.roster))
    assert verified.exit_code == 0
    signers = ", ".join(sorted(name for name, _ in keys))
    assert f"attack-report is the word of {signers} alone" in verified.claim("statements").reason
    plain = verify_bundle(sealed(run, members), Trust.of(run.roster))
    assert "not judged" not in plain.claim("statements").reason


def test_any_changed_byte_of_an_envelope_is_refused(run) -> None:
    keys = {run.origin(LEADER): run.roster.member(LEADER).key}
    signer = [(run.origin(LEADER), run.identities[LEADER])]
    data = sign_statement(Statement("model", (("a", "00" * 32),), {"n": 1}), signer)
    assert open_envelope(data).check(keys) == {run.origin(LEADER)}
    for position in range(len(data)):
        forged = bytearray(data)
        forged[position] ^= 1
        with pytest.raises(TacitError):
            open_envelope(bytes(forged)).check(keys)


@pytest.mark.parametrize("content", [1.5, {"a": 2.5}])
def test_a_statement_holds_no_float(run, content) -> None:
    signer = [(run.origin(LEADER), run.identities[LEADER])]
    data = sign_statement(Statement("model", (), {"n": content}), signer)
    with pytest.raises(DecodeError):
        open_envelope(data).statement("model")


def test_the_software_list_is_sorted_and_the_same_every_time() -> None:
    first = sbom([("B_b", "2"), ("a.a", "1"), ("tacit", "0.1")])
    assert first == sbom([("tacit", "0.1"), ("a-a", "1"), ("b-b", "2")])
    record = json.loads(first)
    assert (record["bomFormat"], record["specVersion"]) == ("CycloneDX", "1.6")
    assert [one["purl"] for one in record["components"]] == ["pkg:pypi/a-a@1", "pkg:pypi/b-b@2"]
    assert record["metadata"]["component"]["version"] == "0.1"
    assert {"serialNumber", "timestamp"}.isdisjoint(record | record["metadata"])


def test_the_installed_software_is_listed() -> None:
    names = {name for name, _ in read_sbom(installed_sbom())}
    assert {"cryptography", "numpy"} <= names


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"components":[]}', b"null"])
def test_what_is_no_software_list(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_sbom(data)
