"""What sites disclose of their policy: every change is refused, and the residency that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import rfc8785

from tacit.errors import DecodeError, TacitError
from tacit.evidence import Report, Status, Trust, layout, verify_bundle
from tacit.evidence.disclosed import check_disclosure
from tacit.testing.bundles import SITES, SyntheticRun, sealed
from tacit.testing.disclosures import SiteDisclosure
from tacit.testing.entropy import SeededEntropy

EAST = SITES[0]


@pytest.fixture
def disclosed() -> SiteDisclosure:
    return SiteDisclosure.of("east", SeededEntropy("approver"), ("eu", "uk"))


def check(disclosed: SiteDisclosure, data: bytes):
    return check_disclosure(data, "east", disclosed.policy_digest, disclosed.contract_digest)


def test_an_honest_disclosure_is_read(disclosed) -> None:
    found = check(disclosed, disclosed.canonical())
    assert found.approvers == ("officer",)
    assert found.allowed_regions == ("eu", "uk")
    assert (
        SiteDisclosure.of("east", SeededEntropy("x"), None).record["contract"]["allowed_regions"]
        is None
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every leaf of a record."""
    if isinstance(value, dict):
        return [p for key, item in value.items() for p in places(item, (*path, key))]
    if isinstance(value, list) and value:
        return [p for key, item in enumerate(value) for p in places(item, (*path, key))]
    return [path]


def other(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value + 1
    if isinstance(value, str):
        digit = "0" if value[-1:] != "0" else "1"
        return value[:-1] + digit
    return ["more"]


def test_every_changed_part_of_a_disclosure_is_refused(disclosed) -> None:
    tried = 0
    for path in places(disclosed.record):
        changed = disclosed.copy().record
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = other(holder[path[-1]])
        with pytest.raises(TacitError):
            check(disclosed, rfc8785.dumps(changed))
        tried += 1
    assert tried > 15


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 5000, b'{"version":1.0}']
)
def test_what_is_no_disclosure(disclosed, data: bytes) -> None:
    with pytest.raises(DecodeError):
        check(disclosed, data)


def test_a_number_of_approvals_is_asked_for(disclosed) -> None:
    disclosed.record["approvers"]["second"] = "11" * 32
    disclosed.record["approvals"] = 2
    with pytest.raises(TacitError, match="1 of 2 approvers"):
        check(disclosed, disclosed.canonical())


def verify(run: SyntheticRun) -> Report:
    return verify_bundle(sealed(run, run.evidence()), Trust.of(run.roster))


def test_what_a_contract_allows_is_checked_against_the_roster() -> None:
    claim = verify(SyntheticRun(allowed_regions=("uk", "us")).play()).claim("residency")
    assert claim.status is Status.FAIL
    assert "is in eu, where the contract of east does not allow its data" in claim.reason


def test_a_contract_without_regions_limits_nothing() -> None:
    claim = verify(SyntheticRun(allowed_regions=None).play()).claim("residency")
    assert claim.status is Status.PASS
    assert "0 of them limit regions" in claim.reason


def test_a_site_that_discloses_nothing_proves_no_residency() -> None:
    run = SyntheticRun(secret=(EAST,)).play()
    report = verify(run)
    assert report.claim("residency").status is Status.NOT_PROVEN
    assert layout.policy(EAST) in report.claim("residency").reason
    assert report.claim("policy").status is Status.PASS, "the claim is about what is shown"
    assert report.claim("statements").status is Status.PASS


def test_a_disclosure_that_does_not_hold_fails_the_policy_claim() -> None:
    run = SyntheticRun().play()
    changed = run.disclosures[EAST].copy()
    changed.record["contract"]["allowed_regions"] = None
    members = {**run.evidence(), layout.policy(EAST): changed.canonical()}
    report = verify_bundle(sealed(run, members), Trust.of(run.roster))
    assert report.claim("policy").status is Status.FAIL
    assert report.claim("residency").status is Status.NOT_PROVEN


Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"required_helpers": ["absent"]}, Status.FAIL, "without its helper absent"),
        ({"max_colluding_helpers": 4}, Status.FAIL, "might have colluded"),
        ({"max_colluding_helpers": 3}, Status.PASS, ""),
        ({"required_helpers": []}, Status.PASS, ""),
        ({"required_helpers": "east"}, Status.FAIL, "no valid field"),
        ({"max_colluding_helpers": -1}, Status.FAIL, "no valid field"),
    ],
)
def test_helpers_that_a_site_insists_on_were_there(fields, status, reason) -> None:
    def edit(party, event):
        insists = party == EAST and event["type"].endswith("offer.accepted")
        return {**event, **fields} if insists else event

    claim = verify(SyntheticRun(edit=edit).play()).claim("cohort")
    assert claim.status is status, claim.reason
    assert reason in claim.reason
