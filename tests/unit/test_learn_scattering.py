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
    for matrix, levels in zip(scattering._operators(*size)[:5], LEVELS, strict=True):
        weights = matrix.astype(np.float64)
        assert (weights == np.rint(weights)).all()
        assert levels * np.abs(weights).sum(axis=0).max() <= EXACT


def test_sums_are_those_of_integer_arithmetic():
    rng = np.random.default_rng(0)
    for matrix, levels in zip(scattering._operators(16, 16)[:5], LEVELS, strict=True):
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


def test_every_group_is_centred_and_equal_before_sharpening():
    pooled = np.random.default_rng(2).integers(0, 2**12, (3, CHANNELS, 16)).astype(float)
    rows = scattering._normalised(pooled, np.eye(16))
    groups = rows.reshape(3, CHANNELS // scattering.GROUP, -1)
    assert np.abs(groups.sum(axis=2)).max() < 1e-4
    energy = (groups**2).sum(axis=2) * groups.shape[1]
    assert energy == pytest.approx(np.ones_like(energy), abs=1e-4)


def test_a_flat_group_is_not_blown_up():
    pooled = np.full((1, CHANNELS, 4), 100.0)
    pooled[0, ::2] += 1000.0
    pooled[0, :3] = 100.0
    pooled[0, 0, 0] = 101.0
    rows = scattering._normalised(pooled, np.eye(4)).reshape(CHANNELS // scattering.GROUP, -1)
    energy = (rows**2).sum(axis=1)
    assert 0.0 < energy[0] < 0.01 * energy[1]


def test_sharpening_undoes_most_of_the_overlap():
    bells = scattering._bells(28, scattering.CELL)
    overlap = np.kron(bells.T @ bells, bells.T @ bells)
    sharpening = scattering._sharpening((28, 28))
    after = sharpening @ overlap @ sharpening

    def spread(matrix):
        eigenvalues = np.linalg.eigvalsh(matrix)
        return eigenvalues.sum() ** 2 / (eigenvalues**2).sum()

    assert (sharpening == np.rint(sharpening)).all()
    assert np.abs(sharpening).sum(axis=0).max() <= scattering.SHARP_MASS
    assert spread(overlap) < 20
    assert spread(after) > 30


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
        == "3e0d06dbdd9850346ef0110278c78b3635303cb8333dc830801a1ca530fe8835"
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
