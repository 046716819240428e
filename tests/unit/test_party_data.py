"""Signed receipts that stay at the site, the clock, and what a restart trains on."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.connect.receipt import FIRST
from tacit.errors import ConfigError, PolicyDenied
from tacit.party.data import RECEIPTS, receipt_statement
from tacit.policy.contract import Anonymity
from tacit.testing.federation import WITHOUT_NOISE, SmallFederation, write_small_federation
from tacit.types import PartyName
from tacit.wire.messages import Accept, Refusal, RoundStart, Upload

NORTH = PartyName("north")


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small")
    return SmallFederation(tmp_path / "small")


def stored(small, number):
    raw = small.stores[NORTH].get(f"{RECEIPTS}/{small.terms.run_id}", str(number))
    return None if raw is None else json.loads(raw)


def events(small, kind):
    log = small.sites[NORTH].ports.log
    found = [json.loads(data) for _, data in log.events()]
    return [event for event in found if event["type"] == kind]


def test_every_batch_has_a_signed_receipt_that_links_to_the_one_before(small):
    small.run()
    whole, first = stored(small, 0), stored(small, 1)
    assert stored(small, 2) is None
    assert whole["receipt"]["number"] == 0
    assert first["receipt"]["previous"] == FIRST.hex()
    assert whole["receipt"]["rows"] == first["receipt"]["rows"]
    for record in (whole, first):
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(record["key"]))
        assert bytes.fromhex(record["key"]) == small.roster.member(NORTH).key
        canonical = json.dumps(record["receipt"], sort_keys=True, separators=(",", ":")).encode()
        key.verify(bytes.fromhex(record["signature"]), receipt_statement(canonical))


def test_receipts_stay_at_the_site(small):
    """What the log, hence the evidence, holds of them is a salted commitment."""
    small.run()
    (issued,) = events(small, "receipt.issued")
    whole = stored(small, 0)["receipt"]
    log = b"".join(data for _, data in small.sites[NORTH].ports.log.events())
    assert whole["data"].encode() not in log
    assert whole["previous"].encode() not in log
    assert set(issued) >= {"receipt", "contract", "policy", "plan", "schema"}
    assert issued["contract"] == whole["contract"]
    assert issued["policy"] == whole["policy"]
    assert not {"rows", "data", "columns"} & set(issued)


def test_the_lock_is_in_every_rounds_record(small):
    small.run()
    (accepted,) = events(small, "policy.decided")
    rounds = events(small, "upload.sent")
    assert len(rounds) == small.terms.manifest.rounds
    assert {event["policy"] for event in rounds} == {accepted["policy"]}
    assert accepted["policy"] == small.folders[NORTH].parts.digest(NORTH).hex()


def test_a_restart_trains_on_what_was_accepted(small):
    held = small.deliver(small.start(), hold=RoundStart)
    small.restart(NORTH)
    source = small.folders[NORTH].sources["small"]
    path = source.base / source.contract.server.path
    original = path.read_text()
    path.write_text(original.replace("3.", "4.", 1))
    (start,) = [e for e in held if e.receiver.party == NORTH]
    (answer,) = small.sites[NORTH].receive(start, small.clock())
    assert isinstance(small.read(answer).body, Refusal)
    assert small.sites[NORTH].last_error.code == "site.changed"
    path.write_text(original)
    small.restart(NORTH)
    (answer,) = small.sites[NORTH].receive(start, small.clock())
    assert isinstance(small.read(answer).body, Upload)


def test_one_decision_a_run_and_none_a_row(small, monkeypatch):
    asked = []
    policy = type(small.folders[NORTH].policy)
    real = policy.permit
    monkeypatch.setattr(policy, "permit", lambda *a: asked.append(a) or real(*a))
    small.run()
    assert len(asked) == len(small.sites)


def test_a_clock_that_runs_backwards_is_refused(small):
    offers = small.start()
    small.deliver(offers, hold=Accept)
    later = SmallFederation(small.folder, seed="later", stores=small.stores)
    later.clock.advance(-3_600_000)
    (offer,) = [
        e for e in later.start() if e.receiver.party == NORTH and e.receiver.role == "client"
    ]
    (answer,) = later.sites[NORTH].receive(offer, later.clock())
    assert isinstance(later.read(answer).body, Refusal)
    error = later.sites[NORTH].last_error
    assert isinstance(error, ConfigError)
    assert error.code == "site.clock"


def test_suppressed_groups_do_not_go_with_differential_privacy(small, tmp_path):
    site = small.sites[NORTH]
    contract = small.folders[NORTH].sources["small"].contract
    hiding = contract.model_copy(update={"anonymity": Anonymity(k=5, violation="suppress")})
    refusing = contract.model_copy(update={"anonymity": Anonymity(k=5)})
    site._admission.check_data(small.terms, refusing)
    with pytest.raises(PolicyDenied, match="more than the run's noise covers") as caught:
        site._admission.check_data(small.terms, hiding)
    assert caught.value.code == "limits.suppression"
    write_small_federation(tmp_path / "exact", job=WITHOUT_NOISE)
    site._admission.check_data(SmallFederation(tmp_path / "exact").terms, hiding)
