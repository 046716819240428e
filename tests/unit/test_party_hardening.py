"""What one misbehaving party may cost the others: a round, never the run, the site or its budget."""

from __future__ import annotations

import pytest

from tacit.errors import ConfigError
from tacit.party.contribute import chunk_info
from tacit.party.workload import Workload
from tacit.testing.federation import (
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.envelope import Envelope, digest
from tacit.wire.messages import (
    CatchUp,
    Finish,
    HelperKey,
    Refusal,
    RoundStart,
    SealedSeed,
    Upload,
)

NORTH = PartyName("north")
DP = {"privacy": {"sampling_rate": 1.0}}


def federation(tmp_path, **options):
    write_small_federation(tmp_path / "small", **options)
    return SmallFederation(tmp_path / "small")


def drive(small, envelopes, change=lambda small, envelope: envelope):
    """Delivers to the end; ``change`` may replace an envelope."""
    queue = list(envelopes)
    while small.leader.phase != "closed":
        if not queue:
            queue = list(small.leader.tick(small.leader.deadline))
            continue
        envelope = change(small, queue.pop(0))
        queue += small.party(envelope.receiver).receive(envelope, small.clock())


def test_an_unasked_state_is_not_taken_whatever_round_it_names(tmp_path):
    small = federation(tmp_path, job=DP)
    small.until(RoundStart, 3)
    aggregate, chunks = small.leader.transcript.last_aggregate()
    proof, parts = small.leader.transcript.proof_of(aggregate)
    assert isinstance(proof, CatchUp)
    fresh = SmallFederation(small.folder)  # the same run, in which north has heard nothing yet
    fresh.until(RoundStart)
    for number in (0, 1, 2, 3):
        envelope = small.leader.send(
            small.terms,
            fresh.sites[NORTH].address,
            proof,
            round_number=number,
            chunks=(*parts, *chunks),
        )
        assert fresh.sites[NORTH].receive(envelope, fresh.clock()) == []
    assert fresh.sites[NORTH].state(fresh.terms.run_id).number("applied") == 0


def test_a_helpers_key_of_a_far_round_skips_nothing(tmp_path):
    small = federation(tmp_path, job={"rounds": 9})
    starts = small.until(RoundStart, 2)
    helper = small.helpers[NORTH]
    key = HelperKey(small.leader.ports.sealing.generate().public_key)
    for number in (9, 10):
        far = helper.send(small.terms, small.leader.address, key, round_number=number)
        assert small.leader.receive(far, small.clock()) == []
    drive(small, starts.values())
    assert small.leader.chain.completed == 9


def test_helpers_that_skip_rounds_again_and_again_end_the_run_as_failed(tmp_path):
    small = federation(tmp_path, job={"rounds": 9})
    held = small.deliver(small.start(), hold=HelperKey)
    key = HelperKey(small.leader.ports.sealing.generate().public_key)
    later = small.helpers[NORTH].send(small.terms, small.leader.address, key, round_number=5)
    sent = [one for envelope in held for one in small.leader.receive(envelope, small.clock())]
    assert small.leader.phase == "collecting"
    small.leader._abort_round("test", 1, small.clock())
    small.leader.receive(later, small.clock())
    assert small.leader.phase in ("recording", "closed")
    assert small.leader.failure.code == "round.helper-restarted"
    assert small.leader.durable.number("complete") == 0
    assert sent


def spoilt(culprits):
    """Every round another client's seed for north does not open."""

    def change(small, envelope):
        message = small.read(envelope)
        if not isinstance(message.body, Upload) or message.round > len(culprits):
            return envelope
        if message.sender.party != culprits[message.round - 1]:
            return envelope
        seeds = tuple(
            SealedSeed(seed.helper, bytes(len(seed.sealed))) if seed.helper == NORTH else seed
            for seed in message.body.seeds
        )
        opener = small.leader._work.opener
        plain = [
            opener.open(chunk, chunk_info(message.digest, index))
            for index, chunk in enumerate(envelope.chunks)
        ]
        lie = small.lie(envelope, (), seeds=seeds)
        known, seal = digest(lie.message), small.leader.ports.sealing.seal
        chunks = tuple(
            seal(chunk, opener.public_key, chunk_info(known, index))
            for index, chunk in enumerate(plain)
        )
        return Envelope(lie.receiver, lie.message, chunks)

    return change


def test_clients_that_are_found_out_one_by_one_do_not_end_the_run(tmp_path):
    names = tuple(PartyName(name) for name in "abcdefg")
    job = {"rounds": 6, "aggregation": {"min_cohort": 3, "helpers": ["a", "b", "c"]}}
    write_small_federation(tmp_path / "small", job=job, names=(*names, NORTH))
    path = tmp_path / "small" / "job.toml"
    path.write_text(path.read_text().replace('["a", "b", "c"]', '["a", "b", "north"]'))
    for name in (*names, NORTH):
        site = tmp_path / "small" / "sites" / name / "site.toml"
        site.write_text(site.read_text() + "\n[limits]\nrequire_own_helper = false\n")
    small = SmallFederation(tmp_path / "small")
    drive(small, small.start(), spoilt(names[2:5]))
    assert small.leader.durable.number("complete") == 1
    assert small.leader._excluded == set(names[2:5])
    assert small.leader.chain.completed == 3


def test_rounds_whose_sum_leaves_a_site_out_count_as_uncompleted(tmp_path):
    """A leader cannot have a site charged for ever while others complete their rounds."""
    small = federation(tmp_path, job={"rounds": 9, **DP})

    def change(small, envelope):
        message = small.read(envelope)
        if isinstance(message.body, Upload) and message.sender.party == NORTH:
            return small.lie(envelope, (b"junk",))  # what the leader claims to have received
        return envelope

    drive(small, small.start(), change)
    limit = small.folders[NORTH].config.limits.max_uncompleted_rounds
    assert small.sites[NORTH].state(small.terms.run_id).number("uploads") == limit + 1
    log = small.sites[NORTH].ports.log.events(small.terms.run_id)
    assert any(b"site.uncompleted-rounds" in event for _, event in log)


@pytest.mark.parametrize("which", ["leader_key", "keys"])
def test_nothing_is_computed_for_a_round_that_cannot_be_sealed(tmp_path, which, monkeypatch):
    small = federation(tmp_path)
    start, trained = small.until(RoundStart)[NORTH], []
    keys = small.read(start).body.keys
    bad = HelperKey(bytes(len(small.helpers[NORTH]._keys[small.terms.run].opener.public_key)))
    helper = small.helpers[SITES[0]]
    forged = helper.send(small.terms, small.leader.address, bad, round_number=1).message
    change = {"leader_key": bad.key} if which == "leader_key" else {"keys": (forged, *keys[1:])}
    monkeypatch.setattr(Workload, "contribution", lambda *a, **k: trained.append(1))
    (refusal,) = small.sites[NORTH].receive(small.lie(start, **change), small.clock())
    assert small.read(refusal).body == Refusal(code="round.key", culprit="")
    assert trained == []


def test_what_model_code_raises_stays_at_the_site(tmp_path, monkeypatch):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]

    def fail(*_args, **_options):
        raise ValueError("row 17 is odd")

    monkeypatch.setattr(Workload, "contribution", fail)
    (refusal,) = small.sites[NORTH].receive(start, small.clock())
    assert small.read(refusal).body == Refusal(code="site.not-ready", culprit="")
    error = small.sites[NORTH].last_error
    assert (type(error), error.code) == (ConfigError, "site.model-failed")
    assert "17" not in error.message
    assert small.sites[NORTH].budget.spent("everyone").epsilon == 0


def test_a_replayed_message_is_refused_once(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    lie = small.lie(start, keys=())
    site = small.sites[NORTH]
    assert len(site.receive(lie, small.clock())) == 1
    size = len(site.ports.log)
    assert [site.receive(lie, small.clock()) for _ in range(5)] == [[]] * 5
    assert len(site.ports.log) == size


def test_a_run_is_settled_and_closed_even_when_the_code_has_changed(tmp_path):
    small = federation(tmp_path)
    small.until(RoundStart, 3)
    small.restart(NORTH)

    def other(*_args):
        raise ConfigError("learn.code", "the file has changed")

    object.__setattr__(small.sites[NORTH]._setup, "compute", other)
    ends = small.leader._finish(True, small.clock())
    finish = next(e for e in ends if e.receiver == small.sites[NORTH].address)
    assert isinstance(small.read(finish).body, Finish)
    small.sites[NORTH].receive(finish, small.clock())
    assert small.sites[NORTH].state(small.terms.run_id).number("closed") == 1
    assert small.sites[NORTH].budget.spent("everyone").reserved_epsilon == 0
    assert small.sites[NORTH].budget.spent("everyone").epsilon > 0


def test_a_seed_of_another_size_costs_its_client_only(tmp_path):
    small = federation(tmp_path, job=WITHOUT_NOISE)
    uploads = small.deliver(small.start(), hold=Upload)
    first = small.read(uploads[0])
    padded = tuple(SealedSeed(s.helper, s.sealed + bytes(7000)) for s in first.body.seeds)
    small.leader.receive(small.lie(uploads[0], seeds=padded), small.clock())
    assert first.sender.party in small.leader._excluded
