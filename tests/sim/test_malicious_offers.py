"""Offers that nobody accepts, and several clients of one operator: nothing is reserved or signed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tacit.party.job import JobSpec
from tacit.testing.federation import (
    LEADER,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.testing.lies import (
    EAST,
    NORTH,
    SOUTH,
    WEST,
    Lie,
    Make,
    about_sum,
    by_name,
    client,
    forge,
    helper,
    helper_leaks_nothing,
    offer_to,
    set_limits,
    site_leaks_nothing,
    without,
)
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster, write_roster
from tacit.wire.codec import encode
from tacit.wire.envelope import (
    Envelope,
    digest,
)
from tacit.wire.messages import (
    MaskRequest,
    RoundStart,
    Upload,
)


def offer(
    *,
    job: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    parts: dict[str, bytes] | None = None,
    **manifest: Any,
) -> Make:
    """An offer that is consistent in its digests; ``plan`` changes fields of the plan's record."""

    def lie(small: SmallFederation, honest: Envelope) -> Envelope:
        spec = _job(small.job, job or {})
        record = {**small.terms.plan.to_record(), **(plan or {})}
        body = dataclasses.replace(small.offer, **{"job": spec.canonical(), **(parts or {})})
        fields = {
            "nonce": digest(repr((job, plan, parts, manifest)).encode()),
            "job": digest(body.job),
            "schema": digest(body.schema),
            "plan": canonical(record),
            **manifest,
        }
        body = dataclasses.replace(
            body, manifest=dataclasses.replace(small.offer.manifest, **fields)
        )
        run = digest(encode(body.manifest))
        header = {"run": run, "job": body.manifest.job}
        return forge(small, small.leader.address, honest.receiver, body, **header)

    return lie


def canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _job(job: JobSpec, changes: dict[str, Any]) -> JobSpec:
    content = job.model_dump(mode="python")
    for table, values in changes.items():
        content[table] = {**content[table], **values} if isinstance(values, dict) else values
    return JobSpec.model_validate(content)


# --- offers ---------------------------------------------------------------------------------------


INCONSISTENT = {
    "a job that is none": (offer(parts={"job": b"{}"}), "not a valid job"),
    "a job with a text that is no text": (
        offer(parts={"job": b'{"name":"\\ud800"}'}),
        "not a valid job",
    ),
    "a schema with a bound that no float can hold": (
        offer(
            parts={
                "schema": canonical(
                    {
                        "version": 1,
                        "features": [{"name": "size", "lower": 0, "upper": 10**400}],
                        "label": "answer",
                        "classes": ["no", "yes"],
                    }
                )
            }
        ),
        "not a canonical data schema",
    ),
    "another schema than its digest": (offer(schema=bytes(32)), "digests"),
    "the baseline for a masked job": (offer(protocol="plain/1"), "another protocol"),
    "a longer vector than the model's": (offer(length=99), "vector length"),
    "another ring width than planned": (offer(ring_bits=16), "encoding or cohort"),
    "a ring width that does not exist": (offer(ring_bits=17), "encoding or cohort"),
    "a ring that the sum does not fit": (
        offer(job={"aggregation": {"ring_bits": 16}}, plan={"ring_bits": 16}, ring_bits=16),
        "inconsistent",
    ),
    "a plan without noise for a private job": (
        offer(plan={"unit": "none", "noise_multiplier": "0.0", "max_colluding": 0}),
        "does not fit the job",
    ),
    "a plan that spends more epsilon than the job says": (
        offer(job={"privacy": {"epsilon": 0.4}}),
        "more epsilon",
    ),
    "a plan with room for a larger sum": (
        offer(plan={"units_bound": 100}),
        "does not fit the job",
    ),
    "a plan with fewer helpers than the job": (
        offer(plan={"min_helpers": 2}),
        "does not fit the job",
    ),
    "own noise that was not planned": (
        offer(job={"privacy": {"noise": "own"}}, own_noise=True),
        "does not fit the job",
    ),
    "sums of too few": (
        offer(job={"aggregation": {"min_cohort": 2}}, min_cohort=2),
        "fewer than two honest",
    ),
    "sums of more than there are": (
        offer(job={"aggregation": {"min_cohort": 5}}, min_cohort=5),
        "take part",
    ),
    "the leader as a helper": (offer(helpers=(LEADER, *SITES[1:])), "two logs, one name"),
    "a helper twice": (offer(helpers=(EAST, NORTH, EAST, WEST)), "same operator"),
    "a client twice": (offer(clients=(EAST, NORTH, NORTH, WEST)), "named twice"),
}


@pytest.fixture(scope="module")
def unoffered(folder: Path) -> SmallFederation:
    """Parties that have heard of no run."""
    return SmallFederation(folder)


@pytest.mark.parametrize(("make", "why"), INCONSISTENT.values(), ids=INCONSISTENT)
def test_nobody_answers_an_offer_of(make, why, unoffered):
    small = unoffered
    for party in (small.sites[NORTH], small.helpers[NORTH]):
        events = len(party.ports.log)
        spent = small.sites[NORTH].budget.spent("everyone")
        assert party.receive(make(small, Envelope(party.address, b"")), small.clock()) == []
        assert party.last_error.code == "offer.inconsistent"
        assert why in party.last_error.message
        assert len(party.ports.log) == events
        assert small.sites[NORTH].budget.spent("everyone") == spent


def test_the_leader_cannot_be_the_sole_helper(tmp_path):
    write_small_federation(tmp_path / "exact", job=WITHOUT_NOISE)
    small = SmallFederation(tmp_path / "exact")
    alone = {"helpers": 1, "min_helpers": 1}
    for name in (LEADER, EAST):
        for party in (small.sites[NORTH], small.helpers[NORTH]):
            lie = offer(plan=alone, helpers=(name,))(small, Envelope(party.address, b""))
            assert party.receive(lie, small.clock()) == []
            assert party.last_error.code == "offer.inconsistent"
            assert "no honest one" in party.last_error.message


OFFERS_TO_SITE = [
    Lie("model code that it does not hold", offer(code=bytes(32)), "learn.other-code"),
    Lie("a model of another layout", offer(layout=bytes(32)), "site.layout"),
    Lie("a run that it is no client of", offer(clients=(EAST, SOUTH, WEST)), "offer.client"),
    Lie(
        "a run without its own helper",
        offer(helpers=(EAST, SOUTH, WEST), plan={"helpers": 3, "min_helpers": 3}),
        "limits.own-helper",
    ),
    Lie(
        "a run that another leader signed for",
        lambda small, honest: forge(small, client(EAST), honest.receiver, small.offer),
    ),
]


@pytest.mark.parametrize(**by_name(OFFERS_TO_SITE))
def test_a_site_does_not_accept(lie, unoffered):
    site_leaks_nothing(unoffered, lie.make(unoffered, Envelope(client(NORTH), b"")), lie)


def test_a_helper_issues_no_key_for_a_run_that_it_does_not_help(unoffered):
    make = offer(helpers=(EAST, SOUTH, WEST), plan={"helpers": 3, "min_helpers": 3})
    lie = make(unoffered, Envelope(helper(NORTH), b""))
    helper_leaks_nothing(unoffered, lie, Lie("", make, "offer.helper"))


def test_a_required_helper_must_be_in_the_offer(folder):
    small = SmallFederation(folder)
    set_limits(small, required_helpers=("elsewhere",))
    lie = Lie("", offer_again, "limits.required-helpers")
    site_leaks_nothing(small, offer_to(small, client(NORTH)), lie)


def offer_again(small: SmallFederation, honest: Envelope) -> Envelope:
    return offer_to(small, honest.receiver)


# --- several clients of one operator ----------------------------------------------------------------


@pytest.fixture(scope="module")
def sybil_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """East and south are run by one operator; the helpers are of distinct ones."""
    path = tmp_path_factory.mktemp("sybil") / "small"
    write_small_federation(path, job={"aggregation": {"helpers": [EAST, NORTH, WEST]}})
    honest = Roster.load(path / "federation.toml")
    members = tuple(
        dataclasses.replace(member, operator="east-clinic") if member.name == SOUTH else member
        for member in honest.members
    )
    places = {
        member.name: path / (LEADER if member.name == LEADER else f"sites/{member.name}")
        for member in members
    }
    signers = {name: Identity.load(at / "keys" / "identity.key") for name, at in places.items()}
    write_roster(path / "federation.toml", Roster(honest.federation, members), signers)
    return path


@pytest.fixture
def sybils(sybil_folder: Path) -> SmallFederation:
    small = SmallFederation(sybil_folder)
    set_limits(small, SOUTH, require_own_helper=False)
    for name in SITES:
        set_limits(small, name, resum="never")
    return small


def test_a_helper_counts_operators_not_clients(sybils):
    request = sybils.until(MaskRequest)[NORTH]
    east, north, south, _ = sybils.read(request).body.uploads
    padded = sybils.lie(request, uploads=(east, north, south))
    helper_leaks_nothing(sybils, padded, Lie("", without(), "helper.cohort-too-small"))


def test_a_site_counts_operators_not_clients(sybils):
    start = sybils.until(RoundStart, 2)[NORTH]
    padded = about_sum(cohort=lambda small, a: a.cohort[:3])(sybils, start)
    site_leaks_nothing(sybils, padded, Lie("", without(), "chain.cohort-too-small"))


def test_the_leader_counts_operators_not_clients(sybils):
    uploads = sybils.deliver(sybils.start(), hold=Upload)
    padding = [e for e in uploads if sybils.read(e).sender.party != WEST]
    assert sybils.deliver(padding) == []
    assert sybils.leader.phase == "collecting"
    sent = sybils.leader.tick(sybils.leader.deadline)
    assert not any(isinstance(sybils.read(one).body, MaskRequest) for one in sent)
    assert sybils.leader.chain.applied == 0


def test_an_offer_counts_operators_not_clients(sybils):
    for make, why in (
        (offer(job={"aggregation": {"min_cohort": 4}}, min_cohort=4), "min_cohort is 4"),
        (offer(helpers=(EAST, NORTH, SOUTH)), "same operator"),
    ):
        site = sybils.sites[NORTH]
        assert site.receive(make(sybils, Envelope(site.address, b"")), sybils.clock()) == []
        assert why in site.last_error.message
