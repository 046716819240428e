"""A record's share of the integer sum is its own, and sites add up to the pool."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.learn.gradient_sum import record_sum
from tacit.learn.models import LogisticRegression
from tacit.learn.record_metrics import MetricCode
from tacit.privacy.integers import sensitivity

CASES = {
    "n": st.integers(1, 60),
    "classes": st.integers(2, 4),
    "micro_batch": st.integers(1, 20),
    "seed": st.integers(0, 2**32),
}


def setting(n, classes, micro_batch, seed, metrics=None, scale=1.0, features=6):
    """Half of the records ``scale`` times as long as usual."""
    rng = np.random.default_rng(seed)
    model = LogisticRegression(features, classes)
    theta = rng.normal(size=model.dimension)
    x, y = rng.normal(size=(n, features)), rng.integers(0, classes, n)
    x[::2] *= scale
    public = {"clip_norm": 0.5, "grid": 2.0**-24, "micro_batch": micro_batch, "metrics": metrics}

    def total(rows, chosen=None):
        chosen = np.ones(len(rows), bool) if chosen is None else chosen
        return record_sum(model, theta, x[rows], y[rows], chosen, **public)

    return rng, total


@given(**CASES, scale=st.sampled_from([1.0, 1e-300, 1e3, 1e100, 1e300, np.inf]))
@settings(max_examples=60)
def test_removing_a_record_removes_its_share(n, classes, micro_batch, seed, scale):
    rng, total = setting(n, classes, micro_batch, seed, scale=scale)
    everyone = np.arange(n)
    row = int(rng.integers(n))
    share = total(everyone[row : row + 1])
    assert (total(everyone) - total(np.delete(everyone, row)) == share).all()
    assert (total(everyone) - total(everyone, everyone != row) == share).all()
    assert sum(int(value) ** 2 for value in share) <= sensitivity(0.5, 2.0**-24) ** 2


def test_many_features_and_large_batches_keep_the_shares_apart():
    """Where a matrix library blocks and threads, and rounds a row by where it stands."""
    _, total = setting(150, 10, 128, seed=1, features=2000)
    everyone = np.arange(150)
    for row in (0, 63, 149):
        share = total(everyone[row : row + 1])
        assert share.any()
        assert (total(everyone) - total(np.delete(everyone, row)) == share).all()
        assert (total(everyone[::-1]) - total(everyone, everyone != row) == share).all()


@given(**CASES, sites=st.integers(1, 6))
@settings(max_examples=60)
def test_the_sites_add_up_to_the_pool(n, classes, micro_batch, seed, sites):
    rng, total = setting(n, classes, micro_batch, seed)
    home = rng.integers(0, sites, n)
    chosen = rng.random(n) < 0.5
    parts = [total(np.flatnonzero(home == s), chosen[home == s]) for s in range(sites)]
    pooled = total(rng.permutation(np.flatnonzero(chosen)))
    assert (sum(parts) == pooled).all()


@given(
    **CASES,
    share=st.floats(1e-3, 0.5),
    loss_bound=st.sampled_from([1e-3, 0.7, 4.0, 1e3]),
)
@settings(max_examples=60)
def test_a_row_with_metrics_keeps_the_sensitivity(n, classes, micro_batch, seed, share, loss_bound):
    code = MetricCode(clip_norm=0.5, share=share, loss_bound=loss_bound)
    rng, total = setting(n, classes, micro_batch, seed, code)
    everyone = np.arange(n)
    row = int(rng.integers(n))
    alone = total(everyone[row : row + 1])
    assert len(alone) == setting(n, classes, micro_batch, seed)[1](everyone[:1]).size + 2
    assert (total(everyone) - total(np.delete(everyone, row)) == alone).all()
    assert (total(everyone) - total(everyone, everyone != row) == alone).all()
    assert sum(int(value) ** 2 for value in alone) <= sensitivity(0.5, 2.0**-24) ** 2
    assert alone[-1] != 0
