"""A site against a leader that controls everything around it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tacit.errors import (
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from tacit.party.base import log_head
from tacit.party.site import Site
from tacit.secagg.masked import cohort_digest
from tacit.testing.federation import (
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import Channel, Envelope, digest, sign_message, split_chunks
from tacit.wire.messages import (
    Accept,
    CatchUpRequest,
    MaskRequest,
    Record,
    Refusal,
    RoundAbort,
    RoundStart,
    Upload,
)

NORTH = PartyName("north")


def federation(tmp_path, *, site=None, **options):
    """A federation; ``site`` edits north's site.toml."""
    folder = tmp_path / "small"
    write_small_federation(folder, **options)
    if site is not None:
        path = folder / "sites" / NORTH / "site.toml"
        text = path.read_text()
        assert site[0] in text
        path.write_text(text.replace(*site))
    return SmallFederation(folder)


def answer(small, envelope, name=NORTH):
    """The one answer of a site, opened."""
    answers = small.sites[name].receive(envelope, small.clock())
    assert len(answers) == 1
    return small.read(answers[0])


def refused(small, envelope, code, name=NORTH):
    """Checks that a site refuses and that nothing was charged for it."""
    before = small.sites[name].budget.spent("everyone")
    body = answer(small, envelope, name).body
    assert isinstance(body, Refusal)
    # Whatever is wrong with the data itself, the leader learns one code only.
    assert body.code == ("site.not-ready" if code.startswith("connect.") else code)
    assert small.sites[name].budget.spent("everyone") == before
    assert small.sites[name].last_error.code == code


class Unreadable:
    """A data source that must stay closed."""

    def __init__(self, source):
        self.contract = source.contract

    def read(self):
        raise AssertionError("data was read")


def close_data(small):
    """Makes north's data unreadable for the test."""
    sources = small.folders[NORTH].sources
    sources.update({name: Unreadable(source) for name, source in sources.items()})
    small.restart(NORTH)


def offer_to(small, name=NORTH):
    return next(e for e in small.start() if str(e.receiver) == f"{name}/client")


# --- before the first round ------------------------------------------------------------------


def test_nothing_leaves_when_the_policy_denies(tmp_path):
    policy = '@id("never") forbid (principal, action, resource);'
    small = federation(tmp_path, policy=policy)
    close_data(small)
    offer = offer_to(small)
    refusal = answer(small, offer)
    assert refusal.body == Refusal(code="policy.denied", culprit="")  # the code and nothing else
    assert "never" in small.sites[NORTH].last_error.message
    logged = len(small.sites[NORTH].ports.log)
    assert answer(small, offer).raw == refusal.raw  # nor on a second try
    assert len(small.sites[NORTH].ports.log) == logged
    spent = small.sites[NORTH].budget.spent("everyone")
    assert (spent.epsilon, spent.reserved_epsilon) == (0, 0)


def test_a_repeated_offer_gets_the_stored_answer(tmp_path):
    small = federation(tmp_path)
    offer = offer_to(small)
    accept = answer(small, offer)
    assert isinstance(accept.body, Accept)
    logged = len(small.sites[NORTH].ports.log)
    small.restart(NORTH)  # killed after the commit, before the answer had left
    assert answer(small, offer).raw == accept.raw
    assert len(small.sites[NORTH].ports.log) == logged
    assert len(small.sites[NORTH].budget.entries()) == 1


def test_a_site_that_was_killed_before_it_decided_decides_later(tmp_path, monkeypatch):
    small = federation(tmp_path)
    offer = offer_to(small)

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(small.sites[NORTH]._data, "keep", killed)
        with pytest.raises(Killed):
            small.sites[NORTH].receive(offer, small.clock())
    small.restart(NORTH)
    assert isinstance(answer(small, offer).body, Accept)
    events = [json.loads(raw)["type"] for _, raw in small.sites[NORTH].ports.log.events()]
    assert events.count("budget.reserved") == 1
    assert events.count("offer.accepted") == 1


def test_a_denied_run_ends_and_costs_nothing(tmp_path):
    small = federation(tmp_path, policy='@id("never") forbid (principal, action, resource);')
    engine = small.run()
    assert small.leader.phase == "closed"
    assert small.leader.failure.code == "refused.policy.denied"
    assert set(engine.refusals) == set(SITES)
    for site in small.sites.values():
        spent = site.budget.spent("everyone")
        assert (spent.epsilon, spent.reserved_epsilon) == (0, 0)


def test_an_exhausted_budget_keeps_the_data_closed(tmp_path):
    small = federation(tmp_path, site=("epsilon = 1.2", "epsilon = 0.49"))
    close_data(small)
    refused(small, offer_to(small), "budget.exhausted")


def test_a_run_without_privacy_needs_the_operators_leave(tmp_path):
    small = federation(
        tmp_path,
        site=("allow_without_dp = true", "allow_without_dp = false"),
        job=WITHOUT_NOISE,
    )
    close_data(small)
    refused(small, offer_to(small), "budget.without-dp")
    assert isinstance(answer(small, offer_to(small, SITES[0]), SITES[0]).body, Accept)


def test_a_site_insists_on_its_own_helper(tmp_path):
    small = federation(tmp_path, job={"aggregation": {"helpers": ["east", "west"]}})
    close_data(small)
    refused(small, offer_to(small), "limits.own-helper")


def test_too_few_helpers_are_refused(tmp_path):
    limits = "allow_without_dp = true\n[limits]\nmax_colluding_helpers = 4"
    small = federation(tmp_path, site=("allow_without_dp = true", limits))
    refused(small, offer_to(small), "limits.colluding-helpers")


@pytest.mark.parametrize(
    "changes",
    [
        {"min_cohort": 1},
        {"max_colluding": 0},
        {"clients": ("east", "north", "stranger")},
        {"rounds": 4},
        {"dimension": 99},
        {"roster": bytes(32)},
        {"plan": b"{}"},
        {"own_noise": True},
    ],
)
def test_an_inconsistent_offer_gets_no_answer(tmp_path, changes):
    small = federation(tmp_path)
    close_data(small)
    manifest = dataclasses.replace(small.offer.manifest, **changes)
    channel = Channel(
        run=digest(encode(manifest)),
        roster=small.roster.digest,
        job=manifest.job,
        sender=small.leader.address,
        signer=small.identity(small.leader.address.party),
        log=log_head(small.leader.ports.log),
    )
    offer = dataclasses.replace(small.offer, manifest=manifest)
    for party in (small.sites[NORTH], small.helpers[NORTH]):
        lie = sign_message(channel, party.address, offer)
        assert party.receive(lie, small.clock()) == []
        assert party.last_error.code == "offer.inconsistent"


def test_an_offer_for_another_run_than_its_manifest_gets_no_answer(tmp_path):
    small = federation(tmp_path)
    close_data(small)
    manifest = dataclasses.replace(small.offer.manifest, nonce=bytes(32))
    lie = small.lie(offer_to(small), manifest=manifest)
    before = len(small.sites[NORTH].ports.log)
    assert small.sites[NORTH].receive(lie, small.clock()) == []
    assert len(small.sites[NORTH].ports.log) == before


def test_a_bomb_in_the_plan_gets_no_answer(tmp_path):
    test_an_inconsistent_offer_gets_no_answer(tmp_path, {"plan": b"[" * 16_384})


def test_a_sum_of_one_without_noise_is_refused(tmp_path):
    """Own noise adds nothing where there is no noise: such a job would reveal one contribution."""
    with pytest.raises(ConfigError, match="adds no noise"):
        federation(
            tmp_path,
            job={
                "privacy": {**WITHOUT_NOISE["privacy"], "noise": "own"},
                "aggregation": {"protocol": "masked", "min_cohort": 1},
            },
        )


def limit(site, **changes):
    """Changes ``[limits]`` of a site."""
    limits = site._setup.config.limits.model_copy(update=changes)
    config = site._setup.config.model_copy(update={"limits": limits})
    site._setup = dataclasses.replace(site._setup, config=config)
    site._admission._setup = site._setup


def test_small_sums_without_noise_are_refused_by_the_site(tmp_path):
    small = federation(tmp_path, job=WITHOUT_NOISE)
    site = small.sites[NORTH]
    limit(site, max_colluding_helpers=2)
    refused(small, offer_to(small), "limits.cohort")


@pytest.mark.parametrize("job", [{}, WITHOUT_NOISE], ids=["record", "none"])
def test_bad_data_settles_the_reservation(tmp_path, job):
    small = federation(tmp_path, job=job)
    data = small.folder / "sites" / NORTH / "data" / "records.csv"
    data.write_text(data.read_text().replace("size", "height"))
    refused(small, offer_to(small), "connect.column")
    spent = small.sites[NORTH].budget.spent("everyone")
    assert (spent.epsilon, spent.reserved_epsilon) == (0, 0)


# --- rounds ----------------------------------------------------------------------------------


def test_upload_is_charged_before_it_leaves(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    before = small.stores[NORTH]
    for steps in range(100):
        small.stores[NORTH] = before.crash()
        small._open(NORTH)
        small.stores[NORTH].fail_after = steps  # the disk fails at every possible point
        try:
            answers = small.sites[NORTH].receive(start, small.clock())
        except TransportError:
            answers = []
        small.restart(NORTH)
        entries = small.sites[NORTH].budget.entries()
        if answers:
            break
        assert entries[0].round_number == 0
    assert steps > 5
    upload = small.read(answers[0])
    assert isinstance(upload.body, Upload)
    assert (entries[0].round_number, entries[0].charged > 0) == (1, True)
    kinds = [e for _, e in small.sites[NORTH].ports.log.events(small.terms.run_id)]
    order = [
        i for kind in (b"budget.charged", b"upload.sent") for i, e in enumerate(kinds) if kind in e
    ]
    assert order == sorted(order)
    assert len(order) == 2
    assert upload.digest.hex().encode() in kinds[order[1]]


def test_one_upload_per_round(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    first = small.sites[NORTH].receive(start, small.clock())
    spent = small.sites[NORTH].budget.spent("everyone")
    other = small.lie(start, leader_key=small.leader.ports.sealing.generate().public_key)
    for _ in range(2):
        assert small.sites[NORTH].receive(start, small.clock()) == first  # the stored bytes
        small.restart(NORTH)  # a restart forgets neither
    assert answer(small, other).body.code == "round.not-new"
    assert small.sites[NORTH].receive(other, small.clock()) == []  # one conviction is enough
    assert small.sites[NORTH].budget.spent("everyone") == spent


def test_a_reservation_is_released_only_when_nothing_left(tmp_path):
    small = federation(tmp_path)
    site, run = small.sites[NORTH], small.terms.run_id
    answer(small, offer_to(small))
    assert site.budget.spent("everyone").reserved_epsilon > 0
    site.release(run, small.clock())
    assert site.budget.spent("everyone").reserved_epsilon == 0
    with pytest.raises(LocalProtocolError):
        site.release(run, small.clock())


def test_a_released_run_is_over(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    small.sites[NORTH].release(small.terms.run_id, small.clock())
    assert small.sites[NORTH].receive(start, small.clock()) == []


def after_a_restart(small, start):
    """North's answer to a round that begins after its process was restarted."""
    small.restart(NORTH)
    return answer(small, start).body


def test_a_restart_takes_the_same_data_only(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    data = small.folder / "sites" / NORTH / "data" / "records.csv"
    whole = data.read_text()
    data.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert after_a_restart(small, start).code == "site.not-ready"
    assert small.sites[NORTH].last_error.code == "site.changed"
    data.write_text(whole)
    assert isinstance(after_a_restart(small, start), Upload)


def test_a_restart_asks_the_policy_again(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    rule = small.folder / "sites" / NORTH / "policies" / "stop.cedar"
    rule.write_text('@id("stop") forbid (principal, action, resource);')
    small.folders[NORTH] = type(small.folders[NORTH]).load(small.folders[NORTH].path)
    assert after_a_restart(small, start).code == "policy.denied"


def test_what_was_uploaded_is_never_released(tmp_path):
    small = federation(tmp_path)
    answer(small, small.until(RoundStart)[NORTH])
    spent = small.sites[NORTH].budget.spent("everyone")
    with pytest.raises(LocalProtocolError):
        small.sites[NORTH].release(small.terms.run_id, small.clock())
    assert small.sites[NORTH].budget.spent("everyone") == spent


def test_an_earlier_round_is_never_repeated(tmp_path):
    small = federation(tmp_path)
    first = small.until(RoundStart)
    second = {e.receiver.party: e for e in small.deliver(first.values(), hold=RoundStart)}
    answer(small, second[NORTH])
    before = len(small.sites[NORTH].ports.log)
    # A replay by the network: no answer, and no false evidence against an honest leader.
    assert small.sites[NORTH].receive(first[NORTH], small.clock()) == []
    assert len(small.sites[NORTH].ports.log) == before
    assert small.sites[NORTH].state(small.terms.run_id).get("conflict") is None


def test_replayed_aborts_are_logged_once(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    answer(small, start)
    site = small.sites[NORTH]
    abort = small.leader.send(small.terms, site.address, RoundAbort(code="x"), round_number=1)
    before = len(site.ports.log)
    for _ in range(3):
        assert site.receive(abort, small.clock()) == []
    assert len(site.ports.log) == before + 1


def test_a_model_that_does_not_follow_is_refused(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart, 2)[NORTH]
    lie = small.lie(start, model=digest(b"crafted"))
    assert isinstance(answer(small, lie).body, CatchUpRequest)  # It may have missed something,
    refused(small, lie, "round.model")  # but it asks once only.
    assert isinstance(answer(small, start).body, Upload)


def test_the_first_model_needs_every_accept(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    accepts = small.read(start).body.accepts
    for lie in (accepts[1:], (accepts[0], *accepts[:-1]), ()):
        refused(small, small.lie(start, accepts=lie), "chain.accepts")
    refused(small, small.lie(start, model=digest(b"crafted")), "round.model")


def test_helper_keys_must_be_the_helpers_own_and_of_this_round(tmp_path):
    small = federation(tmp_path)
    first = small.until(RoundStart)
    stale = small.read(first[NORTH]).body.keys
    second = {e.receiver.party: e for e in small.deliver(first.values(), hold=RoundStart)}
    start, keys = second[NORTH], small.read(second[NORTH]).body.keys
    accept = small.read(first[NORTH]).body.accepts[0]
    for lie, code in (
        (keys[1:], "round.helpers"),
        ((keys[1], keys[0], *keys[2:]), "round.helper-keys"),
        ((keys[1], *keys[1:]), "round.helper-keys"),
        ((stale[0], *keys[1:]), "round.stale-key"),
        ((accept, *keys[1:]), "message.carried"),
        ((other_run_key(small), *keys[1:]), "message.carried"),
        ((keys[0][:-1] + bytes([keys[0][-1] ^ 1]), *keys[1:]), "trust.signature"),
    ):
        refused(small, small.lie(start, keys=lie), code)
    assert isinstance(answer(small, start).body, Upload)


def other_run_key(small):
    """A key of the same helper and round, made for another run of the same federation."""
    other = SmallFederation(small.folder, seed="another run")
    return small.read(other.until(RoundStart, 2)[NORTH]).body.keys[0]


def lie_about(small, start, **changes):
    previous = dataclasses.replace(small.read(start).body.previous, **changes)
    return small.lie(start, previous=previous)


def test_an_aggregate_with_a_lying_cohort_is_refused(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart, 2)[NORTH]
    aggregate = small.read(start).body.previous
    cohort, answers = aggregate.cohort, aggregate.answers
    stranger = dataclasses.replace(cohort[0], client="stranger")
    swapped = dataclasses.replace(cohort[0], upload=bytes(32))
    for changes, code in (
        ({"cohort": cohort[1:]}, "chain.answer"),
        ({"cohort": (swapped, *cohort[1:])}, "chain.answer"),
        ({"cohort": (stranger, *cohort[1:])}, "chain.cohort"),
        ({"cohort": (cohort[1], *cohort[1:])}, "chain.cohort"),
        ({"cohort": cohort[2:]}, "chain.cohort-too-small"),
        ({"answers": answers[1:]}, "chain.helpers"),
        ({"answers": (answers[1], *answers[1:])}, "chain.helpers"),
        ({"answers": ()}, "chain.helpers"),
        ({"round": 2}, "round.aggregate"),
        ({"keys": aggregate.keys[1:]}, "round.helpers"),
    ):
        refused(small, lie_about(small, start, **changes), code)
    assert isinstance(answer(small, start).body, Upload)


def test_an_aggregate_that_is_too_large_is_refused(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart, 2)[NORTH]
    crafted = np.full(small.terms.manifest.length, 2**31 - 1, dtype="<u4").tobytes()
    vector, chunks = split_chunks(crafted, small.terms.manifest.length)
    previous = dataclasses.replace(small.read(start).body.previous, vector=vector)
    refused(small, small.lie(start, chunks, previous=previous), "chain.norm")
    refused(small, small.lie(start, chunks), "wire.chunk-digest")


def test_a_sum_with_another_upload_than_was_sent_is_refused(tmp_path):
    """Even if every helper, the site's own included, were to sign for it."""
    small = federation(tmp_path)
    start = small.until(RoundStart, 2)[NORTH]
    aggregate = small.read(start).body.previous
    cohort = tuple(
        dataclasses.replace(m, upload=bytes(32)) if m.client == NORTH else m
        for m in aggregate.cohort
    )
    name = cohort_digest([m.upload for m in cohort])
    forged = [
        small.lie(Envelope(small.leader.address, raw), cohort=name) for raw in aggregate.answers
    ]
    lie = lie_about(small, start, cohort=cohort, answers=tuple(e.message for e in forged))
    refused(small, lie, "chain.own-upload")


def test_an_aggregate_of_another_context_is_refused(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart, 2)[NORTH]
    answers = small.read(start).body.previous.answers
    forged = [small.lie(Envelope(small.leader.address, raw), context=bytes(32)) for raw in answers]
    refused(
        small, lie_about(small, start, answers=tuple(e.message for e in forged)), "chain.context"
    )


def test_an_equivocating_aggregate_is_refused(tmp_path):
    small = federation(tmp_path)
    answer(small, small.until(RoundStart, 2)[NORTH])  # north has applied the aggregate of round 1
    start = next_start(small)
    crafted = np.ones(small.terms.manifest.length, dtype="<u4").tobytes()
    vector, chunks = split_chunks(crafted, small.terms.manifest.length)
    previous = dataclasses.replace(small.read(start).body.previous, vector=vector)
    refused(small, small.lie(start, chunks, previous=previous), "chain.equivocation")
    refused(small, small.lie(start, (), previous=None), "round.aggregate")
    assert isinstance(answer(small, start).body, Upload)


def next_start(small, name=NORTH):
    """Fails the round in progress; the next round's start for a site."""
    held = small.deliver(small.leader._fail_round("test", small.clock()), hold=RoundStart)
    return next(e for e in held if e.receiver.party == name)


def test_too_many_rounds_without_a_result_are_refused(tmp_path):
    limits = "allow_without_dp = true\n[limits]\nmax_uncompleted_rounds = 1"
    small = federation(tmp_path, site=("allow_without_dp = true", limits))
    assert isinstance(answer(small, small.until(RoundStart)[NORTH]).body, Upload)
    assert isinstance(answer(small, next_start(small)).body, Upload)
    refused(small, next_start(small), "site.uncompleted-rounds")


def test_restarted_sites_continue_and_never_reuse_a_round(tmp_path):
    small = federation(tmp_path)
    starts, seen = small.until(RoundStart), {}
    for number in (1, 2, 3):
        requests = small.deliver(starts.values(), hold=MaskRequest)
        for name in SITES:
            small.sites[name] = Site(
                name, small.roster, small.ports(name), small.sites[name]._setup
            )
            repeated = answer(small, starts[name], name)
            seen[name, number] = repeated.digest
            assert repeated.round == number
        starts = {e.receiver.party: e for e in small.deliver(requests, hold=RoundStart)}
    assert small.leader.phase == "closed"
    assert small.leader.chain.completed == 3
    assert len(set(seen.values())) == 12
    for name in SITES:
        log = small.sites[name].ports.log.events(small.terms.run_id)
        assert sum(b'"upload.sent"' in event for _, event in log) == 3
        assert small.sites[name].budget.spent("everyone").reserved_epsilon == 0


# --- the end ---------------------------------------------------------------------------------


def test_a_run_that_a_site_cannot_follow_is_settled_in_full(tmp_path):
    small = federation(tmp_path)
    starts = small.until(RoundStart)
    answer(small, starts[NORTH])
    finish = next(
        e for e in small.leader.interrupt(small.clock()) if e.receiver == small.sites[NORTH].address
    )
    other = SmallFederation(small.folder, seed="another run")
    stranger = small.read(other.until(RoundStart, 2)[NORTH]).body.previous
    lie = small.lie(finish, previous=stranger)
    assert isinstance(answer(small, lie).body, Record)
    spent = small.sites[NORTH].budget.spent("everyone")
    assert spent.reserved_epsilon == 0
    assert float(spent.epsilon) == small.terms.plan.epsilon()


def test_a_closed_run_stays_closed(tmp_path):
    small = federation(tmp_path)
    starts = small.until(RoundStart)
    finish = {e.receiver: e for e in small.leader.interrupt(small.clock())}
    end = finish[small.sites[NORTH].address]
    assert isinstance(answer(small, end).body, Record)
    spent = small.sites[NORTH].budget.spent("everyone")
    assert (spent.epsilon, spent.reserved_epsilon) == (0, 0)  # nothing had left
    small.restart(NORTH)
    assert small.sites[NORTH].receive(starts[NORTH], small.clock()) == []
    assert isinstance(answer(small, end).body, Record)


def test_only_the_leader_is_heard(tmp_path):
    small = federation(tmp_path)
    start = small.until(RoundStart)[NORTH]
    east = small.sites[SITES[0]]
    forged = east.send(
        small.terms, small.sites[NORTH].address, small.read(start).body, round_number=1
    )
    abort = east.send(small.terms, small.sites[NORTH].address, RoundAbort(code="x"), round_number=1)
    before = len(small.sites[NORTH].ports.log)
    for message in (forged, abort):
        assert small.sites[NORTH].receive(message, small.clock()) == []
    assert len(small.sites[NORTH].ports.log) == before
    with pytest.raises(RemoteProtocolError):
        east.receive(start, small.clock())  # north's, carried to another site


@pytest.mark.parametrize("fixed", [True, False])
def test_two_runs_without_noise_must_have_the_same_sites(tmp_path, fixed):
    """Otherwise the difference of their first sums is the contribution of whoever is missing."""
    small = federation(tmp_path, job=WITHOUT_NOISE)
    small.run()
    other = SmallFederation(small.folder, seed="another run", clients=SITES[1:])
    other.stores = small.stores
    for name in SITES[1:]:
        other._open(name)
        limit(other.sites[name], fixed_cohort=fixed)
    other.run()
    codes = {site.last_error.code for site in other.sites.values() if site.last_error is not None}
    assert codes == ({"limits.fixed-cohort"} if fixed else set())
    assert bool(other.leader.durable.number("complete")) != fixed
    again = SmallFederation(small.folder, seed="a third run")
    again.stores = small.stores
    for name in SITES:
        again._open(name)
    again.run()
    assert again.leader.durable.number("complete") == 1
