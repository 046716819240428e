"""Helpers leave and join between rounds; the noise follows their number."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tacit.errors import RoundAborted, TacitError
from tacit.party import helper as helper_module
from tacit.testing.federation import (
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.types import PartyName
from tacit.wire.messages import HelperKey, KeyRequest, MaskRequest, Refusal, RoundStart, Upload

NORTH, WEST = PartyName("north"), PartyName("west")
JOB = {"rounds": 4, "aggregation": {"min_cohort": 3, "min_helpers": 3}}


@pytest.fixture
def small(tmp_path):
    write_small_federation(tmp_path / "small", job=JOB)
    made = SmallFederation(tmp_path / "small")
    for site in made.sites.values():
        limit(site, require_own_helper=False)
    return made


def limit(site, **changes):
    limits = site._setup.config.limits.model_copy(update=changes)
    site._setup.config.__dict__["limits"] = limits


def drive(small, silent, *, rounds=99):
    """Runs on while ``silent`` parties' helpers hear nothing; ends after the starts of a round."""
    queue = list(small.start()) if small.leader.deadline == 0 else []
    while small.leader.phase != "closed":
        if small.leader._work is not None and small.leader._work.number >= rounds:
            return queue
        if not queue:
            queue = list(small.leader.tick(small.leader.deadline))
            continue
        envelope = queue.pop(0)
        if envelope.receiver.role == "helper" and envelope.receiver.party in silent:
            continue
        queue += small.party(envelope.receiver).receive(envelope, small.clock())
    return []


def present(small, number):
    names = small.leader.transcript.items()
    place = f"r{number:06d}/key-"
    return [n for n in SITES if f"{place}{n}.msg" in names]


def closed(small):
    log = small.leader.ports.log.events(small.terms.run_id)
    events = [json.loads(event) for _, event in log]
    return [e["round"] for e in events if e["type"] == "aggregate.computed"]


def test_a_silent_helper_is_left_out_and_the_run_completes(small):
    drive(small, {WEST})
    assert small.leader.durable.number("complete") == 1
    assert closed(small) == [1, 2, 3, 4]
    assert present(small, 1) == [n for n in SITES if n != WEST]


def test_a_helper_that_falls_silent_costs_one_round(small):
    queue = drive(small, set(), rounds=2)
    # West dies after its key of round 2 was given out, and before it answers.
    while small.leader.phase != "closed":
        if not queue:
            queue = list(small.leader.tick(small.leader.deadline))
            continue
        envelope = queue.pop(0)
        if envelope.receiver.role != "helper" or envelope.receiver.party != WEST:
            queue += small.party(envelope.receiver).receive(envelope, small.clock())
    assert closed(small) == [1, 3, 4]
    assert WEST not in present(small, 3)


def test_a_helper_that_comes_back_joins_at_the_next_start(small):
    queue = drive(small, {WEST}, rounds=2)
    while small.leader.phase != "closed":
        if not queue:
            queue = list(small.leader.tick(small.leader.deadline))
            continue
        envelope = queue.pop(0)
        queue += small.party(envelope.receiver).receive(envelope, small.clock())
    assert closed(small) == [1, 2, 3, 4]
    assert WEST not in present(small, 2)
    assert present(small, 3) == list(SITES)


def test_too_few_helpers_end_the_run(small):
    drive(small, {WEST, NORTH})
    assert isinstance(small.leader.failure, RoundAborted)
    assert small.leader.failure.code == "run.no-answer"
    assert {"north", "west"} <= set(small.leader.failure.message.replace(",", "").split())


@pytest.mark.parametrize("gone", [set(), {WEST}], ids=["four", "three"])
def test_the_noise_share_grows_when_fewer_helpers_are_present(small, gone, monkeypatch):
    asked = []
    real = helper_module.noise_blocks

    def spy(variance, *rest):
        asked.append(variance)
        return real(variance, *rest)

    monkeypatch.setattr(helper_module, "noise_blocks", spy)
    drive(small, gone)
    plan, count = small.terms.plan, len(SITES) - len(gone)
    assert set(asked) == {plan.share_variance(count)}
    honest = count - plan.max_colluding
    # Whoever is missing: what is left when max_colluding shares are known is the planned noise.
    assert honest * plan.share_variance(count) >= 0.999 * (len(SITES) - 1) * plan.share_variance(4)


def start_without(small, name):
    start = small.until(RoundStart)[NORTH]
    keys = [
        k for k in small.read(start).body.keys if small.leader.open_copy(k).sender.party != name
    ]
    return small.lie(start, keys=tuple(keys))


@pytest.mark.parametrize(
    ("limits", "missing", "code"),
    [
        ({"require_own_helper": True}, NORTH, "limits.own-helper"),
        ({"required_helpers": ("west",)}, WEST, "limits.required-helpers"),
    ],
)
def test_a_site_insists_on_its_helpers_in_every_round(small, limits, missing, code):
    start = start_without(small, missing)
    limit(small.sites[NORTH], **limits)
    (refusal,) = small.sites[NORTH].receive(start, small.clock())
    assert small.read(refusal).body == Refusal(code=code, culprit="")
    assert small.sites[NORTH].state(small.terms.run_id).number("uploads") == 0


def test_a_site_without_such_a_limit_trains_with_fewer(small):
    (upload,) = small.sites[NORTH].receive(start_without(small, WEST), small.clock())
    body = small.read(upload).body
    assert isinstance(body, Upload)
    assert [seed.helper for seed in body.seeds] == [n for n in SITES if n != WEST]


def test_fewer_helpers_than_the_plan_needs_are_refused(small):
    start = small.until(RoundStart)[NORTH]
    keys = small.read(start).body.keys
    (refusal,) = small.sites[NORTH].receive(small.lie(start, keys=keys[:2]), small.clock())
    assert small.read(refusal).body.code == "round.helpers"


def test_a_mask_request_that_hides_a_helper_is_refused(small):
    """Fewer keys mean another context: none of the uploads was made for it."""
    request = small.until(MaskRequest)[NORTH]
    keys = small.read(request).body.keys
    (refusal,) = small.helpers[NORTH].receive(small.lie(request, keys=keys[:3]), small.clock())
    assert small.read(refusal).body.code == "helper.context"


def test_an_expired_key_is_erased_and_answers_nothing(small):
    request = small.until(MaskRequest)[NORTH]
    helper, opener = small.helpers[NORTH], small.helpers[NORTH]._keys[small.terms.run].opener
    small.clock.advance(3 * small.terms.phase - 1)
    helper.tick(small.clock())
    assert helper._keys
    small.clock.advance(1)
    made = helper.receive(request, small.clock())
    assert [small.read(one).body.code for one in made] == ["helper.no-key"]
    assert opener._private is None
    ask = small.leader.send(small.terms, helper.address, KeyRequest("test"), round_number=2)
    (key,) = helper.receive(ask, small.clock())
    assert isinstance(small.read(key).body, HelperKey)
    assert helper._keys[small.terms.run].round == 2


def test_without_noise_two_rounds_must_share_a_helper_that_the_site_trusts(tmp_path):
    """Four helpers, three present: two rounds share two, of whom the site expects one to collude."""
    aggregation = {"min_cohort": 4, "min_helpers": 3}
    job = {"privacy": WITHOUT_NOISE["privacy"], "aggregation": aggregation}
    write_small_federation(tmp_path / "small", job=job)
    made = SmallFederation(tmp_path / "small")
    limit(made.sites[NORTH], max_colluding_helpers=2)
    made.run()
    assert made.sites[NORTH].last_error.code == "limits.helper-overlap"
    again = SmallFederation(tmp_path / "small", seed="another")
    again.run()
    assert again.leader.durable.number("complete") == 1


def test_more_helpers_than_there_are_cannot_be_required(tmp_path):
    aggregation = {"min_cohort": 3, "min_helpers": 5}
    write_small_federation(tmp_path / "small", job={"aggregation": aggregation})
    with pytest.raises(TacitError) as caught:
        SmallFederation(tmp_path / "small")
    assert "min_helpers" in str(caught.value)


def test_a_look_is_drawn_among_operators_not_clients(tmp_path):
    """One operator's many clients thin nobody's coin out: 2 ** 64 / 2 is due, of two operators."""
    write_small_federation(tmp_path / "small", job={"privacy": {"sampling_rate": 1.0}})
    made = SmallFederation(tmp_path / "small")
    start, site = made.until(RoundStart, 2)[NORTH], made.sites[NORTH]
    roster = type(site.roster)
    drawn = (2**63 - 1).to_bytes(8, "big")

    class TwoOperators(roster):
        def operators(self, names):
            return frozenset(list(super().operators(names))[:2])

    aggregate = made.read(start).body.previous
    entropy = dataclasses.replace(site.ports, entropy=Fixed(drawn))
    site.ports, site.roster = entropy, TwoOperators(site.roster.federation, site.roster.members)
    assert site._looks.owed(made.terms, aggregate, "sampled", made.clock()) is not None
    site.ports = dataclasses.replace(site.ports, entropy=Fixed((2**63).to_bytes(8, "big")))
    with site.ports.store.transaction():
        site.state(made.terms.run_id).delete("readd-owed")
        site.state(made.terms.run_id).delete("readd")
    assert site._looks.owed(made.terms, aggregate, "sampled", made.clock()) is None


class Fixed:
    """Entropy that gives the same bytes."""

    def __init__(self, data):
        self.data = data

    def draw(self, size):
        return self.data[:size]
