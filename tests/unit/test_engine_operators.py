"""What operators do stands in the log of their party; erased receipts are gone from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rfc8785

from tacit.api import verify
from tacit.cli import main
from tacit.connect.receipt import commitment_of
from tacit.engine.folder import STATE
from tacit.engine.operators import erase_run_receipts, log_key_erased, open_party
from tacit.engine.store import SqliteStore
from tacit.errors import ConfigError, LocalProtocolError
from tacit.party.data import RECEIPTS
from tacit.testing.federation import write_small_federation


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_small_federation(tmp_path / "small")
    monkeypatch.chdir(tmp_path / "small")
    return tmp_path / "small"


def own_events(site: Path) -> list[dict]:
    party = open_party(site)
    found = [json.loads(data) for _, data in party.ports.log.events()]
    party.ports.store.close()
    return [event for event in found if "run" not in event]


def bytes_of(site: Path) -> bytes:
    """Everything in the state's files, the write-ahead log included."""
    folder = (site / STATE).parent
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def the_receipt(site: Path) -> tuple[str, bytes, bytes]:
    """Run, salt and canonical receipt, as the site keeps them."""
    store = SqliteStore(site / STATE)
    ((run, known),) = store.items(RECEIPTS)
    whole = json.loads(store.get(f"{RECEIPTS}/{run}", "0") or b"")["receipt"]
    store.close()
    return run, bytes.fromhex(json.loads(known)["salt"]), rfc8785.dumps(whole)


def test_erased_keys_stand_in_the_log(federation: Path) -> None:
    site = federation / "sites" / "north"
    log_key_erased(site, "research", "always")
    assert not (site / STATE).exists()  # It has taken part in nothing.
    assert own_events(site) == []
    log_key_erased(site, "research", "2026-Q4")
    (event,) = own_events(site)
    assert event["type"] == "operator.key-erased"
    assert (event["purpose"], event["period"]) == ("research", "2026-Q4")


def test_after_erasure_no_guess_can_be_tested(federation: Path) -> None:
    site, runs = federation / "sites" / "north", federation / "runs" / "a"
    assert main(["run", "--out", "runs/a", "--json"]) == 0
    run, salt, receipt = the_receipt(site)
    log = [json.loads(line) for line in open_lines(site)]
    (committed,) = {event["receipt"] for event in log if event["type"] == "receipt.issued"}
    # Whoever has the salt can test a guess of the receipt, and a right one is confirmed.
    assert commitment_of(receipt, salt).hex() == committed
    assert commitment_of(receipt + b" ", salt).hex() != committed
    before = verify(runs / "bundle.zip", runs / "trust.json")
    secrets = (salt, salt.hex().encode(), json.loads(receipt)["data"].encode())
    assert all(secret in bytes_of(site) for secret in secrets)

    assert main(["contract", "receipts", str(site), run[:12], "--erase"]) == 1
    assert salt in bytes_of(site)
    assert main(["contract", "receipts", str(site), run[:12], "--erase", "--yes"]) == 0

    bundle = (runs / "bundle.zip").read_bytes()
    events = b"".join(data for data in open_lines(site))
    for secret in secrets:
        assert secret not in bytes_of(site)
        assert secret not in bundle + events
    assert verify(runs / "bundle.zip", runs / "trust.json") == before
    (event,) = [e for e in own_events(site) if e["type"] == "operator.receipts-erased"]
    assert event["about"] == run
    with pytest.raises(ConfigError, match="0 runs"):
        erase_run_receipts(site, run)


def open_lines(site: Path) -> list[bytes]:
    party = open_party(site)
    lines = [data for _, data in party.ports.log.events()]
    party.ports.store.close()
    return lines


def test_the_receipts_of_an_open_run_are_not_erased(federation: Path) -> None:
    site = federation / "sites" / "north"
    assert main(["run", "--out", "runs/a", "--json"]) == 0
    run, salt, _ = the_receipt(site)
    store = SqliteStore(site / STATE)
    with store.transaction():
        store.delete(f"client/{run}", "closed")
    store.close()
    with pytest.raises(LocalProtocolError) as caught:
        erase_run_receipts(site, run)
    assert caught.value.code == "receipts.open"
    assert salt in bytes_of(site)


def test_an_erasure_that_was_interrupted_is_finished(
    federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = federation / "sites" / "north"
    assert main(["run", "--out", "runs/a", "--json"]) == 0
    run, salt, _ = the_receipt(site)
    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "scrub", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            erase_run_receipts(site, run)
    assert erase_run_receipts(site, run) == run
    assert salt not in bytes_of(site)
    erased = [e for e in own_events(site) if e["type"] == "operator.receipts-erased"]
    assert len(erased) == 1


def test_a_second_run_logs_that_the_parties_were_started_again(federation: Path) -> None:
    site = federation / "sites" / "north"
    assert main(["run", "--out", "runs/a", "--json"]) == 0
    assert own_events(site) == []
    assert main(["run", "--out", "runs/b", "--json"]) == 0
    assert [event["type"] for event in own_events(site)] == ["party.restarted"]
    assert main(["budget", "show", "sites/north"]) == 0
    assert len(own_events(site)) == 1  # Whoever only reads leaves no trace.
