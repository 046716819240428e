"""Scattering features: their integers, what they see, and what is refused."""

import numpy as np
import pytest

from tacit.errors import ConfigError
from tacit.learn import scattering
from tacit.learn.scattering import CHANNELS, EXACT, Scattering

LEVELS = (
    scattering.PIXEL_LEVELS,
    scattering.PIXEL_LEVELS,
    scattering.FIRST_LEVELS,
    scattering.FIRST_LEVELS,
    scattering.SECOND_LEVELS,
)


def stripes(size, vertical):
    rows, columns = np.mgrid[0:size, 0:size]
    return ((columns if vertical else rows) % 4 < 2).astype(float).reshape(1, -1)


@pytest.mark.parametrize("size", [(28, 28), (8, 12)])
def test_no_sum_can_leave_the_exact_integers(size):
    for matrix, levels in zip(scattering._operators(*size), LEVELS, strict=True):
        weights = matrix.astype(np.float64)
        assert (weights == np.rint(weights)).all()
        assert levels * np.abs(weights).sum(axis=0).max() <= EXACT


def test_sums_are_those_of_integer_arithmetic():
    rng = np.random.default_rng(0)
    for matrix, levels in zip(scattering._operators(16, 16), LEVELS, strict=True):
        values = rng.integers(0, levels + 1, (70, len(matrix)))
        values[0] = np.where(matrix[:, 0] > 0, levels, 0)  # the largest sum that there is
        exact = values @ matrix.astype(np.int64)
        assert (values.astype(np.float32) @ matrix == exact).all()


def test_pixels_are_rounded_to_levels_first():
    levels = np.random.default_rng(1).integers(1, 255, (2, 64))
    near = (levels + np.array([[0.4], [-0.4]])) / 255
    features = Scattering(8, 8).apply(near)
    assert features.tobytes() == Scattering(8, 8).apply(levels / 255).tobytes()


def test_wavelets_do_not_answer_to_a_constant():
    fine, coarse, second, *_ = scattering._operators(12, 16)
    for matrix in (fine, coarse, second):
        assert not matrix.sum(axis=0, dtype=np.float64).any()


def test_the_brightest_stripes_stay_below_the_bounds():
    black_and_white = np.concatenate([stripes(16, True), stripes(16, False)])
    levels = (black_and_white * scattering.PIXEL_LEVELS).astype(np.float32)
    pooled = scattering._pooled(levels, scattering._operators(16, 16))
    assert pooled.min() >= 0.0
    assert pooled.max() < 2**15
    assert pooled[:, 1:].max() > 2**11, "the levels are hardly used"


def test_a_channel_answers_to_its_direction():
    def channels(vertical):
        levels = (stripes(16, vertical) * scattering.PIXEL_LEVELS).astype(np.float32)
        return scattering._pooled(levels, scattering._operators(16, 16)).sum(axis=2)[0, 1:9]

    assert channels(vertical=True).argmax() == 0
    assert channels(vertical=False).argmax() == 4


def test_features_hardly_change_when_the_image_moves_by_a_pixel():
    rng = np.random.default_rng(1)
    image = np.zeros((28, 28))
    image[8:20, 8:20] = rng.random((12, 12))
    moved = np.roll(image, 1, axis=1)
    apart = rng.random((28, 28))
    rows = np.stack([image, moved, apart]).reshape(3, -1)
    features = Scattering(28, 28).apply(rows)
    assert features[0] @ features[1] > 0.95
    assert features[0] @ features[2] < 0.8


def test_every_group_is_centred():
    images = np.random.default_rng(2).random((3, 256))
    groups = Scattering(16, 16).apply(images).reshape(3, CHANNELS // scattering.GROUP, -1)
    assert np.abs(groups.sum(axis=2)).max() < 1e-12
    energy = (groups**2).sum(axis=2) * len(groups[0])
    assert energy == pytest.approx(np.ones_like(energy), abs=0.05)


def test_contrast_hardly_matters():
    images = np.random.default_rng(3).random((1, 256))
    features = Scattering(16, 16).apply(np.concatenate([images, 0.5 * images]))
    assert features[0] @ features[1] > 0.999


def test_a_black_image_has_no_features():
    assert not Scattering(8, 8).apply(np.zeros((2, 64))).any()


def test_shapes_and_types():
    assert Scattering(28, 28).dimension == 3969
    features = Scattering(8, 12).apply(np.zeros((0, 96)))
    assert features.shape == (0, 81 * 2 * 3)
    assert features.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        Scattering(8, 8).apply(np.ones((1, 64)))[0, 0] = 1.0


def test_the_features_are_the_same_on_every_machine():
    assert (
        Scattering(8, 8).digest.hex()
        == "e671671089fb9afd3f7a3ad1f87272fe3478f80f5a1e6a3161a973da225e86c4"
    )
    assert Scattering(8, 8).digest != Scattering(8, 12).digest


@pytest.mark.parametrize("size", [(27, 28), (28, 30), (4, 8), (8, 36), (0, 0), (-8, 8)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ConfigError, match="multiple of 4") as caught:
        Scattering(*size)
    assert caught.value.code == "learn.image-size"


@pytest.mark.parametrize("shape", [(3, 63), (64,), (1, 8, 8)])
def test_rows_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="64"):
        Scattering(8, 8).apply(np.zeros(shape))
