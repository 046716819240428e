"""Peers remember the heads of budgets: a state that goes back is refused, and nothing else is."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tacit.errors import RemoteProtocolError, VerificationError
from tacit.party.base import Party
from tacit.party.heads import PeerHeads, compare_heads
from tacit.privacy.journal import WINDOW, Heads
from tacit.testing.federation import (
    LEADER,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import Digest, PartyName
from tacit.wire.envelope import Address
from tacit.wire.messages import Accept, Finish, Refusal, RoundStart, Upload

EAST, NORTH, SOUTH, WEST = SITES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads")
    write_small_federation(path / "small")
    write_small_federation(path / "exact", job=WITHOUT_NOISE)
    for site in path.glob("*/sites/*/site.toml"):  # room for some more runs
        site.write_text(site.read_text().replace("epsilon = 1.2", "epsilon = 12.0"))
    return path


def federation(folder, seed, stores=None, kind="small"):
    return SmallFederation(folder / kind, seed=seed, stores=stores)


def after_a_run(folder, seed=1, stores=None):
    """A federation whose run is over, and what every party had stored before it and after it."""
    small = federation(folder, seed, stores)
    before = copies(small.stores)
    small.run()
    assert small.leader.durable.number("complete") == 1
    return small, before, copies(small.stores)


def copies(stores):
    return {name: store.crash() for name, store in stores.items()}


def without(stores, *names):
    return {name: store for name, store in stores.items() if name not in names}


def seen(small, name, kind="budget.head"):
    """What a party logged of others in the run, without the common fields."""
    party = small.leader if name == LEADER else small.sites[name]
    events = [json.loads(data) for _, data in party.ports.log.events(small.terms.run_id)]
    return {event["site"]: event for event in events if event["type"] == kind}


def held(small, name):
    return sum(max(e.charged, e.epsilon if e.open else 0) for e in entries(small, name))


def entries(small, name):
    return small.sites[name].budget.entries()


# --- the rule ------------------------------------------------------------------------------------


def heads(count, *, fork=None, window=WINDOW):
    """Heads after ``count`` reservations; from the ``fork``th on they are others."""
    first = max(count - window, 0)
    made = range(first + 1, count + 1)
    return Heads(
        count,
        tuple(
            Digest(f"{n}{'-other' if fork is not None and n >= fork else ''}".encode().ljust(32))
            for n in made
        ),
    )


def released(shown, *numbers):
    return dataclasses.replace(shown, released=numbers)


@pytest.mark.parametrize(
    ("known", "shown", "standing"),
    [
        (None, heads(0), "first"),
        (None, heads(5), "first"),
        (heads(0), heads(3), "first"),
        (heads(5), heads(5), "continued"),
        (heads(5), heads(6), "continued"),
        (heads(5), heads(5 + WINDOW - 1), "continued"),
        (heads(5), heads(5 + WINDOW), "unprovable"),
        (heads(500), heads(501), "continued"),
        (heads(5), released(heads(6), 1, 3), "continued"),
        (heads(500), released(heads(501), 438, 501), "continued"),
        (heads(6), heads(5), "repeated"),
        (heads(500), heads(500 - WINDOW + 1), "repeated"),
    ],
)
def test_a_budget_that_goes_on_is_taken(known, shown, standing):
    assert compare_heads(NORTH, known, shown, spent=[2, 200]) == standing


@pytest.mark.parametrize(
    ("known", "shown", "code"),
    [
        (heads(5), heads(0), "budget.rolled-back"),  # the state was deleted
        (heads(5), heads(1, fork=1), "budget.rolled-back"),  # and a run reserved since
        (heads(5), heads(4, fork=4), "budget.rolled-back"),
        (heads(500), heads(500 - WINDOW), "budget.rolled-back"),  # older than all that is known
        (heads(5), heads(5, fork=5), "budget.forked"),
        (heads(5), heads(9, fork=4), "budget.forked"),
        (heads(500), heads(500 + WINDOW - 1, fork=450), "budget.forked"),
        (None, Heads(3, heads(3).digests[1:]), "budget.head"),
        (None, Heads(500, heads(500).digests[1:]), "budget.head"),
        (heads(5), Heads(9, heads(9).digests[-1:]), "budget.head"),  # would prove nothing
        (None, Heads(1, heads(2).digests), "budget.head"),
        (None, released(heads(3), 0), "budget.head"),
        (None, released(heads(3), 4), "budget.head"),
        (None, released(heads(70), 6), "budget.head"),
        (None, released(heads(3), 2, 1), "budget.head"),
        (None, released(heads(3), 2, 2), "budget.head"),
        (heads(5), released(heads(6), 2), "budget.refunded"),
        (heads(5), released(heads(6), 1, 2, 3), "budget.refunded"),
        (None, released(heads(6), 2), "budget.refunded"),
    ],
)
def test_a_budget_that_went_back_is_refused(known, shown, code):
    with pytest.raises(RemoteProtocolError) as caught:
        compare_heads(NORTH, known, shown, spent=[2, 200])
    assert caught.value.code == code
    assert caught.value.details["party"] == NORTH
    if code != "budget.head":
        assert "--accept north" in caught.value.remedy


# --- runs ----------------------------------------------------------------------------------------


def test_honest_runs_countersign_each_other(folder):
    first, _, stores = after_a_run(folder)
    small, _, _ = after_a_run(folder, 2, stores)
    everybody = {LEADER, *SITES}
    for name in everybody:
        others = everybody - {name, LEADER}
        assert {e["standing"] for e in seen(first, name).values()} == {"first"}
        told = seen(small, name)
        assert set(told) == others
        for site, event in told.items():
            known = small.sites[site].budget.heads()
            assert (event["count"], event["standing"]) == (2, "continued")
            assert event["head"] == known.at(2).hex()
            own = [
                json.loads(data)
                for _, data in small.sites[site].ports.log.events(small.terms.run_id)
            ]
            reserved = next(e for e in own if e["type"] == "budget.reserved")
            assert (reserved["count"], reserved["head"]) == (event["count"], event["head"])


@pytest.mark.parametrize("deleted", [True, False])
def test_a_restored_budget_is_refused_by_leader_and_sites(folder, deleted):
    """An older file, or none at all: the leader ends the run, and a leader that looks away is alone."""
    _, before, between = after_a_run(folder)
    _, _, stores = after_a_run(folder, 2, between)
    back = {NORTH: before[NORTH] if deleted else after_a_run(folder)[2][NORTH]}
    small = federation(folder, 3, copies({**stores, **back}))
    small.run()
    assert small.leader.failure.code == ("budget.rolled-back" if deleted else "budget.forked")
    assert small.leader.failure.details["party"] == NORTH
    assert small.leader.durable.number("round") == 0
    assert all(not entry.open for name in SITES for entry in entries(small, name))

    small = federation(folder, 3, copies(without({**stores, **back}, LEADER)))
    uploads = []

    def tap(envelope):
        if isinstance(small.read(envelope).body, Upload):
            uploads.append(small.read(envelope).sender.party)
        return envelope

    small.run(tap=tap)
    assert set(uploads) <= {NORTH}
    assert small.leader.chain.completed == 0
    for name in (EAST, SOUTH, WEST):
        assert small.sites[name].last_error.details["party"] == NORTH
        assert all(not entry.open for entry in entries(small, name))


def test_a_refused_run_stays_refused(folder):
    """In later rounds and after a restart, whatever the leader shows then."""
    _, before, stores = after_a_run(folder)
    small = federation(folder, 2, {**without(stores, LEADER), NORTH: before[NORTH]})
    start = small.until(RoundStart)[EAST]
    code = "budget.forked"
    for _ in range(2):
        (made,) = small.sites[EAST].receive(start, small.clock())
        assert small.read(made).body == Refusal(code, "")
        small.restart(EAST)
    later = small.lie(start, leader_key=b"k" * 1216)
    (made,) = small.sites[EAST].receive(later, small.clock())
    assert small.read(made).body == Refusal(code, "")
    assert small.sites[EAST].state(small.terms.run_id).get("model") is None


def test_a_late_joiner_looks_at_the_heads_too(folder):
    """A leader that lets only accomplices begin does not get round it."""
    _, before, stores = after_a_run(folder)
    begun = {EAST: before[EAST], NORTH: stores[NORTH]}  # all others are new, or forgot on purpose
    small = federation(folder, 2, begun)
    held_back = small.until(RoundStart)
    small.deliver([e for name, e in held_back.items() if name != NORTH], hold=RoundStart)
    again = small.deliver(small.leader.tick(small.leader.deadline), hold=RoundStart)
    start = next(e for e in again if e.receiver.party == NORTH)
    assert small.read(start).body.previous is not None
    (request,) = small.sites[NORTH].receive(start, small.clock())
    proof, start = small.leader.receive(request, small.clock())
    for envelope in (proof, start):
        (made,) = small.sites[NORTH].receive(envelope, small.clock())
        assert small.read(made).body == Refusal("budget.forked", "")
    assert small.sites[NORTH].state(small.terms.run_id).get("model") is None


def test_a_late_joiner_needs_every_acceptance(folder):
    small = federation(folder, 1)
    held_back = small.until(RoundStart)
    small.deliver([e for name, e in held_back.items() if name != NORTH], hold=RoundStart)
    again = small.deliver(small.leader.tick(small.leader.deadline), hold=RoundStart)
    start = next(e for e in again if e.receiver.party == NORTH)
    (request,) = small.sites[NORTH].receive(start, small.clock())
    proof, _ = small.leader.receive(request, small.clock())
    accepts = small.read(proof).body.accepts
    (made,) = small.sites[NORTH].receive(small.lie(proof, accepts=accepts[1:]), small.clock())
    assert small.read(made).body == Refusal("chain.accepts", "")
    assert small.sites[NORTH].receive(proof, small.clock()) == []
    assert set(seen(small, NORTH)) == set(SITES) - {NORTH}


def test_a_state_between_acceptance_and_settlement_frees_nothing(folder):
    """Its head is the one that peers know; but what the run reserved counts in full there."""
    small = federation(folder, 1)
    small.deliver(small.start(), hold=RoundStart)
    backup = small.stores[NORTH].crash()
    finished, _, stores = after_a_run(folder)
    spent = held(finished, NORTH)
    second = federation(folder, 2, {**stores, NORTH: backup})
    assert held(second, NORTH) >= spent > 0
    second.run()
    assert second.leader.durable.number("complete") == 1
    assert seen(second, EAST)[NORTH]["standing"] == "continued"
    assert held(second, NORTH) >= 2 * spent


@pytest.fixture(scope="module")
def unsettled(folder):
    """A run that is over: what all had stored after it, north's state before its first upload, the end."""
    small = federation(folder, 1)
    found = {}

    def tap(envelope):
        if envelope.receiver == Address(NORTH, "client"):
            body = small.read(envelope).body
            if isinstance(body, RoundStart) and "backup" not in found:
                found["backup"] = small.stores[NORTH].crash()
            if isinstance(body, Finish):
                found["finish"] = envelope
        return envelope

    small.run(tap=tap)
    assert small.leader.chain.completed == 3
    return small, found["backup"], found["finish"]


@pytest.mark.parametrize("how", ["the leader's end again", "the operator's release"])
@pytest.mark.parametrize("looks_away", [False, True])
def test_what_was_spent_cannot_be_released_after_a_restore(folder, unsettled, how, looks_away):
    """The state before the first upload would release what it holds: peers saw what left."""
    first, backup, finish = unsettled
    stores = copies({**first.stores, NORTH: backup})
    again = federation(folder, 1, stores)
    if how == "the operator's release":
        again.sites[NORTH].release(again.terms.run_id, again.clock())
    else:
        again.sites[NORTH].receive(finish, again.clock())
    assert held(again, NORTH) == 0 < held(first, NORTH)  # refunded, as far as north can tell
    second = federation(folder, 2, without(stores, LEADER) if looks_away else stores)
    second.run()
    assert second.leader.chain.completed == 0
    assert second.leader.failure.code == "refused." * looks_away + "budget.refunded"
    if looks_away:  # each site had seen the upload as a helper
        for name in (EAST, SOUTH, WEST):
            assert second.sites[name].last_error.code == "budget.refunded"
            assert second.sites[name].state(second.terms.run_id).number("uploads") == 0


def test_a_run_that_never_began_may_be_released(folder):
    small = federation(folder, 1)
    small.deliver(small.start(), hold=RoundStart)
    small.deliver(small.leader.interrupt(small.clock()))
    assert all(held(small, name) == 0 for name in SITES)
    second, _, _ = after_a_run(folder, 2, small.stores)
    assert second.sites[NORTH].budget.heads().released == (1,)
    assert {event["standing"] for event in seen(second, LEADER).values()} == {"continued"}


def test_what_no_window_reaches_is_forgotten(folder):
    """A peer keeps a bounded memory of each site, however many runs there are."""
    small, _, stores = after_a_run(folder)
    store = stores[LEADER]
    assert len(dict(store.items("budget-runs"))) == len(dict(store.items("budget-spent"))) == 4
    later = federation(folder, 2, stores)
    accepts = later.deliver(later.start(), hold=Accept)
    one = next(a for a in accepts if later.read(a).sender.party == NORTH)
    many = tuple(bytes([i]) * 32 for i in range(64))
    later.leader.receive(later.lie(one, reservations=WINDOW + 1, heads=many), later.clock())
    kept = [key for key, _ in later.stores[LEADER].items("budget-runs", f"{NORTH}/")]
    assert kept == [f"{NORTH}/{WINDOW + 1:012d}"]
    spent = [key for key, _ in later.stores[LEADER].items("budget-spent")]
    assert f"{small.terms.run_id}/{NORTH}" not in spent
    assert len(spent) == 3


def test_a_clock_that_is_set_back_changes_nothing(folder):
    _, _, stores = after_a_run(folder)
    small = federation(folder, 2, stores)
    small.clock.advance(-60_000)
    small.run()
    assert small.leader.durable.number("complete") == 1
    assert {event["standing"] for event in seen(small, EAST).values()} == {"continued"}


def test_an_acceptance_that_was_overtaken_is_no_rollback(folder):
    """Two runs at once: the first one's acceptances arrive after those of the second."""
    small = federation(folder, 1)
    late = small.deliver(small.start(), hold=Accept)
    other = federation(folder, 2, small.stores)
    other.deliver(other.start(), hold=RoundStart)
    assert {event["count"] for event in seen(other, LEADER).values()} == {2}
    starts = small.deliver(late, hold=RoundStart)
    assert {small.read(start).round for start in starts} == {1}
    assert {event["standing"] for event in seen(small, LEADER).values()} == {"repeated"}
    known = PeerHeads(small.leader).known(NORTH)
    assert known.count == 2  # what is remembered does not go back


def test_a_run_without_noise_shows_the_head_as_it_is(folder):
    _, before, stores = after_a_run(folder)
    exact = federation(folder, 2, stores, "exact")
    exact.run()
    assert exact.leader.durable.number("complete") == 1
    told = seen(exact, EAST)[NORTH]
    assert (told["count"], told["standing"]) == (1, "continued")
    assert exact.sites[NORTH].budget.heads().count == 1
    lost = federation(folder, 3, {**copies(exact.stores), NORTH: before[NORTH]}, "exact")
    lost.run()
    assert lost.leader.failure.code == "budget.rolled-back"


def test_a_known_head_outside_the_window_is_taken_and_said(folder):
    _, _, stores = after_a_run(folder)
    small = federation(folder, 2, stores)
    party = PeerHeads(small.leader)
    known = party.known(NORTH)
    with small.stores[LEADER].transaction():
        old = Heads(known.count, (Digest(b"of another journal".ljust(32)),))
        small.stores[LEADER].put("budget-heads", NORTH, encoded(old))
    accepts = small.deliver(small.start(), hold=Accept)
    mine = next(a for a in accepts if small.read(a).sender.party == NORTH)
    many = small.lie(mine, reservations=WINDOW + 1, heads=tuple(bytes([i]) * 32 for i in range(64)))
    small.leader.receive(many, small.clock())
    assert seen(small, LEADER)[NORTH]["standing"] == "unprovable"
    assert party.known(NORTH).count == WINDOW + 1


def encoded(known):
    return known.count.to_bytes(8, "big") + b"".join(known.digests)


def test_a_leader_tells_no_site_of_a_head_that_it_has_not_seen(folder):
    """Every site opens the signed acceptances itself: a leader can neither invent nor change a head."""
    small = federation(folder, 1)
    start = small.until(RoundStart)[EAST]
    accepts = list(small.read(start).body.accepts)
    mine = small.read(dataclasses.replace(start, message=accepts[1], chunks=()))
    invented = small.lie(
        dataclasses.replace(start, message=mine.raw, receiver=small.leader.address, chunks=()),
        reservations=0,
        heads=(),
    )
    accepts[1] = invented.message.replace(b"north/client", b"south/client")
    (made,) = small.sites[EAST].receive(small.lie(start, accepts=tuple(accepts)), small.clock())
    assert small.read(made).body.code in ("trust.signature", "chain.accepts")


# --- the operator's word --------------------------------------------------------------------------


def test_an_accepted_head_is_taken_as_the_first_and_logged(folder):
    _, before, stores = after_a_run(folder)
    small = federation(folder, 2, {**stores, NORTH: before[NORTH]})
    for party in (small.leader, *(small.sites[name] for name in SITES if name != NORTH)):
        known = PeerHeads(party).known(NORTH)
        assert PeerHeads(party).accept(NORTH, small.clock())
        events = [json.loads(data) for _, data in party.ports.log.events()]
        (event,) = [e for e in events if e["type"] == "operator.heads-accepted"]
        assert (event["site"], event["count"], event["head"]) == (NORTH, 1, known.at(1).hex())
        assert not PeerHeads(party).accept(NORTH, small.clock())
    small.run()
    assert small.leader.durable.number("complete") == 1
    assert seen(small, EAST)[NORTH]["standing"] == "first"
    assert seen(small, EAST)[WEST]["standing"] == "continued"


@pytest.mark.parametrize("stored", [b"", bytes(7), bytes(7) + b"\x01", bytes(8) + bytes(32)])
def test_a_damaged_memory_is_not_taken_for_none(folder, stored):
    small = federation(folder, 1)
    party = Party(Address(LEADER, "leader"), small.roster, small.ports(LEADER))
    with party.ports.store.transaction():
        party.ports.store.put("budget-heads", NORTH, stored)
    with pytest.raises(VerificationError) as caught:
        PeerHeads(party).known(PartyName(NORTH))
    assert "--accept north" in caught.value.remedy
    assert PeerHeads(party).accept(NORTH, small.clock())
    assert PeerHeads(party).known(NORTH) is None


def test_the_store_of_a_peer_that_fails_remembers_nothing(folder):
    """Memory, log and transcript are one transaction."""
    small = federation(folder, 1)
    accepts = small.deliver(small.start(), hold=Accept)
    one = accepts[0]
    site = small.read(one).sender.party
    for steps in range(4):
        small.stores[LEADER].fail_after = steps
        with pytest.raises(Exception, match="injected"):
            small.leader.receive(one, small.clock())
        small.stores[LEADER].fail_after = None
        assert PeerHeads(small.leader).known(site) is None
        assert seen(small, LEADER) == {}
    small.leader.receive(one, small.clock())
    assert PeerHeads(small.leader).known(site).count == 1
