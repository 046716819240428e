"""Training metrics inside the vector: exact rows, right decoding, honest noise, nothing when off."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra.ring import Ring
from tacit.errors import ConfigError
from tacit.learn.code import load_model
from tacit.party.coordinates import Coordinates, rotation_seed
from tacit.party.job import JobSpec
from tacit.party.terms import plan_for
from tacit.party.workload import TrainingData, Workload
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sums import record_sum

FEATURES = 3
RECORDS = 30
LOSS_BOUND = 1.5
HELPERS = 4
BASE = {
    "version": 1,
    "name": "small",
    "purpose": "research",
    "rounds": 3,
    "model": "logistic",
    "data": {"contract": "small"},
    "evaluation": {"contract": "evaluation/contract.toml"},
    "aggregation": {"min_cohort": 3},
}
RECORD = {"epsilon": 4.0, "sampling_rate": 1.0, "expected_units": RECORDS}
EXACT = {"unit": "none", "clip_norm": 100.0, "sampling_rate": 1.0, "max_colluding": 0}
FEDAVG = {"algorithm": "fedavg", "local_epochs": 2, "local_batch": 4}


@functools.lru_cache
def made(share=0.1, algorithm="sgd", rate=1.0, unit="record", bits=32, clip=None):
    privacy = {**(RECORD if unit == "record" else EXACT), "expected_units": RECORDS}
    privacy["clip_norm"] = clip or privacy.get("clip_norm", 1.0)
    job = JobSpec.model_validate(
        {
            **BASE,
            "privacy": {**privacy, "sampling_rate": rate},
            "aggregation": {"min_cohort": 3, "ring_bits": bits},
            "training": {
                **(FEDAVG if algorithm == "fedavg" else {}),
                "micro_batch": 8,
                "metrics_share": share,
                "loss_bound": LOSS_BOUND,
            },
        }
    )
    workload = Workload.build(job, load_model("logistic", None, features=FEATURES, classes=3), 3)
    return workload, plan_for(job, clients=4, helpers=HELPERS, length=workload.length)


def setting(seed, count=RECORDS):
    rng = np.random.default_rng(seed)
    data = TrainingData(rng.normal(size=(count, FEATURES)), rng.integers(0, 3, count))
    workload, _ = made()
    return rng, workload.rule.start(rng.normal(size=workload.dimension)), data


def contribution(workload, state, data, plan, seed=0):
    result = workload.contribution(state, data, plan, SeededEntropy(seed))
    assert result.carried.local is None
    return Ring(plan.ring_bits).centred(result.vector)


def rows_of(data, rows):
    return TrainingData(data.features[rows], data.labels[rows])


def expected(workload, state, data):
    """Mean clipped loss and accuracy, straight from the model."""
    model = workload.model.model
    losses = [
        model.loss(state.theta, data.features[i : i + 1], data.labels[i : i + 1])
        for i in range(len(data.labels))
    ]
    right = model.scores(state.theta, data.features).argmax(axis=1) == data.labels
    return np.minimum(losses, LOSS_BOUND).mean(), right.mean()


@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.01, 0.1, 0.5]),
    count=st.integers(1, RECORDS),
    unit=st.sampled_from(["record", "none"]),
)
@settings(max_examples=40, deadline=None)
def test_removing_a_record_removes_its_row(seed, share, count, unit):
    workload, plan = made(share, unit=unit)
    rng, state, data = setting(seed, count)
    gone = int(rng.integers(count))
    everyone = contribution(workload, state, data, plan)
    fewer = contribution(workload, state, rows_of(data, np.delete(np.arange(count), gone)), plan)
    alone = contribution(workload, state, rows_of(data, [gone]), plan)
    assert (everyone - fewer == alone).all()
    assert alone[-2:].all()
    assert sum(int(value) ** 2 for value in alone) <= plan.sensitivity**2


@given(seed=st.integers(0, 2**32), unit=st.sampled_from(["record", "none"]))
@settings(max_examples=20, deadline=None)
def test_without_noise_the_metrics_are_those_of_the_records(seed, unit):
    workload, plan = made(unit=unit)
    _, state, data = setting(seed)
    total = contribution(workload, state, data, plan)
    metrics = workload.metrics(state, total, plan, HELPERS)
    loss, accuracy = expected(workload, state, data)
    assert metrics["train_loss"] == pytest.approx(loss, abs=1e-5)
    assert metrics["train_accuracy"] == pytest.approx(accuracy, abs=1e-5)
    assert (metrics["train_loss_std"] > 0) == (unit == "record")


@pytest.mark.parametrize("present", [HELPERS])
def test_the_stated_deviation_is_that_of_the_noise(present):
    workload, plan = made()
    rng, state, data = setting(0)
    total = contribution(workload, state, data, plan)
    exact = workload.metrics(state, total, plan, present)
    scale = plan.total_variance(present) ** 0.5
    drawn = [
        workload.metrics(
            state,
            total + np.rint(scale * rng.normal(size=len(total))).astype(np.int64),
            plan,
            present,
        )
        for _ in range(2000)
    ]
    for name in ("train_loss", "train_accuracy"):
        spread = np.std([metrics[name] for metrics in drawn])
        assert spread == pytest.approx(exact[f"{name}_std"], rel=0.1)
        mean = np.mean([metrics[name] for metrics in drawn])
        assert mean == pytest.approx(exact[name], abs=5 * spread / 2000**0.5)


def test_weighted_means_of_sites_are_means_over_records():
    workload, plan = made(algorithm="fedavg", unit="none")
    _, state, data = setting(1)
    parts = [np.arange(0, 5), np.arange(5, RECORDS)]
    total = sum(contribution(workload, state, rows_of(data, part), plan) for part in parts)
    metrics = workload.metrics(state, total, plan, HELPERS)
    loss, accuracy = expected(workload, state, data)
    assert metrics["train_loss"] == pytest.approx(loss, abs=1e-4)
    assert metrics["train_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert metrics["train_loss_std"] == metrics["train_accuracy_std"] == 0.0


def test_one_record_without_a_loss_does_not_silence_a_site():
    workload, plan = made(algorithm="fedavg", unit="none")
    _, state, data = setting(1)
    data.features[3, 1] = np.nan
    metrics = workload.metrics(state, contribution(workload, state, data, plan), plan, HELPERS)
    rest = rows_of(data, np.arange(RECORDS) != 3)
    loss, _ = expected(workload, state, rest)
    exact = (loss * (RECORDS - 1) + LOSS_BOUND) / RECORDS
    assert metrics["train_loss"] == pytest.approx(exact, abs=1e-4)


def test_an_empty_sum_tells_no_weighted_mean():
    workload, plan = made(algorithm="fedavg", unit="none")
    _, state, _ = setting(1)
    assert workload.metrics(state, np.zeros(workload.length, np.int64), plan, HELPERS) == {}


@pytest.mark.parametrize(("algorithm", "unit"), [("sgd", "record"), ("fedavg", "none")])
def test_the_step_ignores_the_metrics(algorithm, unit):
    workload, plan = made(algorithm=algorithm, unit=unit)
    _, state, data = setting(2)
    total = contribution(workload, state, data, plan)
    other = total.copy()
    other[-2:] = 12345
    assert workload.step(state, total, plan).digest == workload.step(state, other, plan).digest
    gradient = workload.coordinates.gradient(total, plan, state)
    assert gradient.any()
    assert workload.step(state, total, plan).digest == workload.rule.step(state, gradient).digest


@pytest.mark.parametrize(("algorithm", "extra"), [("sgd", 0), ("fedavg", 1)])
def test_metrics_take_two_coordinates_and_none_when_off(algorithm, extra):
    unit = "none" if algorithm == "fedavg" else "record"
    on, _ = made(algorithm=algorithm, unit=unit)
    off, plan = made(0.0, algorithm=algorithm, unit=unit)
    assert (off.length, on.length) == (12 + extra, 12 + extra + 2)
    assert Coordinates.of(off.job, 7, 3).length == 7 + extra
    _, state, data = setting(3)
    total = contribution(off, state, data, plan)
    assert len(total) == off.length
    assert off.metrics(state, total, plan, HELPERS) == {}


def test_without_metrics_the_vector_is_the_gradient_sum():
    workload, plan = made(0.0)
    _, state, data = setting(4)
    plain = record_sum(
        workload.model.model,
        state.theta,
        data.features,
        data.labels,
        np.ones(RECORDS, bool),
        clip_norm=plan.clip_norm,
        grid=plan.grid,
        micro_batch=8,
    )
    assert (contribution(workload, state, data, plan) == plain).all()


def test_metrics_cost_the_gradient_its_part_of_the_norm():
    on, plan = made(0.5)
    _, state, data = setting(5)
    large = TrainingData(1e6 * data.features, data.labels)
    for row in range(5):
        total = contribution(on, state, rows_of(large, [row]), plan) * plan.grid
        assert np.linalg.norm(total[:-2]) <= plan.clip_norm * 0.5**0.5 * (1 + 1e-6)
        assert np.linalg.norm(total[-2:]) <= plan.clip_norm * 0.5**0.5 * (1 + 1e-6)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_every_width_carries_the_weighted_mean(bits, share):
    """Sums over four sites in the narrow ring, read back as the update of exact arithmetic."""
    workload, plan = made(share, algorithm="fedavg", unit="none", bits=bits, clip=2.0)
    exact, fine = made(share, algorithm="fedavg", unit="none", clip=2.0)
    _, state, data = setting(6)
    ring, parts = Ring(bits), np.array_split(np.arange(RECORDS), 4)
    vectors = [
        workload.contribution(state, rows_of(data, part), plan, SeededEntropy(number)).vector
        for number, part in enumerate(parts)
    ]
    assert all(vector.dtype == ring.dtype and len(vector) == workload.length for vector in vectors)
    total = ring.centred(ring.sum(vectors, workload.length))
    norm = np.linalg.norm(total.astype(float))
    assert 0 < norm <= plan.aggregate_norm_bound(workload.length)
    wide = sum(
        contribution(exact, state, rows_of(data, part), fine, number)
        for number, part in enumerate(parts)
    )
    ours = workload.coordinates.gradient(total, plan, state)
    theirs = exact.coordinates.gradient(wide, fine, state)
    # Four roundings by less than a unit each, in the mean and in the weights, which add up to one.
    assert ours == pytest.approx(theirs, abs=8 * plan.grid)
    assert np.linalg.norm(theirs) > 16 * plan.grid
    if share:
        metrics = workload.metrics(state, total, plan, HELPERS)
        loss, accuracy = expected(workload, state, data)
        assert metrics["train_loss"] == pytest.approx(loss, abs=16 * plan.grid)
        assert metrics["train_accuracy"] == pytest.approx(accuracy, abs=16 * plan.grid)


def test_the_rotation_follows_from_the_model_alone():
    workload, plan = made(0.0, algorithm="fedavg", unit="none", bits=16)
    _, state, data = setting(6)
    other = workload.rule.start(state.theta + 1.0)
    total = contribution(workload, state, data, plan)
    right = workload.coordinates.gradient(total, plan, state)
    assert right.tobytes() == workload.coordinates.gradient(total, plan, state).tobytes()
    wrong = workload.coordinates.gradient(total, plan, other)
    assert np.linalg.norm(wrong - right) > 0.5 * np.linalg.norm(right)
    assert len({rotation_seed(state), rotation_seed(other), bytes(state.digest)}) == 3


@pytest.mark.parametrize("bits", [16, 32])
def test_a_sum_of_another_length_is_refused(bits):
    workload, plan = made(0.1, algorithm="fedavg", unit="none", bits=bits)
    _, state, _ = setting(6)
    for length in (workload.length - 1, workload.length + 1):
        with pytest.raises(ValueError, match="as long as a contribution"):
            workload.coordinates.gradient(np.zeros(length, np.int64), plan, state)


@pytest.mark.parametrize(
    "change", [{"metrics_share": 0.6}, {"metrics_share": -0.1}, {"loss_bound": 0}]
)
def test_senseless_shares_are_refused_by_the_job(change):
    with pytest.raises(ValueError, match=r"metrics_share|loss_bound"):
        JobSpec.model_validate({**BASE, "privacy": RECORD, "training": change})


def test_sixteen_bits_need_whole_updates():
    job = JobSpec.model_validate(
        {
            **BASE,
            "privacy": {**EXACT, "expected_units": 30},
            "aggregation": {"min_cohort": 3, "ring_bits": 16},
        }
    )
    with pytest.raises(ConfigError) as caught:
        Workload.build(job, load_model("logistic", None, features=FEATURES, classes=3), 3)
    assert caught.value.details["key"] == "aggregation.ring_bits"
