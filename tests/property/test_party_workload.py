"""What a site contributes, and that sums over sites are sums over records."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra.ring import Ring
from tacit.learn.code import load_model
from tacit.learn.layout import Entry, Layout
from tacit.party.job import JobSpec
from tacit.party.terms import plan_for
from tacit.party.workload import TrainingData, Workload, first_model_seed
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import (
    JOB,
    SITES,
    WITHOUT_NOISE,
    SmallFederation,
    write_small_federation,
)
from tacit.testing.permissions import NOON, permission
from tacit.testing.sums import record_sum
from tacit.wire.messages import RoundStart, Upload

FEATURES = 3
RING = Ring(32)


@functools.lru_cache
def workload(rate, classes=2):
    job = JobSpec.model_validate({**JOB, "privacy": {**JOB["privacy"], "sampling_rate": rate}})
    made = Workload.build(
        job, load_model("logistic", None, features=FEATURES, classes=classes), classes
    )
    return made, plan_for(job, clients=4, helpers=4, length=made.length)


@st.composite
def cases(draw):
    count = draw(st.integers(1, 20))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    features = scale * generator.standard_normal((count, FEATURES))
    classes = draw(st.sampled_from([2, 3]))
    labels = generator.integers(classes, size=count)
    made, plan = workload(draw(st.sampled_from([0.5, 1.0])), classes)
    state = made.first(b"seed")
    theta = generator.standard_normal(made.dimension)
    return (
        made,
        plan,
        made.rule.start(theta if draw(st.booleans()) else state.theta),
        (
            features,
            labels,
        ),
    )


def contribution(case, rows, seed):
    made, plan, state, (features, labels) = case
    data = TrainingData(features=features[rows], labels=labels[rows])
    result = made.contribution(state, data, plan, SeededEntropy(seed))
    assert result.carried.local is None
    return result.vector


def share(case, row):
    """The encoded gradient of one record."""
    made, plan, state, (features, labels) = case
    return record_sum(
        made.model.model,
        state.theta,
        features[row : row + 1],
        labels[row : row + 1],
        np.array([True]),
        clip_norm=plan.clip_norm,
        grid=plan.grid,
        micro_batch=3,
    )


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 1000), st.data())
def test_removing_a_record_removes_its_share(case, seed, data):
    """From any sample that holds it; the others' draws of the stream must stay the same."""
    every, always = np.arange(len(case[3][1])), case[1].sampling_rate == 1.0
    gone = data.draw(st.sampled_from(every)) if always else every[-1]
    whole = contribution(case, every, seed)
    RING.subtract_into(whole, contribution(case, np.delete(every, gone), seed))
    difference, alone = RING.centred(whole), share(case, gone)
    assert (difference == alone).all() or (not always and not difference.any())
    assert (alone.astype(object) ** 2).sum() <= case[1].sensitivity ** 2


def test_poisson_samples_differ_between_rounds():
    """The test above would hold too if a record were never or always in the sample."""
    made, plan = workload(0.5)
    data = TrainingData(np.ones((40, FEATURES)), np.zeros(40, dtype=np.int64))
    entropy = SeededEntropy(1)
    sums = {
        made.contribution(made.first(b""), data, plan, entropy).vector.tobytes() for _ in range(5)
    }
    assert len(sums) > 1


def exact(tmp_path):
    write_small_federation(tmp_path / "small", job=WITHOUT_NOISE)
    return SmallFederation(tmp_path / "small")


def read_small(small, name):
    source = small.folders[name].sources["small"]
    return source.read(permission(source.contract), NOON)


def site_data(small, name):
    return small.workload.prepare(read_small(small, name))


def pooled(small, names):
    parts = [site_data(small, name) for name in names]
    return TrainingData(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def aggregate(small, number):
    return np.frombuffer(small.leader.transcript.get_round(number, "aggregate.bin"), dtype="<u4")


def test_removing_a_site_removes_exactly_its_contribution(tmp_path):
    everyone = exact(tmp_path)
    everyone.run()
    for gone in SITES:
        fewer = SmallFederation(everyone.folder)
        held = fewer.deliver(fewer.start(), hold=Upload)
        fewer.deliver([e for e in held if fewer.read(e).sender.party != gone], hold=Upload)
        fewer.deliver(fewer.leader.tick(fewer.leader.deadline), hold=Upload)
        state = fewer.workload.first(
            first_model_seed([(n, a.body.nonce) for n, a in fewer.leader._accepts.items()])
        )
        own = fewer.workload.contribution(
            state, site_data(fewer, gone), fewer.terms.plan, SeededEntropy(0)
        ).vector
        difference = aggregate(everyone, 1).copy()
        RING.subtract_into(difference, aggregate(fewer, 1).copy())
        assert own.any()
        assert (difference == own).all()


@pytest.mark.parametrize("micro_batch", [1, 5, 8, 64])
def test_federated_sum_is_the_pooled_one_bit_for_bit(tmp_path, micro_batch):
    job = {**WITHOUT_NOISE, "training": {"micro_batch": micro_batch}}
    write_small_federation(tmp_path / "small", job=job)
    small = SmallFederation(tmp_path / "small")
    small.run()
    data, plan, made = pooled(small, SITES), small.terms.plan, small.workload
    seed = first_model_seed([(n, a.body.nonce) for n, a in small.leader._accepts.items()])
    state = made.first(seed)
    for number in (1, 2, 3):
        total = made.contribution(state, data, plan, SeededEntropy(0)).vector
        assert (aggregate(small, number) == total).all()
        state = made.step(state, RING.centred(total), plan)
    assert state.to_bytes() == small.leader.model.to_bytes()
    for site in small.sites.values():
        assert site.state(small.terms.run_id).get("model") == state.to_bytes()


class OtherConstants:
    """The leader's model but for one constant that the sites hold besides."""

    def __init__(self, inner):
        self._inner = inner
        extra = Entry("table", (2,), "int64", "constant", content=bytes(32))
        self.layout = Layout((*inner.layout.entries, extra))

    def __getattr__(self, name):
        return getattr(self._inner, name)


class Drifted(SmallFederation):
    """Sites load the very code of the run, and their libraries make other constants of it."""

    def load_model(self, job, schema, code=None):
        loaded = super().load_model(job, schema, code)
        if code is None:
            return loaded
        return dataclasses.replace(loaded, model=OtherConstants(loaded.model))


def test_a_site_with_other_constants_takes_no_part(tmp_path):
    write_small_federation(tmp_path / "small")
    small = Drifted(tmp_path / "small")
    small.run()
    assert "site.layout" in small.leader.failure.message
    assert all(
        not site.state(small.terms.run_id).number("uploads") for site in small.sites.values()
    )


LOCAL_LAYERS = {
    **WITHOUT_NOISE,
    "training": {
        "algorithm": "fedavg",
        "optimiser": "sgd",
        "micro_batch": 8,
        "average_from": 1.0,
        "local_layers": ["bias"],
        "metrics_share": 0.1,
    },
}


@pytest.mark.parametrize("bits", [16, 32])
def test_local_layers_differ_between_sites_and_travel_in_no_message(tmp_path, bits):
    job = {
        **LOCAL_LAYERS,
        "privacy": {**WITHOUT_NOISE["privacy"], "clip_norm": 4.0},
        "aggregation": {"min_cohort": 3, "ring_bits": bits},
    }
    write_small_federation(tmp_path / "small", job=job)
    small = SmallFederation(tmp_path / "small")
    held = small.until(RoundStart, round_number=3)
    assert len(held) == len(SITES)
    kept = {small.sites[name].state(small.terms.run_id).get("local") for name in SITES}
    assert len(kept) == len(SITES)
    assert all(len(local) == 32 + 8 for local in kept)
    assert len(small.leader.model.theta) == 2
    small.deliver(held.values())
    assert small.leader.durable.number("complete")
    assert len(small.workload.released(small.leader.model)) == 2
