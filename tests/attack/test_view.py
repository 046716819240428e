"""A recorded run opens exactly as far as an adversary's keys reach."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tacit.attack.defences import DEFENCES, adversary_of, job_for, pooled_against
from tacit.attack.scratch import DataPool, ScratchFederation, site_names
from tacit.attack.view import Adversary, look
from tacit.party.job import JobSpec
from tacit.testing.federation import write_small_federation


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack") / "federation"
    write_small_federation(folder, records=20)
    return folder


def run(place, defence, sites=4, rounds=2, **changes):
    data = DataPool.load(place / "evaluation" / "contract.toml")
    job = job_for(
        JobSpec.load(place / "job.toml"),
        defence,
        sites=sites,
        units=len(data),
        rounds=rounds,
        **changes,
    )
    holdings = np.array_split(np.arange(len(data)), sites)
    scratch = ScratchFederation(job, place, data, holdings)
    return scratch, scratch.run()


@pytest.mark.parametrize("defence", DEFENCES)
def test_every_round_is_recorded_as_it_was(place, defence):
    scratch, transcript = run(place, defence)
    assert [one.number for one in transcript.closed] == [1, 2]
    assert transcript.final.digest == scratch.leader.model.digest
    for one, after in zip(transcript.closed, transcript.states[1:], strict=True):
        stepped = scratch.workload.step(one.state, one.total, transcript.plan)
        assert stepped.digest == after.digest
        whole = sum(transcript.contribution(one, site) for site in one.cohort)
        noise = np.zeros_like(whole)
        if transcript.plan.private:
            noise = sum(transcript.noise_share(one, helper) for helper, _ in one.helper_keys)
            assert noise.any()
        assert np.array_equal(whole + noise, one.total)


def test_an_adversary_sees_no_more_than_its_keys_open(place):
    _, transcript = run(place, "tacit")
    names = site_names(4)
    leader = look(transcript, Adversary.leads(names[:3]))
    assert all(not one.contributions for one in leader.rounds)
    truth = transcript.values(transcript.contribution(transcript.closed[0], names[0]))
    ring = transcript.terms.ring
    for held in (0, 1, 3):
        seen = look(transcript, Adversary.leads(names[:held])).rounds[0]
        opened = transcript.values(ring.centred(seen.uploads[names[0]]))
        assert not np.allclose(opened, truth, atol=1e-3)
    everything = look(transcript, adversary_of("noise", names, 1))
    assert np.array_equal(everything.rounds[0].contributions[names[0]], truth)
    assert look(transcript, Adversary.observer()).models == ()
    assert len(look(transcript, Adversary.released()).models) == 1
    client = look(transcript, Adversary.client(names[0])).rounds[0]
    assert not client.uploads
    assert client.unknown == names[1:]


def test_without_any_one_helpers_key_an_upload_looks_uniform(place):
    _, transcript = run(place, "tacit", rounds=25)
    names, ring = site_names(4), transcript.terms.ring
    for missing in names:
        held = [name for name in names if name != missing]
        rest = [transcript.less_masks(one, names[0], held) for one in transcript.closed]
        top = np.concatenate(rest).astype(np.int64) >> (ring.bits - 4)
        assert stats.chisquare(np.bincount(top, minlength=16)).pvalue > 1e-6
    opened = [transcript.less_masks(one, names[0], names) for one in transcript.closed]
    top = np.concatenate(opened).astype(np.int64) >> (ring.bits - 4)
    assert stats.chisquare(np.bincount(top, minlength=16)).pvalue < 1e-12


def test_colluding_helpers_are_sites_and_no_targets():
    names = site_names(4)
    for defence in ("masking", "tacit"):
        usual = adversary_of(defence, names, 2)
        assert usual.helpers == usual.clients == {names[0], names[1]}
        elsewhere = adversary_of(defence, names, 2, targets=[names[0]])
        assert elsewhere.helpers == elsewhere.clients == {names[1], names[2]}
        everywhere = adversary_of(defence, names, 2, targets=names)
        assert len(everywhere.helpers) == 2 and not everywhere.clients
        assert "know what they contributed" in usual.name
    pooled = pooled_against(names[0], names, names, 2)
    assert pooled.helpers == {names[1], names[2]}
    assert pooled.clients == set(names[1:])
    assert pooled.name == "leader + 2 helpers + all other sites"


@pytest.mark.parametrize("defence", ["masking", "tacit"])
def test_what_colluding_sites_contributed_is_out_of_the_sum(place, defence):
    _, transcript = run(place, defence)
    names, one = site_names(4), transcript.closed[0]
    truth = {name: transcript.values(transcript.contribution(one, name)) for name in names}
    noise = {name: np.zeros_like(truth[name]) for name in names}
    if defence == "tacit":
        noise = {name: transcript.values(transcript.noise_share(one, name)) for name in names}
    (usual, *_) = look(transcript, adversary_of(defence, names, 1)).rounds
    assert usual.unknown == names[1:]
    rest = sum(truth[name] + noise[name] for name in names[1:])
    assert np.allclose(usual.total, rest, atol=1e-9)
    (pooled, *_) = look(transcript, pooled_against(names[0], names, names, 1)).rounds
    assert pooled.unknown == names[:1]
    unknown_noise = sum(noise[name] for name in names if name != names[1])
    assert np.allclose(pooled.total, truth[names[0]] + unknown_noise, atol=1e-9)


def test_own_noise_and_own_contribution_are_subtracted(place):
    _, transcript = run(place, "tacit")
    names = site_names(4)
    one = transcript.closed[0]
    seen = look(
        transcript, Adversary("all but one", helpers=frozenset(names), clients=frozenset(names[1:]))
    )
    rest = transcript.values(transcript.contribution(one, names[0]))
    assert np.allclose(seen.rounds[0].total, rest, atol=1e-12)
    assert seen.rounds[0].noise_std == 0.0
