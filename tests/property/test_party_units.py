"""Units of privacy other than the record: entities with several records, and whole clients."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra.ring import Ring
from tacit.errors import ConfigError
from tacit.learn.code import load_model
from tacit.party.job import JobSpec
from tacit.party.terms import plan_for
from tacit.party.workload import Carried, TrainingData, Workload
from tacit.testing.entropy import SeededEntropy

FEATURES, CLASSES, CLIENTS = 4, 3, 6
BASE = {
    "version": 1,
    "name": "small",
    "purpose": "research",
    "rounds": 8,
    "model": "logistic",
    "data": {"contract": "small"},
    "evaluation": {"contract": "evaluation/contract.toml"},
    "aggregation": {"min_cohort": 3},
}
ENTITY = {"unit": "entity", "max_records": 3, "sampling_rate": 1.0, "expected_units": 40}
CLIENT = {"unit": "client", "sampling_rate": 0.5, "expected_units": CLIENTS, "clip_norm": 0.2}
FEDAVG = {"algorithm": "fedavg", "local_epochs": 3, "local_batch": 8}


@functools.lru_cache
def made(unit, holdout=0.0, **training):
    privacy = {"entity": ENTITY, "client": CLIENT}[unit] | {"epsilon": 4.0}
    fedavg = FEDAVG if unit == "client" else {"micro_batch": 8}
    content = {**BASE, "privacy": privacy, "training": {**fedavg, **training}}
    content["evaluation"] = {**BASE["evaluation"], "holdout": holdout}
    job = JobSpec.model_validate(content)
    model = load_model("logistic", None, features=FEATURES, classes=CLASSES)
    workload = Workload.build(job, model, CLASSES)
    return workload, plan_for(job, clients=CLIENTS, helpers=4, length=workload.length)


def records(seed, count=60, owners=12):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, FEATURES)), rng.integers(0, CLASSES, count)
    return x, y, np.sort(rng.integers(0, owners, count))


def of_entities(x, y, owners, chosen):
    """The records of some entities, who keep at most as many as a round uses."""
    rows = np.flatnonzero(np.isin(owners, chosen))
    numbers = np.unique(owners[rows], return_inverse=True)[1]
    return TrainingData(x[rows], y[rows], numbers)


def total(workload, plan, data, seed=0, carried=Carried()):  # noqa: B008
    state = workload.first(bytes(32))
    result = workload.contribution(state, data, plan, SeededEntropy(seed), carried)
    return Ring(plan.ring_bits).centred(result.vector), result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["flat", "adaptive", "normalised", "per-layer"]))
def test_removing_an_entity_removes_its_share(seed, clipping):
    """Entities of at most three records, so that none of them is drawn: the rest is exact."""
    workload, plan = made("entity", clipping=clipping)
    x, y, owners = records(seed, count=30, owners=25)
    crowded = [e for e in np.unique(owners) if (owners == e).sum() > 3]
    keep = [e for e in np.unique(owners) if e not in crowded]
    gone = keep[seed % len(keep)]
    everyone, _ = total(workload, plan, of_entities(x, y, owners, keep))
    others, _ = total(workload, plan, of_entities(x, y, owners, [e for e in keep if e != gone]))
    alone, _ = total(workload, plan, of_entities(x, y, owners, [gone]))
    assert (everyone - others == alone).all()
    assert alone.any()
    assert sum(int(v) ** 2 for v in alone) <= plan.sensitivity**2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_an_entity_contributes_no_more_however_many_records_it_has(seed, count):
    workload, plan = made("entity")
    x, y, _ = records(seed, count=count)
    alone, _ = total(workload, plan, TrainingData(1e3 * x, y, np.zeros(count, dtype=np.int64)))
    assert sum(int(v) ** 2 for v in alone) <= plan.sensitivity**2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["flat", "adaptive", "normalised", "per-layer"]))
def test_a_client_contributes_its_clipped_update_or_zero(seed, clipping):
    workload, plan = made("client", clipping=clipping)
    x, y, _ = records(seed)
    vector, result = total(workload, plan, TrainingData(x, y), seed)
    assert result.sampled == vector.any()
    assert sum(int(v) ** 2 for v in vector) <= plan.sensitivity**2
    assert result.carried.participations == int(result.sampled)
    if result.sampled:
        assert sum(int(v) ** 2 for v in vector) > (plan.sensitivity / 2) ** 2


def test_a_client_is_sampled_at_the_rate_and_no_more_often_than_it_may():
    workload, plan = made("client")
    x, y, _ = records(1, count=9)
    data = TrainingData(x, y)
    sampled = [total(workload, plan, data, seed)[1].sampled for seed in range(400)]
    assert abs(np.mean(sampled) - 0.5) < 4.5 * 0.025
    job = workload.job
    capped_job = job.model_copy(
        update={"privacy": job.privacy.model_copy(update={"max_participations": 2})}
    )
    capped = Workload.build(capped_job, workload.model, CLASSES)
    plan = plan_for(capped_job, clients=CLIENTS, helpers=4, length=capped.length)
    carried, taken = Carried(), 0
    for seed in range(20):
        _, result = total(capped, plan, data, seed, carried)
        carried, taken = result.carried, taken + result.sampled
    assert taken == carried.participations == 2


def test_an_idle_client_may_rest_where_nobody_watches():
    workload, plan = made("client")
    data = TrainingData(*records(1)[:2])
    state = workload.first(bytes(32))
    for seed in range(20):
        busy = workload.contribution(state, data, plan, SeededEntropy(seed))
        lazy = workload.contribution(state, data, plan, SeededEntropy(seed), idle=False)
        assert (busy.vector == lazy.vector).all()
        assert busy.sampled == lazy.sampled


@pytest.mark.parametrize("factor", [1e9, 1e300])
def test_however_far_a_client_moves_its_update_is_clipped(factor):
    workload, plan = made("client")
    x, y, _ = records(1)
    for seed in range(8):
        vector, _ = total(workload, plan, TrainingData(factor * x, y), seed)
        assert sum(int(v) ** 2 for v in vector) <= plan.sensitivity**2


def test_the_mean_update_of_all_clients_moves_the_model():
    """Without noise the server step is the mean of clipped updates over the constant q N."""
    workload, plan = made("client")
    state = workload.first(bytes(32))
    parts = [TrainingData(*records(seed, count=20)[:2]) for seed in range(CLIENTS)]
    sums = sum(total(workload, plan, part, seed)[0] for seed, part in enumerate(parts))
    moved = workload.step(state, sums, plan).theta - state.theta
    training = workload.job.training
    expected = sums * plan.grid / (0.5 * CLIENTS) * training.learning_rate
    assert moved == pytest.approx(expected, abs=1e-12)


def test_held_out_records_are_evaluated_and_not_trained_on():
    workload, plan = made("entity", holdout=0.25)
    x, y, owners = records(5)
    trained = of_entities(x, y, owners, range(9))
    held_out = of_entities(x, y, owners, range(9, 12))
    with_held = TrainingData(trained.features, trained.labels, trained.entities, held_out)
    empty = of_entities(x, y, owners, [])
    without = TrainingData(trained.features, trained.labels, trained.entities, empty)
    both, _ = total(workload, plan, with_held)
    one, _ = total(workload, plan, without)
    d = workload.dimension
    assert len(both) == d + 3
    assert not one[d:].any()
    assert both[d:].any()
    only, _ = total(workload, plan, TrainingData(*empty.records, empty.entities, held_out))
    assert not only[:d].any()
    assert sum(int(v) ** 2 for v in only) <= (3 * plan.sensitivity) ** 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"privacy": {**ENTITY}, "training": FEDAVG}, "has no guarantee for unit 'entity'"),
        ({"privacy": {**CLIENT}}, "set training.algorithm to 'fedavg'"),
        ({"privacy": {**ENTITY, "max_participations": 2}}, "are for unit 'client'"),
        ({"privacy": {"expected_units": 4, "max_records": 2}}, "is for unit 'entity'"),
        ({"privacy": CLIENT | {"max_participations": 9}, "training": FEDAVG}, "exceeds rounds"),
        (
            {
                "privacy": CLIENT,
                "training": FEDAVG,
                "evaluation": {"contract": "e", "holdout": 0.1},
            },
            r"evaluation\.holdout needs",
        ),
        ({"evaluation": {"contract": "e", "patience": 3}}, "needs held-out records"),
    ],
)
def test_units_that_do_not_fit_are_refused(change, message):
    content = {**BASE, "privacy": {"expected_units": 40}, **change}
    with pytest.raises(ValueError, match=message):
        JobSpec.model_validate(content)


def test_sixteen_bits_have_no_room_for_a_client_with_noise():
    content = {**BASE, "privacy": CLIENT, "training": FEDAVG}
    job = JobSpec.model_validate({**content, "aggregation": {"min_cohort": 3, "ring_bits": 16}})
    with pytest.raises(ConfigError) as caught:
        plan_for(job, clients=CLIENTS, helpers=4, length=10_000)
    assert caught.value.details["key"] == "ring_bits"


def test_a_crowded_entity_does_not_change_how_others_are_computed():
    """All others have one record each: were the width theirs, they would be summed another way."""
    workload, plan = made("entity")
    x, y, _ = records(3, count=40)
    owners = np.concatenate([np.arange(37), [37, 37, 37]])
    everyone, _ = total(workload, plan, of_entities(x, y, owners, range(38)))
    others, _ = total(workload, plan, of_entities(x, y, owners, range(37)))
    alone, _ = total(workload, plan, of_entities(x, y, owners, [37]))
    assert (everyone - others == alone).all()
