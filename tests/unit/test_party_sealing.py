"""Every party signs the manifest of a bundle that holds what it sent, once."""

from __future__ import annotations

import hashlib
import json

import pytest

from tacit.party.base import kept_envelope
from tacit.party.sealing import opens_seal
from tacit.testing.federation import LEADER, SITES, SmallFederation, write_small_federation
from tacit.wire.messages import Refusal, Seal, Sealed

EAST, NORTH, SOUTH, WEST = SITES


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small")
    return SmallFederation(tmp_path / "small")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest(small) -> dict:
    """What a bundle of the run would say, as far as parties look at it."""
    items = small.leader.transcript.items()
    files = {}
    for name in SITES:
        files[f"logs/{name}.jsonl"] = sha256(items[f"log-{name}"])
        files[f"logs/{name}.proof"] = sha256(items[f"proof-{name}"])
        files[f"transcript/accept-{name}.msg"] = sha256(items[f"accept-{name}.msg"])
    return {
        "version": 2,
        "federation": small.roster.federation,
        "run": small.terms.run_id,
        "files": files,
    }


def test_every_party_signs_what_it_sent(small):
    small.run()
    data = json.dumps(manifest(small)).encode()
    small.deliver(small.leader.seal(data, small.clock()))
    assert small.leader.phase == "closed"
    lines = small.leader.signatures()
    assert len(lines) == len(SITES)
    for name, line in zip(SITES, lines, strict=True):
        assert opens_seal(small.leader, name, data, line)
        assert not opens_seal(small.leader, name, data + b" ", line)
        assert not opens_seal(small.leader, LEADER, data, line)


@pytest.mark.parametrize(
    "file", ["logs/north.jsonl", "logs/north.proof", "transcript/accept-north.msg"]
)
def test_nobody_signs_what_it_did_not_send(small, file):
    small.run()
    for change in ("other", "missing", "disclosed"):
        content = manifest(small)
        if change == "other":
            content["files"][file] = sha256(b"another")
        elif change == "missing":
            del content["files"][file]
        else:
            content["files"]["policy/north.json"] = sha256(b"a policy that it did not disclose")
        small.deliver(small.leader.seal(json.dumps(content).encode(), small.clock()))
        assert small.leader.phase == "sealing"
        assert len(small.leader.signatures()) == (0 if change != "other" else 3)
        assert small.sites[NORTH].last_error.code == "seal.other"
        small.leader.tick(small.leader.deadline)
        assert small.leader.phase == "closed"


def answer(small, data: bytes):
    seal = small.leader.send(small.terms, small.sites[NORTH].address, Seal(manifest=data))
    (answer,) = small.sites[NORTH].receive(seal, small.clock())
    return small.read(answer).body


def test_two_bundles_of_one_run_are_not_signed(small):
    small.run()
    content = manifest(small)
    data = json.dumps(content).encode()
    assert answer(small, data) == answer(small, data)
    body = answer(small, json.dumps({**content, "status": "partial"}).encode())
    assert isinstance(body, Refusal)
    assert body.code == "seal.other"
    small.restart(NORTH)
    assert isinstance(answer(small, data), Sealed)


@pytest.mark.parametrize(
    "data",
    [
        b"no json",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"version": 2, "federation": "small", "run": "0" * 64, "files": {}}).encode(),
    ],
)
def test_what_is_no_manifest_of_the_run_is_refused(small, data):
    small.run()
    body = answer(small, data)
    assert isinstance(body, Refusal)
    assert body.code == "seal.manifest"


@pytest.mark.parametrize("change", [{"version": 1}, {"run": "0" * 64}, {"files": []}])
def test_a_manifest_of_something_else_is_refused(small, change):
    small.run()
    body = answer(small, json.dumps({**manifest(small), **change}).encode())
    assert isinstance(body, Refusal)
    assert body.code == "seal.manifest"


def test_nothing_is_signed_before_the_record(small):
    small.deliver(small.start(), hold=Sealed)
    state = small.sites[NORTH].state(small.terms.run_id)
    assert kept_envelope(state, "record", small.leader.address) is not None
    other = SmallFederation(small.folder, files=small.files)
    offers = [e for e in other.start() if e.receiver == other.sites[NORTH].address]
    other.sites[NORTH].receive(offers[0], other.clock())
    seal = other.leader.send(other.terms, other.sites[NORTH].address, Seal(manifest=b"{}"))
    (refused,) = other.sites[NORTH].receive(seal, other.clock())
    assert other.read(refused).body.code == "message.kind"
