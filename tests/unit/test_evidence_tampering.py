"""Every trick of the catalogue is refused, by the claim that it breaks, and none crashes the verifier."""

from __future__ import annotations

import pytest

from tacit.errors import ConfigError
from tacit.evidence import CLAIMS, Status, Trust, verify_bundle
from tacit.testing.tampering import BREAKS, CASES, SyntheticBundle


@pytest.fixture(scope="module")
def honest() -> SyntheticBundle:
    return SyntheticBundle.make()


def test_the_bundle_that_is_tampered_with_is_honest(honest) -> None:
    report = verify_bundle(honest.data, honest.trust)
    assert {claim.status for claim in report.claims} == {Status.PASS}, str(report)
    assert report.exit_code == 0


def test_the_catalogue_is_large() -> None:
    assert len(CASES) >= 40
    assert CASES.keys() == BREAKS.keys()
    assert set(BREAKS.values()) <= {*CLAIMS, "trust"}


@pytest.mark.parametrize("name", CASES)
def test_every_trick_is_refused(honest, tmp_path, name: str) -> None:
    data, trust_bytes = CASES[name](honest)
    (tmp_path / "trust.json").write_bytes(trust_bytes)
    if BREAKS[name] == "trust":
        with pytest.raises(ConfigError):
            Trust.load(tmp_path / "trust.json")
        return
    report = verify_bundle(data, Trust.load(tmp_path / "trust.json"))
    assert report.claim(BREAKS[name]).status is not Status.PASS, str(report)
    assert report.exit_code in (1, 2)
    # What is refused for one reason must not be called unreadable by accident.
    assert all(claim.reason for claim in report.claims)
