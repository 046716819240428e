"""Bitwise independence of a torch module's per-record gradients at a fixed micro-batch shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.testing.sums import record_sum

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tacit.learn.torch_model import TorchModel  # noqa: E402


def dense():
    return nn.Sequential(nn.Linear(64, 33), nn.Tanh(), nn.LayerNorm(33), nn.Linear(33, 10))


def convolution():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


MODELS = {
    name: TorchModel(factory, features=64, classes=10)
    for name, factory in (("dense", dense), ("convolution", convolution))
}
CASES = {"name": st.sampled_from(sorted(MODELS)), "seed": st.integers(0, 2**32)}


def draw(name, seed, n):
    rng = np.random.default_rng(seed)
    theta = MODELS[name].initial(seed.to_bytes(8, "big"))
    return rng, theta, rng.normal(size=(n, 64)), rng.integers(0, 10, n)


@given(**CASES, n=st.sampled_from([1, 5, 16, 33]))
@settings(max_examples=20, deadline=None)
def test_rows_are_independent(name, seed, n):
    rng, theta, x, y = draw(name, seed, n)
    model = MODELS[name]
    together = model.gradients(theta, x, y)
    order = rng.permutation(n)
    assert model.gradients(theta, x[order], y[order]).tobytes() == together[order].tobytes()
    row = int(rng.integers(n))
    others, labels = rng.normal(size=x.shape) * 50, rng.integers(0, 10, n)
    others[row], labels[row] = x[row], y[row]
    assert model.gradients(theta, others, labels)[row].tobytes() == together[row].tobytes()
    assessed = model.assess(theta, x, y)
    assert model.assess(theta, x[order], y[order]).tobytes() == assessed[order].tobytes()
    assert model.assess(theta, others, labels)[row].tobytes() == assessed[row].tobytes()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_vectorised_path_is_the_one_in_use(name):
    _, theta, x, y = draw(name, 0, 16)
    MODELS[name].gradients(theta, x, y)
    MODELS[name].assess(theta, x, y)
    assert MODELS[name]._position_free["gradients", 16]
    assert MODELS[name]._position_free["assess", 16]


@given(**CASES, n=st.integers(1, 40), sites=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_the_sites_add_up_to_the_pool(name, seed, n, sites):
    rng, theta, x, y = draw(name, seed, n)
    public = {"clip_norm": 1.0, "grid": 2.0**-24, "micro_batch": 16}

    def total(rows):
        chosen = np.ones(len(rows), bool)
        return record_sum(MODELS[name], theta, x[rows], y[rows], chosen, **public)

    home = rng.integers(0, sites, n)
    pooled = total(rng.permutation(n))
    assert (sum(total(np.flatnonzero(home == site)) for site in range(sites)) == pooled).all()
    row = int(rng.integers(n))
    rest = np.delete(np.arange(n), row)
    assert (pooled - total(rest) == total(np.array([row]))).all()
