"""A record's share of the integer sum is its own, and sites add up to the pool."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.learn.gradient_sum import Encoding, unit_sum
from tacit.learn.models import LogisticRegression
from tacit.learn.record_metrics import MetricCode
from tacit.learn.row_code import RowCode
from tacit.privacy.integers import sensitivity

CASES = {
    "n": st.integers(1, 60),
    "classes": st.integers(2, 4),
    "micro_batch": st.integers(1, 20),
    "seed": st.integers(0, 2**32),
}


def setting(n, classes, micro_batch, seed, *, metrics=None, mode="flat", scale=1.0, features=6):
    """Half of the records ``scale`` times as long as usual."""
    rng = np.random.default_rng(seed)
    model = LogisticRegression(features, classes)
    theta = rng.normal(size=model.dimension)
    x, y = rng.normal(size=(n, features)), rng.integers(0, classes, n)
    x[::2] *= scale
    outputs = classes if classes > 2 else 1
    layers = (features * outputs, outputs)
    code = RowCode.of(0.5, mode, layers=layers, bit_share=0.05, metrics=metrics)
    encoding = Encoding(0.5, 2.0**-24, micro_batch, 0.7 if mode == "adaptive" else 1.0)

    def total(rows, chosen=None):
        chosen = np.ones(len(rows), bool) if chosen is None else chosen
        groups = np.where(chosen, np.arange(len(rows)), -1)[:, None]
        return unit_sum(model, theta, (x[rows], y[rows]), groups, code, encoding)

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
    rng, total = setting(n, classes, micro_batch, seed, metrics=code)
    everyone = np.arange(n)
    row = int(rng.integers(n))
    alone = total(everyone[row : row + 1])
    assert len(alone) == setting(n, classes, micro_batch, seed)[1](everyone[:1]).size + 2
    assert (total(everyone) - total(np.delete(everyone, row)) == alone).all()
    assert (total(everyone) - total(everyone, everyone != row) == alone).all()
    assert sum(int(value) ** 2 for value in alone) <= sensitivity(0.5, 2.0**-24) ** 2
    assert alone[-1] != 0


@given(**CASES, mode=st.sampled_from(["per-layer", "adaptive", "normalised"]))
@settings(max_examples=60)
def test_no_way_of_clipping_exceeds_the_sensitivity(n, classes, micro_batch, seed, mode):
    rng, total = setting(n, classes, micro_batch, seed, mode=mode)
    everyone = np.arange(n)
    row = int(rng.integers(n))
    alone = total(everyone[row : row + 1])
    assert (total(everyone) - total(np.delete(everyone, row)) == alone).all()
    assert sum(int(value) ** 2 for value in alone) <= sensitivity(0.5, 2.0**-24) ** 2


def entity_total(seed, micro_batch, metrics=None):
    """The sum over whole entities, as a function of which of them are there."""
    rng = np.random.default_rng(seed)
    model = LogisticRegression(4, 3)
    theta = rng.normal(size=model.dimension)
    owner = np.sort(rng.integers(0, 7, 30))
    x, y = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    x[owner == 3] *= 1e3  # one of them has long gradients, and many of them would add up
    encoding = Encoding(0.5, 2.0**-24, micro_batch)

    def total(present, cap=4):
        rows = np.flatnonzero(np.isin(owner, present))
        entities = np.unique(owner[rows], return_inverse=True)[1]
        groups = np.full((len(np.unique(owner[rows])), cap), -1)
        for entity in range(len(groups)):
            own = np.flatnonzero(entities == entity)[:cap]
            groups[entity, : len(own)] = own
        code = RowCode.of(0.5, metrics=metrics)
        return unit_sum(model, theta, (x[rows], y[rows]), groups, code, encoding)

    return rng, np.unique(owner), total


@given(seed=st.integers(0, 2**32), micro_batch=st.integers(1, 5), share=st.sampled_from([0, 0.2]))
@settings(max_examples=60)
def test_removing_an_entity_removes_its_share(seed, micro_batch, share):
    metrics = MetricCode(0.5, share, 4.0) if share else None
    rng, entities, total = entity_total(seed, micro_batch, metrics)
    gone = int(rng.choice(entities))
    alone = total([gone])
    others = [entity for entity in entities if entity != gone]
    assert (total(list(entities)) - total(others) == alone).all()
    assert sum(int(value) ** 2 for value in alone) <= sensitivity(0.5, 2.0**-24) ** 2
    assert alone.any()


def test_an_entity_counts_as_the_mean_of_its_records():
    model = LogisticRegression(2, 2)
    theta = np.array([0.3, -0.2, 0.1])
    x, y = np.array([[0.1, 0.2], [0.3, -0.1], [0.2, 0.2]]), np.array([0, 1, 1])
    groups = np.array([[0, 1, 2], [-1, -1, -1]])
    grid = 2.0**-24
    encoding = Encoding(100.0, grid, 2)
    total = unit_sum(model, theta, (x, y), groups, RowCode.of(100.0), encoding)
    expected = model.gradients(theta, x, y).mean(axis=0)
    assert np.abs(total * grid - expected).max() <= grid


def test_a_record_that_is_not_finite_silences_its_entity_and_nothing_else():
    model = LogisticRegression(2, 2)
    theta = np.zeros(3)
    x = np.array([[1.0, 0.2], [np.nan, 0.1], [0.5, 0.5]])
    records, encoding = (x, np.array([0, 1, 1])), Encoding(1.0, 2.0**-20, 4)
    both = unit_sum(model, theta, records, np.array([[0, 1], [2, -1]]), RowCode.of(1.0), encoding)
    one = unit_sum(model, theta, records, np.array([[2, -1]]), RowCode.of(1.0), encoding)
    assert (both == one).all()
    assert one.any()


def test_padding_changes_nothing_but_the_work():
    rng = np.random.default_rng(5)
    model, theta = LogisticRegression(6, 3), rng.normal(size=21)
    records = rng.normal(size=(50, 6)), rng.integers(0, 3, 50)
    groups = np.where(rng.random(50) < 0.2, np.arange(50), -1)[:, None]
    sums = [
        unit_sum(
            model, theta, records, groups, RowCode.of(0.5), Encoding(0.5, 2.0**-24, 4, 1.0, padded)
        )
        for padded in (True, False)
    ]
    assert sums[0].any()
    assert (sums[0] == sums[1]).all()
