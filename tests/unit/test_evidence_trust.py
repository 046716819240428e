"""``trust.json``: read back as written, and nothing else."""

from __future__ import annotations

import json

import pytest
import rfc8785

from tacit.errors import ConfigError
from tacit.evidence.report import CLAIMS, default_required
from tacit.evidence.trust import Trust, default_quorum
from tacit.testing.bundles import SyntheticRun
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.trust.roster import Member, Roster
from tacit.types import PartyName


def roster() -> Roster:
    return Roster(
        "demo",
        tuple(
            Member(
                PartyName(name),
                name,
                "eu",
                ("client", "helper"),
                Identity.generate(SeededEntropy(name)).public_key,
            )
            for name in ("north", "south")
        ),
    )


def test_round_trip(tmp_path) -> None:
    path = tmp_path / "trust.json"
    trust = Trust.of(roster(), ("authenticity", "integrity", "epsilon"))
    trust.write(path)
    assert Trust.load(path) == trust
    assert Trust.of(roster()).required == set(CLAIMS)
    record = json.loads(path.read_text())
    assert record.keys() == {
        "version",
        "federation",
        "roster",
        "members",
        "required",
        "quorum",
        "witnesses",
    }
    assert (record["version"], record["quorum"], record["witnesses"]) == (2, 1, {})
    assert record["roster"] == roster().digest.hex()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(version=1),
        lambda record: record.update(version="2"),
        lambda record: record.update(quorum=0),
        lambda record: record.update(quorum=True),
        lambda record: record.update(quorum="1"),
        lambda record: record.pop("quorum"),
        lambda record: record.update(witnesses={"w": "ab"}),
        lambda record: record.update(witnesses={"a name": "ab" * 32}),
        lambda record: record.update(witnesses={"a+name": "ab" * 32}),
        lambda record: record.update(witnesses=[]),
        lambda record: record.update(roster="00" * 32),
        lambda record: record.update(federation="other"),
        lambda record: record.update(required=["everything"]),
        lambda record: record.update(required=None),
        lambda record: record.update(required=["integrity", "epsilon"]),
        lambda record: record.update(required=["authenticity", "epsilon"]),
        lambda record: record.update(required=[]),
        lambda record: record.update(run=""),
        lambda record: record.update(run="aa"),
        lambda record: record.update(run=None),
        lambda record: record.update(unknown=1),
        lambda record: record.pop("members"),
        lambda record: record["members"].pop("north"),
        lambda record: record["members"]["north"].update(key="00" * 32),
        lambda record: record["members"]["north"].update(key="no key"),
        lambda record: record["members"]["north"].update(roles=["leader"]),
        lambda record: record["members"]["north"].update(unknown=1),
    ],
)
def test_anything_else_is_refused(tmp_path, change) -> None:
    path = tmp_path / "trust.json"
    record = Trust.of(roster()).to_record()
    change(record)
    path.write_bytes(rfc8785.dumps(record) + b"\n")
    with pytest.raises(ConfigError, match="trust"):
        Trust.load(path)


def test_independent_witnesses_and_their_number(tmp_path) -> None:
    path = tmp_path / "trust.json"
    trust = Trust.of(roster(), quorum=1, witnesses={"witness.example/w1": b"\x11" * 32})
    trust.write(path)
    assert Trust.load(path) == trust


@pytest.mark.parametrize(
    ("operators", "quorum"),
    [
        ("ab", 1),
        ("abc", 2),
        ("abcd", 2),
        ("abcde", 3),
        ("abcdefghijklmnop", 8),
        ("abcdefghijklmnopqrs", 6),
        ("aab", 1),
        ("a", 1),
    ],
)
def test_by_default_more_than_half_of_the_others_are_witnesses(operators: str, quorum: int) -> None:
    members = tuple(
        Member(
            PartyName(f"p{i}"),
            operator,
            "eu",
            ("client",),
            Identity.generate(SeededEntropy(f"p{i}")).public_key,
        )
        for i, operator in enumerate(operators)
    )
    parties = [member.name for member in members]
    assert default_quorum(Roster("demo", members), parties) == quorum


def test_a_run_may_be_named(tmp_path) -> None:
    path = tmp_path / "trust.json"
    Trust.of(roster(), run="aa" * 32).write(path)
    assert Trust.load(path) == Trust.of(roster(), run="aa" * 32)
    assert json.loads(path.read_text())["run"] == "aa" * 32


def test_one_sequence_of_bytes_only(tmp_path) -> None:
    """A key that stands twice is read differently by different readers."""
    path = tmp_path / "trust.json"
    canonical = Trust.of(roster()).canonical()
    path.write_bytes(canonical)
    assert Trust.load(path) == Trust.of(roster())
    twice = canonical.replace(b"{", b'{"federation":"other",', 1)
    for content in (twice, canonical[:-1], json.dumps(json.loads(canonical)).encode()):
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            Trust.load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"null"])
def test_what_is_not_a_trust_file(tmp_path, content: bytes) -> None:
    path = tmp_path / "trust.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        Trust.load(path)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(ConfigError):
        Trust.load(tmp_path / "trust.json")


def test_default_requirements_follow_what_a_run_can_prove() -> None:
    assert default_required(masked=True, private=True) == CLAIMS
    assert "epsilon" not in default_required(masked=True, private=False)
    assert "one-sum-per-upload" not in default_required(masked=False, private=False)
    undisclosed = default_required(masked=True, private=True, disclosed=False)
    assert set(CLAIMS) - set(undisclosed) == {"residency"}


def test_a_party_is_no_independent_witness() -> None:
    run = SyntheticRun()
    with pytest.raises(ConfigError, match="has the name of the log of 'north'"):
        Trust.of(run.roster, witnesses={run.origin(PartyName("north")): bytes(32)})
