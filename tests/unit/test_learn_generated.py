"""Generated images: reproducible, in range, of many kinds, and good enough for a prior."""

import numpy as np
import pytest

from tacit.learn.generated import generated_images
from tacit.learn.prior import PublicPrior
from tacit.learn.scattering import Scattering


def test_a_series_is_the_same_every_time_and_for_every_count():
    some = generated_images(5, 8, 12)
    assert some.shape == (5, 96)
    assert generated_images(9, 8, 12)[:5].tobytes() == some.tobytes()
    assert generated_images(5, 8, 12, seed=1).tobytes() != some.tobytes()


def test_values_are_pixels_and_few_images_are_empty():
    images = generated_images(200, 28, 28)
    assert images.min() == 0.0
    assert 0.5 < images.max() <= 1.0
    assert (images.max(axis=1) > 0.0).mean() > 0.95
    assert len(np.unique(images, axis=0)) > 190


def test_shapes_lie_around_the_middle_and_half_are_symmetric():
    images = generated_images(300, 28, 28).reshape(-1, 28, 28)
    mean = images.mean(axis=0)
    assert mean[10:18, 10:18].mean() > 3 * mean[[0, -1]].mean()
    symmetric = (images == images[:, :, ::-1]).all(axis=(1, 2)).mean()
    assert 0.35 < symmetric < 0.7


def test_no_images_are_none():
    assert generated_images(0, 8, 8).shape == (0, 64)


@pytest.mark.parametrize("bad", [(-1, 8, 8), (1, 3, 8), (1, 8, 3)])
def test_sizes_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="count"):
        generated_images(*bad)


def test_a_prior_fitted_to_them_evens_out_other_pictures():
    """Digits, the images of another world, vary more evenly under it than without it."""
    digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is an extra")
    scattering = Scattering(8, 8)
    public = scattering.apply(generated_images(1500, 8, 8))
    prior = PublicPrior.fit(public, name="generated images", rank=150, power=0.8)
    features = scattering.apply(digits.load_digits().data / 16.0)

    def effective_dimension(rows):
        moments = np.linalg.eigvalsh(rows.T @ rows)  # about zero: this is what a gradient step sees
        return moments.sum() ** 2 / (moments**2).sum()

    assert effective_dimension(prior.apply(features)) > 2 * effective_dimension(features)
