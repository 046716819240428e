"""On a site's real data attacks run only inside that site, and only if its policy names them."""

from __future__ import annotations

import json

import pytest

from tacit.demo.layout import lock_site
from tacit.engine.inside import read_for_attack
from tacit.engine.operators import open_party
from tacit.errors import ConfigError, PolicyDenied
from tacit.testing.federation import POLICY, write_small_federation

PERMIT = """
@id("inside")
permit (principal == Party::"north", action == Action::"attack", resource == Dataset::"small")
when { context.purpose == "attack" };
"""


def site(tmp_path, policy=POLICY):
    write_small_federation(tmp_path / "federation", policy=policy)
    return tmp_path / "federation" / "sites" / "north"


def test_nothing_is_read_without_a_permit_that_names_the_action(tmp_path, monkeypatch):
    monkeypatch.setattr("tacit.engine.folder.read", lambda *_: pytest.fail("data were read"))
    for number, policy in enumerate((POLICY, POLICY + "permit(principal, action, resource);")):
        with pytest.raises(PolicyDenied) as caught:
            read_for_attack(site(tmp_path / str(number), policy), "small")
        assert caught.value.code == "policy.denied"


def test_the_log_says_so_before_the_data_are_read(tmp_path):
    folder = site(tmp_path, POLICY + PERMIT)
    contract, batch = read_for_attack(folder, "small")
    assert (contract.name, len(batch)) == ("small", 12)
    (event,) = (json.loads(data) for _, data in open_party(folder).ports.log.events())
    assert event["type"] == "operator.attack-begun"
    assert event["contract"] == contract.digest.hex()


def test_an_unapproved_policy_and_an_unknown_data_set_are_refused(tmp_path):
    folder = site(tmp_path, POLICY + PERMIT)
    with pytest.raises(ConfigError, match="no contract named 'other'"):
        read_for_attack(folder, "other")
    (folder / "policies" / "more.cedar").write_text("permit(principal, action, resource);")
    with pytest.raises(ConfigError):
        read_for_attack(folder, "small")
    lock_site(folder)
    assert len(read_for_attack(folder, "small")[1]) == 12
