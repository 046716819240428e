"""The end of a run: whatever one party sends for the bundle, the others' evidence is made."""

from __future__ import annotations

import pytest

from tacit.ledger.log import log_origin
from tacit.ledger.note import add_signatures, note_text
from tacit.party import circulation, ending
from tacit.testing.federation import LEADER, SITES, SmallFederation, write_small_federation
from tacit.wire.envelope import Envelope
from tacit.wire.messages import MAX_EVIDENCE, Record

EAST, NORTH, SOUTH, WEST = SITES


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small")
    return SmallFederation(tmp_path / "small")


def rubbish(small, note: bytes) -> bytes:
    return b"rubbish"


def signed_for_others(small, note: bytes) -> bytes:
    """As if the leader had cosigned it before: a line that nobody checked."""
    name = log_origin(small.roster.federation, LEADER)
    return add_signatures(note, [f"\u2014 {name} AAAAAAAA\n"])


def of_another_log(small, note: bytes) -> bytes:
    return note.replace(b"/north\n", b"/south\n")


def signed_by_nobody(small, note: bytes) -> bytes:
    return f"{note_text(note)}\n\u2014 nobody AAAAAAAA\n".encode()


@pytest.mark.parametrize("forge", [rubbish, signed_for_others, of_another_log, signed_by_nobody])
def test_a_record_with_a_false_checkpoint_ends_no_run(small, forge):
    """North's checkpoint is no checkpoint of its log: it is not taken, and the run ends all the same."""

    def tap(envelope: Envelope) -> Envelope | None:
        message = small.read(envelope)
        if not isinstance(message.body, Record) or message.sender.party != NORTH:
            return envelope
        return small.lie(envelope, checkpoint=forge(small, message.body.checkpoint))

    small.run(tap=tap)
    kept = small.leader.transcript.items()
    assert small.leader.phase == "closed"
    assert small.leader.durable.number("complete") == 1
    assert f"checkpoint-{NORTH}" not in kept
    for name in (LEADER, EAST, SOUTH, WEST):
        assert kept[f"checkpoint-{name}"].count(b"\n\xe2\x80\x94 ") >= len(SITES) - 1


def test_a_manifest_that_no_message_holds_costs_signatures_only(small):
    """That of a very long run: its bundle is written all the same, signed by the leader."""
    small.run()
    leader = small.leader
    assert leader.seal(bytes(MAX_EVIDENCE + 1), small.clock()) == []
    assert leader.phase == "closed"
    assert leader.signatures() == ()
    assert len(leader.seal(b"{}", small.clock())) == len(SITES)


def test_no_note_gets_more_signatures_than_a_reader_takes(small, monkeypatch):
    """Of thousands of parties some sign and cosign in vain; the bundle can be read."""
    monkeypatch.setattr(circulation, "MAX_COSIGNATURES", 2)
    monkeypatch.setattr(ending, "MAX_OTHERS", 3)
    small.run()
    leader = small.leader
    for name in (LEADER, *SITES):
        note = leader.transcript.get(f"checkpoint-{name}")
        assert note.count(b"\n\xe2\x80\x94 ") == 3
    leader._ending._signatures = dict.fromkeys(SITES, "line")
    assert len(leader.signatures()) == 3
