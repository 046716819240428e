"""Layers that stay at the sites: trained there, kept there, never in a vector."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.algebra.ring import Ring
from tacit.errors import ConfigError, DecodeError
from tacit.learn.code import LoadedModel, load_model
from tacit.learn.local import LocalSettings, local_update
from tacit.party.job import JobSpec
from tacit.party.terms import plan_for
from tacit.party.workload import Carried, TrainingData, Workload
from tacit.testing.entropy import SeededEntropy

FEATURES, RECORDS = 3, 24
JOB = {
    "version": 1,
    "name": "small",
    "purpose": "research",
    "rounds": 3,
    "model": "logistic",
    "data": {"contract": "small"},
    "evaluation": {"contract": "evaluation/contract.toml"},
    "privacy": {
        "unit": "none",
        "clip_norm": 100.0,
        "max_colluding": 0,
        "expected_units": RECORDS,
    },
    "aggregation": {"min_cohort": 3},
    "training": {
        "algorithm": "fedavg",
        "optimiser": "sgd",
        "local_epochs": 2,
        "local_batch": 4,
        "local_layers": ["bias"],
    },
}


def workload(loaded=None, **training):
    job = JobSpec.model_validate({**JOB, "training": {**JOB["training"], **training}})
    loaded = loaded or load_model("logistic", None, features=FEATURES, classes=3)
    made = Workload.build(job, loaded, 3)
    return made, plan_for(job, clients=4, helpers=4, length=made.length)


def site(seed=0):
    rng = np.random.default_rng(seed)
    return TrainingData(rng.normal(size=(RECORDS, FEATURES)) + seed, rng.integers(0, 3, RECORDS))


def update(made, plan, state, data, local=None, seed=0):
    result = made.contribution(state, data, plan, SeededEntropy(seed), Carried(local))
    return Ring(plan.ring_bits).centred(result.vector), result.carried.local


def test_only_shared_parameters_are_in_states_vectors_and_releases():
    made, plan = workload()
    whole, _ = workload(local_layers=[])
    assert (made.dimension, whole.dimension) == (9, 12)
    state = made.first(b"seed")
    vector, local = update(made, plan, state, site())
    assert len(vector) == made.length == 9 + 1
    assert len(state.theta) == len(made.released(made.step(state, vector, plan))) == 9
    assert made.state_layout.local_from_bytes(local).shape == (3,)
    assert made.layout != whole.layout


class FrozenShare:
    """A model whose shared parameter ``weight`` has no gradient, wherever its bias stands."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def mean_gradient(self, theta, x, y):
        mean = self._inner.mean_gradient(theta, x, y)
        mean[:9] = 0.0
        return mean


def test_local_layers_never_leave_the_site():
    """Only they move: the vector must be zero but for the weight, at every site and round."""
    model = load_model("logistic", None, features=FEATURES, classes=3)
    made, plan = workload(LoadedModel(FrozenShare(model.model), model.code, pinned=True))
    state = made.first(b"seed")
    kept = set()
    for seed in range(3):
        local = None
        for _ in range(2):
            vector, local = update(made, plan, state, site(seed), local)
            assert not vector[:-1].any()
            assert vector[-1]
            kept.add(local)
    assert len(kept) == 6


def test_local_layers_start_alike_and_persist_between_rounds():
    made, plan = workload()
    first = made.first(b"seed")
    vector, kept = update(made, plan, first, site())
    second = made.step(first, vector, plan)
    continued, _ = update(made, plan, second, site(), kept)
    restarted, _ = update(made, plan, second, site())
    assert (continued != restarted).any()
    assert (update(made, plan, first, site(), None, seed=3)[0] != vector).any()
    again, _ = update(made, plan, first, site(1))
    assert (made.complete(first.theta) == workload()[0].complete(first.theta)).all()
    assert (again != vector).any()


def test_one_site_alone_trains_as_if_nothing_were_kept_apart():
    """Two rounds of one site with all weight are local training that goes on."""
    made, plan = workload()
    state, local, data = made.first(b"seed"), None, site()
    parameters = made.complete(state.theta)
    settings = LocalSettings(epochs=2, batch=4, learning_rate=0.1)
    for number in range(2):
        order = SeededEntropy(number).draw(32)
        parameters = parameters + local_update(
            made.model.model, parameters, data.features, data.labels, settings, order
        )
        vector, local = update(made, plan, state, data, local, seed=number)
        state = made.step(state, vector, plan)
    assert made.complete(state.theta, local) == pytest.approx(parameters, abs=1e-4)


def test_evaluation_elsewhere_uses_the_first_values():
    made, plan = workload()
    data = site()
    state = made.first(b"seed")
    vector, local = update(made, plan, state, data)
    state = made.step(state, vector, plan)
    theta = made.complete(state.theta)
    assert not made.state_layout.local(theta).any()  # the shipped model starts at zero
    assert made.evaluate(state, data)["loss"] == made.model.model.loss(
        theta, data.features, data.labels
    )
    assert made.evaluate(state, data, local)["loss"] < made.evaluate(state, data)["loss"]


def test_a_site_that_diverges_sends_nothing_and_keeps_what_it_had():
    made, plan = workload(local_learning_rate=1e300)
    state = made.first(b"seed")
    before = made.state_layout.local_to_bytes(np.array([0.1, 0.2, 0.3]))
    huge = TrainingData(1e20 * site().features, site().labels)
    vector, kept = update(made, plan, state, huge, before)
    assert not vector.any()
    assert kept == before


def test_local_state_of_another_layout_is_refused():
    made, plan = workload()
    other, _ = workload(local_layers=["weight"])
    foreign = other.state_layout.local_to_bytes(np.zeros(9))
    for wrong in (foreign, b"", made.layout + b"\x00" * 23):
        with pytest.raises(DecodeError):
            update(made, plan, made.first(b"seed"), site(), wrong)


def test_patterns_must_fit_the_model():
    for patterns, message in (
        (["biass"], "matches no trained parameter"),
        (["*"], "nothing would be learnt"),
    ):
        with pytest.raises(ConfigError, match=message):
            workload(local_layers=patterns)


def test_local_layers_need_local_training():
    with pytest.raises(ValueError, match="local_layers needs local training"):
        workload(algorithm="sgd")


def test_group_norm_may_be_local():
    """FedBN's idea without batch statistics: scale and shift of a normalisation stay at home."""
    pytest.importorskip("torch")
    from torch import nn

    from tacit.learn.torch_model import TorchModel

    def factory():
        return nn.Sequential(nn.Linear(FEATURES, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Linear(4, 3))

    model = TorchModel(factory, features=FEATURES, classes=3)
    made, plan = workload(LoadedModel(model, b"", pinned=False), local_layers=["1.*"])
    assert made.dimension == model.dimension - 8
    state = made.first(b"seed")
    kept = [update(made, plan, state, site(seed))[1] for seed in range(2)]
    tensors = [model.tensors(made.complete(state.theta, local)) for local in (None, *kept)]
    assert tensors[0]["1.weight"].tolist() == [1.0] * 4
    assert len({each["1.bias"].tobytes() for each in tensors}) == 3
    assert len({each["0.weight"].tobytes() for each in tensors}) == 1
