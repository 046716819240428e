"""Scattering features of an image depend on that image only, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.learn.scattering import BLOCK, Scattering

SIZES = st.sampled_from([(8, 8), (8, 12), (12, 8), (16, 16)])
SEEDS = st.integers(0, 2**32)


def draw(rng, n, pixels):
    """Noise, gradients, sparse and black images, some with values that are no pixels."""
    images = rng.random((n, pixels)) ** rng.integers(1, 5, (n, 1))
    images[rng.random(n) < 0.2] *= rng.random(pixels) < 0.1
    images[rng.random(n) < 0.2] = np.linspace(0.0, 1.0, pixels)
    images[rng.random(n) < 0.1] = 0.0
    images[rng.random((n, pixels)) < 0.01] = rng.choice([np.nan, np.inf, -np.inf, -1e300, 2.0])
    return images


@given(size=SIZES, n=st.integers(1, 2 * BLOCK + 2), seed=SEEDS)
@settings(max_examples=25)
def test_rows_are_independent(size, n, seed):
    rng = np.random.default_rng(seed)
    scattering = Scattering(*size)
    images = draw(rng, n, size[0] * size[1])
    together = scattering.apply(images)
    order = rng.permutation(n)[: rng.integers(1, n + 1)]
    assert scattering.apply(images[order]).tobytes() == together[order].tobytes()
    row = int(rng.integers(n))
    alone = scattering.apply(images[row : row + 1])
    assert alone.tobytes() == together[row : row + 1].tobytes()


@given(size=SIZES, seed=SEEDS)
@settings(max_examples=25)
def test_every_row_has_norm_one_or_none(size, seed):
    images = draw(np.random.default_rng(seed), 40, size[0] * size[1])
    features = Scattering(*size).apply(images)
    lengths = np.linalg.norm(features, axis=1)
    assert np.isfinite(features).all()
    assert (lengths <= 1.0 + 1e-12).all()
    assert (lengths[lengths > 0.0] >= 1.0 - 1e-12).all()


@given(seed=SEEDS)
@settings(max_examples=10)
def test_values_out_of_range_count_as_the_nearer_end(seed):
    rng = np.random.default_rng(seed)
    inside = rng.integers(0, 2, (5, 64)).astype(float)
    outside = np.where(inside > 0, rng.choice([1.5, np.inf]), rng.choice([-3.0, -np.inf, np.nan]))
    scattering = Scattering(8, 8)
    assert scattering.apply(outside).tobytes() == scattering.apply(inside).tobytes()
