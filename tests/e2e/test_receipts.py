"""Receipts that a site shows to an auditor, from a real run."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path

import pytest
import rfc8785

from tacit.cli import main
from tacit.evidence.receipts import CHECKS, ShownReceipts, check_receipts
from tacit.evidence.report import Status
from tacit.evidence.trust import Trust
from tacit.testing.federation import write_small_federation
from tacit.trust.identity import Identity, OsEntropy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receipts") / "small"
    write_small_federation(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "--out", "runs/a", "--json"]) == 0
        assert main(["contract", "receipts", "sites/north", "--out", "north.json"]) == 0
    return folder


def shown(run: Path) -> ShownReceipts:
    return ShownReceipts.from_canonical((run / "north.json").read_bytes())


def checked(run: Path, receipts: ShownReceipts) -> dict[str, Status]:
    trust = Trust.load(run / "runs/a/trust.json")
    claims = check_receipts(receipts, run / "runs/a/bundle.zip", trust)
    assert tuple(claim.id for claim in claims) == CHECKS
    assert all(claim.reason for claim in claims)
    return {claim.id: claim.status for claim in claims}


def test_what_a_site_shows_is_what_it_committed_to(run):
    receipts = shown(run)
    assert receipts.site == "north"
    assert len(receipts.receipts) == 2
    assert set(checked(run, receipts).values()) == {Status.PASS}
    assert (run / "north.json").stat().st_mode & 0o077 == 0


def _changes(receipts):
    """Every field of the receipt of the whole and of the batch, changed one at a time."""
    for index, item in enumerate(receipts.receipts):
        for key, value in item["receipt"].items():
            altered = copy.deepcopy(list(receipts.receipts))
            new = (
                value + 1 if isinstance(value, int) else [] if isinstance(value, list) else "0" * 64
            )
            if isinstance(value, dict):
                new = {**value, "out": value["out"] - 1}
            if new == value:
                new = [["email", 1]]
            altered[index]["receipt"][key] = new
            yield f"{index} {key}", altered


def test_nothing_about_shown_receipts_can_be_changed(run):
    receipts = shown(run)
    names = []
    for name, altered in _changes(receipts):
        names.append(name)
        found = checked(
            run, ShownReceipts(receipts.site, receipts.run, receipts.salt, tuple(altered))
        )
        assert Status.FAIL in found.values(), name
    assert len(names) == 2 * 13
    salted = ShownReceipts(receipts.site, receipts.run, bytes(32), receipts.receipts)
    assert checked(run, salted)["commitment"] is Status.FAIL
    lone = ShownReceipts(receipts.site, receipts.run, receipts.salt, receipts.receipts[:1])
    assert checked(run, lone)["chain"] is Status.FAIL
    other = ShownReceipts("south", receipts.run, receipts.salt, receipts.receipts)  # type: ignore[arg-type]
    found = checked(run, other)
    assert (found["signatures"], found["commitment"]) == (Status.FAIL, Status.FAIL)
    elsewhere = ShownReceipts(receipts.site, "0" * 64, receipts.salt, receipts.receipts)
    assert set(checked(run, elsewhere).values()) == {Status.FAIL}


def test_a_site_cannot_sign_other_receipts_afterwards(run):
    """Its key signs anything; what it logged before it took part stays."""
    from tacit.party.data import receipt_statement

    receipts = shown(run)
    identity = Identity.load(run / "sites/north/keys/identity.key")
    whole, batch = copy.deepcopy(list(receipts.receipts))
    for item in (batch, whole):
        item["receipt"]["rows"] = {"in": 1, "out": 1, "quarantined": 0}
    whole["receipt"]["previous"] = whole["receipt"]["data"] = hashlib.sha256(
        rfc8785.dumps(batch["receipt"])
    ).hexdigest()
    for item in (whole, batch):
        item["signature"] = identity.sign(receipt_statement(rfc8785.dumps(item["receipt"]))).hex()
    found = checked(run, ShownReceipts(receipts.site, receipts.run, receipts.salt, (whole, batch)))
    assert found["signatures"] is found["chain"] is Status.PASS
    assert found["commitment"] is Status.FAIL


def test_the_command_line_shows_and_checks(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    assert main(["contract", "receipts", "sites/north"]) == 0
    out = capsys.readouterr().out
    assert "not read" in out
    assert re.search(r"\d+ rows in, \d+ out, 0 set aside, in 1 batch;", out)
    bundle = ["runs/a/bundle.zip", "--trust", "runs/a/trust.json"]
    assert main(["contract", "verify", "north.json", *bundle]) == 0
    assert "verified: these are the receipts" in capsys.readouterr().out
    assert main(["contract", "verify", "north.json", "runs/a/bundle.zip", "--json"]) == 2
    record = json.loads(capsys.readouterr().out)
    assert record["claims"][0]["status"] == "NOT PROVEN"
    assert main(["contract", "receipts", "sites/north", "f" * 64, "--json"]) in (0, 1)
    assert "receipts.run" in capsys.readouterr().out
    (run / "bad.json").write_text("{}")
    assert main(["contract", "verify", "bad.json", *bundle, "--json"]) == 1
    assert "receipts.file" in capsys.readouterr().out


def test_a_stranger_cannot_make_receipts(run):
    from tacit.party.data import receipt_statement

    receipts, stranger = shown(run), Identity.generate(OsEntropy())
    forged = copy.deepcopy(list(receipts.receipts))
    for item in forged:
        statement = receipt_statement(rfc8785.dumps(item["receipt"]))
        item["signature"] = stranger.sign(statement).hex()
        item["key"] = stranger.public_key.hex()
    found = checked(run, ShownReceipts(receipts.site, receipts.run, receipts.salt, tuple(forged)))
    assert found["signatures"] is Status.FAIL
