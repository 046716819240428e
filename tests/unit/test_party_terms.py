"""Limits of a run that its leader's operator learns before anything is sent."""

from __future__ import annotations

import dataclasses

import pytest

from tacit.errors import ConfigError, RemoteProtocolError
from tacit.party.job import JobSpec
from tacit.party.terms import (
    DIGEST_BYTES,
    SEED_BYTES,
    UPLOAD_BYTES,
    Terms,
    _check_visible,
    check_sizes,
    plan_for,
)
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.trust.sealing import HpkeSealing
from tacit.wire.codec import encode
from tacit.wire.envelope import CHUNK_ELEMENTS
from tacit.wire.messages import MAX_SIGNED, MaskRequest, SealedSeed, Upload, Vector


@pytest.mark.parametrize("shape", [(10_000, 3, 10**5), (1000, 8, 10**6), (10, 3, 10**8)])
def test_ordinary_runs_fit(shape):
    check_sizes(*shape)


@pytest.mark.parametrize("shape", [(10_000, 8, 10**6), (10_000, 3, 10**8)])
def test_what_would_not_fit_is_refused(shape):
    with pytest.raises(ConfigError) as caught:
        check_sizes(*shape)
    assert caught.value.code == "job.size"
    assert "helpers" in caught.value.remedy


def test_the_bounds_are_above_what_a_real_upload_needs(tmp_path):
    write_small_federation(tmp_path / "small")
    small = SmallFederation(tmp_path / "small")
    sealed = HpkeSealing().seal(bytes(32), HpkeSealing().generate().public_key, b"")
    helpers, length = 5, 20 * CHUNK_ELEMENTS
    upload = Upload(
        context=bytes(32),
        seeds=tuple(SealedSeed("h" * 64, sealed) for _ in range(helpers)),
        vector=Vector(length, tuple(bytes(32) for _ in range(20))),
    )
    sent = small.leader.send(small.terms, small.leader.address, upload, round_number=2**31)
    bound = UPLOAD_BYTES + SEED_BYTES * helpers + DIGEST_BYTES * 20
    assert len(sent.message) <= bound <= MAX_SIGNED
    assert len(encode(MaskRequest(bytes(32), (b"k",), (sent.message,) * 50))) < 51 * bound


def test_a_leader_is_no_client_or_helper(tmp_path):
    """It would keep two logs under one name and key, and convict itself of a fork."""
    write_small_federation(tmp_path / "small")
    small = SmallFederation(tmp_path / "small")
    offer = small.offer
    both = dataclasses.replace(
        offer, manifest=dataclasses.replace(offer.manifest, leader=offer.manifest.clients[0])
    )
    with pytest.raises(RemoteProtocolError) as caught:
        Terms.of(both, small.roster)
    assert "two logs" in caught.value.message


CLIENTS = {
    "version": 1,
    "name": "many",
    "purpose": "research",
    "rounds": 150,
    "model": "logistic",
    "data": {"contract": "small"},
    "evaluation": {"contract": "evaluation/contract.toml"},
    "training": {"algorithm": "fedavg"},
}


def visible(min_cohort, *, rounds=150, **privacy):
    settings = {"unit": "client", "sampling_rate": 0.1, "expected_units": 3000, "epsilon": 3.0}
    return JobSpec.model_validate(
        {
            **CLIENTS,
            "rounds": rounds,
            "privacy": {**settings, "client_sampling": "visible", **privacy},
            "aggregation": {"min_cohort": min_cohort},
        }
    )


@pytest.mark.parametrize(
    ("operators", "job", "admitted"),
    [
        (3000, visible(100), True),
        (3000, visible(290), False),
        (3000, visible(30, max_participations=15), True),
        (3000, visible(100, max_participations=15), False),  # many have reached it at the end
        (3000, visible(3, max_participations=1), False),
        (20, visible(3, rounds=5), False),
        (20, visible(3, rounds=5, sampling_rate=1.0), True),
    ],
)
def test_visible_cohorts_must_not_become_too_small(operators, job, admitted):
    if admitted:
        _check_visible(job, operators)
        return
    with pytest.raises(ConfigError) as caught:
        _check_visible(job, operators)
    assert caught.value.code == "job.visible-sampling"


def test_a_plan_that_no_site_can_pay_for_is_refused():
    """The clients of 150 rounds in sight of the leader: without a cap epsilon is infinite."""
    with pytest.raises(ConfigError) as caught:
        plan_for(visible(100), clients=3000, helpers=10, length=100)
    assert caught.value.code == "job.price"
    capped = plan_for(visible(100, max_participations=15), clients=3000, helpers=10, length=100)
    assert 3.0 < capped.charge() < 11.0
