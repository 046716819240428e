"""What the leader serves to single clients is bounded: replays and large proofs cost nobody else."""

from __future__ import annotations

import dataclasses

import pytest

from tacit.party import desk
from tacit.party.readd import Readd
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.types import Digest, PartyName
from tacit.wire.messages import CatchUpRequest, KeptRequest, RoundStart

NORTH, EAST = PartyName("north"), PartyName("east")


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small", job={"privacy": {"sampling_rate": 1.0}})
    made = SmallFederation(tmp_path / "small")
    made.starts = made.until(RoundStart, 2)
    return made


def asked(small, body, number=2):
    site = small.sites[NORTH]
    request = site.send(small.terms, small.leader.address, body, round_number=number)
    return small.leader.receive(request, small.clock())


def test_a_replayed_request_for_the_model_is_answered_once(small):
    assert len(asked(small, CatchUpRequest(applied=0))) == 2
    assert [asked(small, CatchUpRequest(applied=0)) for _ in range(3)] == [[]] * 3


def test_one_vector_is_sent_a_bounded_number_of_times(small):
    key = small.sites[NORTH].ports.sealing.generate().public_key
    served = [len(asked(small, KeptRequest(index=0, key=key), 1)) for _ in range(12)]
    assert served == [1] * desk.MAX_SERVED + [0] * (12 - desk.MAX_SERVED)
    assert len(asked(small, KeptRequest(index=1, key=key), 1)) == 1


def test_a_proof_too_large_for_a_message_costs_its_asker_the_round_only(small, monkeypatch):
    transcript = type(small.leader.transcript)
    real = transcript.proof_of

    def padded(self, aggregate):
        proof, chunks = real(self, aggregate)
        return dataclasses.replace(proof, uploads=(bytes(3 * 2**20),)), chunks

    monkeypatch.setattr(transcript, "proof_of", padded)
    assert asked(small, CatchUpRequest(applied=0)) == []
    assert small.leader.phase == "collecting"
    assert small.leader._work.dropped == {NORTH}
    small.deliver(e for name, e in small.starts.items() if name != NORTH)
    assert small.leader.chain.completed >= 2


def test_a_request_for_a_round_that_is_gone_drops_its_asker_at_once(small):
    key = small.sites[NORTH].ports.sealing.generate().public_key
    with small.leader.ports.store.transaction():
        small.leader._kept.drop(1)
    assert asked(small, KeptRequest(index=0, key=key), 1) == []
    assert small.leader._work.dropped == {NORTH}


def test_a_part_signed_for_another_context_is_not_added(small):
    start = small.read(small.starts[NORTH])
    readd = Readd(
        small.sites[NORTH],
        small.terms,
        start,
        start.body.previous,
        Digest(b"other context".ljust(32)),
    )
    (kept,) = small.leader.receive(readd.request(), small.clock())
    with pytest.raises(Exception, match="another context") as caught:
        readd.take(small.read(kept))
    assert caught.value.code == "readd.context"
    assert not readd.exact
