from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from tacit.errors import ConfigError, LocalProtocolError, PolicyDenied
from tacit.policy import NO_POLICY, Contract, Permission, Policy, public_permission
from tacit.testing.policies import NOW, READ, REQUEST, TRAIN, small_contract
from tacit.types import Digest, Milliseconds

LOCK = Digest(bytes(range(32)))
CONSENT = {"consent": "boolean"}


def policy(folder: Path, text: str, *contracts: Contract) -> Policy:
    (folder / "rules.cedar").write_text(text)
    return Policy.load(folder, contracts)


def test_a_permission_says_what_was_decided(tmp_path: Path) -> None:
    ours = small_contract()
    permission = policy(tmp_path, TRAIN, ours).permit(REQUEST, ours, LOCK)
    assert permission.contract == ours.digest
    assert (permission.policy, permission.purpose, permission.now) == (LOCK, "research", NOW)
    assert permission.rules == ("research",)
    assert permission.rows is None


def test_a_consent_column_leads_to_a_filter(tmp_path: Path) -> None:
    ours = small_contract(CONSENT)
    permission = policy(tmp_path, TRAIN + READ, ours).permit(REQUEST, ours, LOCK)
    assert permission.rows is not None
    assert permission.rows.text == "resource.consent"
    assert "resource.consent" in repr(permission)


def test_only_a_policy_makes_a_permission(tmp_path: Path) -> None:
    ours = small_contract()
    made = policy(tmp_path, TRAIN).permit(REQUEST, ours, LOCK)
    for attempt in (
        Permission,
        lambda: Permission(ours.digest, LOCK, "research", NOW, (), None),
        lambda: setattr(made, "purpose", "marketing"),
        lambda: delattr(made, "rows"),
        lambda: copy.copy(made),
        lambda: copy.deepcopy(made),
        lambda: pickle.dumps(made),
        lambda: type("Own", (Permission,), {}),
    ):
        with pytest.raises(LocalProtocolError):
            attempt()
    assert made.purpose == "research"


def test_a_denied_request_makes_none(tmp_path: Path) -> None:
    ours = small_contract()
    with pytest.raises(PolicyDenied, match="no permit matched"):
        policy(tmp_path, "").permit(REQUEST, ours, LOCK)
    forbid = '@id("pause") forbid(principal, action == Action::"train", resource);'
    with pytest.raises(PolicyDenied, match="'pause'"):
        policy(tmp_path, TRAIN + forbid).permit(REQUEST, ours, LOCK)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (TRAIN, "consent column, and no permit"),
        (
            TRAIN
            + READ
            + 'forbid(principal, action == Action::"read", resource) when { !context.public };',
            "a forbid holds for every row",
        ),
    ],
)
def test_no_row_at_all_is_a_denial(tmp_path: Path, rules: str, reason: str) -> None:
    ours = small_contract(CONSENT)
    with pytest.raises(PolicyDenied, match=reason) as caught:
        policy(tmp_path, rules, ours).permit(REQUEST, ours, LOCK)
    assert caught.value.code == "policy.rows"


def test_a_contract_of_another_data_set_is_refused(tmp_path: Path) -> None:
    ours = small_contract(name="others")
    with pytest.raises(ConfigError, match="'records'"):
        policy(tmp_path, TRAIN, ours).permit(REQUEST, ours, LOCK)


def test_public_data_need_no_policy() -> None:
    permission = public_permission(small_contract(public=True), "evaluation", NOW)
    assert permission.policy == NO_POLICY
    assert permission.rows is None
    with pytest.raises(PolicyDenied, match="not public"):
        public_permission(small_contract(), "evaluation", NOW)


@pytest.mark.parametrize(("milliseconds", "allowed"), [(0, True), (1, False)])
def test_the_last_day_counts(tmp_path: Path, milliseconds: int, *, allowed: bool) -> None:
    midnight = 1_795_737_600_000 - 1 + milliseconds  # the last millisecond of 2026-11-26
    ours = small_contract(public=True, retention=date(2026, 11, 26))
    request = replace(REQUEST, retention=ours.retention, now=Milliseconds(midnight))
    decision = policy(tmp_path, TRAIN, ours).decide(request)
    assert decision.allowed == allowed
    if allowed:
        public_permission(ours, "evaluation", request.now)
        return
    assert decision.rules == ("tacit:retention",)
    with pytest.raises(PolicyDenied, match="after 2026-11-26"):
        public_permission(ours, "evaluation", request.now)


def test_a_changed_copy_of_a_contract_has_another_digest() -> None:
    ours = small_contract()
    first = ours.digest
    assert ours.model_copy(update={"public": True}).digest != first
    assert ours.model_copy().digest == first
    assert ours == small_contract()
