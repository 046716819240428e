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


def setting(n, classes, micro_batch, seed, metrics=None):
    rng = np.random.default_rng(seed)
    model = LogisticRegression(6, classes)
    theta = rng.normal(size=model.dimension)
    x, y = rng.normal(size=(n, 6)), rng.integers(0, classes, n)
    public = {"clip_norm": 0.5, "grid": 2.0**-24, "micro_batch": micro_batch, "metrics": metrics}

    def total(rows, chosen=None):
        chosen = np.ones(len(rows), bool) if chosen is None else chosen
        return record_sum(model, theta, x[rows], y[rows], chosen, **public)

    return rng, total


@given(**CASES)
@settings(max_examples=60)
def test_removing_a_record_removes_its_share(n, classes, micro_batch, seed):
    rng, total = setting(n, classes, micro_batch, seed)
    everyone = np.arange(n)
    row = int(rng.integers(n))
    share = total(everyone[row : row + 1])
    assert (total(everyone) - total(np.delete(everyone, row)) == share).all()
    assert (total(everyone) - total(everyone, everyone != row) == share).all()
    assert sum(int(value) ** 2 for value in share) <= sensitivity(0.5, 2.0**-24) ** 2


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
