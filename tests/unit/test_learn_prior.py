"""Public prior: what the map does, and what is refused."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save

from tacit.errors import DecodeError
from tacit.learn.prior import LARGEST_MASS, RIDGE, PublicPrior


def public(n=4000):
    """Five features of variances 0.04 to 0.0004 and means 0.1, turned by 30 degrees in a plane."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (n, 5)) * np.sqrt(3 * np.array([0.04, 0.02, 0.01, 0.002, 0.0004]))
    turn = np.eye(5)
    turn[:2, :2] = [[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]]
    return rows @ turn + 0.1


def fit(rank=3, power=1.0):
    return PublicPrior.fit(public(), name="turned boxes", rank=rank, power=power)


def unscaled(prior, rows):
    """What comes before the norm, in arbitrary units."""
    return (rows * 2**22) @ prior.matrix - prior.offset


def test_the_largest_axes_come_first_and_are_uncorrelated():
    rows = unscaled(fit(power=0.0), public())
    covariance = np.cov(rows.T)
    ratios = np.diag(covariance) / covariance[0, 0]
    assert ratios == pytest.approx([1.0, 0.5, 0.25], rel=0.1)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-6 * covariance[0, 0]


def test_power_one_evens_the_axes_out():
    covariance = np.cov(unscaled(fit(power=1.0), public()).T)
    variances = np.linalg.eigvalsh(np.cov(public().T, bias=True))[::-1][:3]
    expected = variances / (variances + RIDGE)
    diagonal = np.diag(covariance) / covariance[0, 0]
    assert diagonal == pytest.approx(expected / expected[0], rel=1e-6)


def test_the_public_mean_becomes_zero():
    prior = fit()
    rows = unscaled(prior, public())
    assert np.abs(rows.mean(axis=0)).max() < 1e-5 * np.abs(rows).max()
    on_the_grid = np.rint(public().mean(axis=0) * 2**22) / 2**22
    assert not prior.apply(on_the_grid[None]).any()


def test_records_have_unit_norm():
    rows = fit().apply(public(50))
    assert rows.shape == (50, 3)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(50), abs=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 0.0


def test_an_empty_batch_gives_no_rows():
    assert fit().apply(np.zeros((0, 5))).shape == (0, 3)


def test_values_out_of_range_count_as_the_nearer_end():
    wild = np.array([[np.inf, -np.inf, np.nan, 7.0, -1.5]])
    tame = np.array([[1.0, -1.0, 0.0, 1.0, -1.0]])
    assert fit().apply(wild).tobytes() == fit().apply(tame).tobytes()


def test_the_digest_names_the_prior():
    one = fit()
    assert one.digest == fit().digest
    others = [fit(rank=2), fit(power=0.5), dataclasses.replace(one, name="other boxes")]
    assert len({one.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize(("rank", "power"), [(0, 1.0), (6, 1.0), (3, -0.1), (3, 2.1), (3, np.nan)])
def test_a_rank_or_power_out_of_range_is_refused(rank, power):
    with pytest.raises(ValueError, match="rank"):
        fit(rank, power)


@pytest.mark.parametrize("bad", [1.1, np.nan, np.inf])
def test_public_features_out_of_range_are_refused(bad):
    rows = public(10)
    rows[3, 2] = bad
    with pytest.raises(ValueError, match="features"):
        PublicPrior.fit(rows, name="boxes", rank=1, power=1.0)


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="5"):
        fit().apply(np.zeros((2, 4)))


MATRIX = np.ones((4, 2), dtype=np.int32)
OFFSET = np.zeros(2, dtype=np.int64)


@pytest.mark.parametrize(
    ("name", "matrix", "offset"),
    [
        ("", MATRIX, OFFSET),
        ("two\nlines", MATRIX, OFFSET),
        ("x" * 201, MATRIX, OFFSET),
        ("n", MATRIX.astype(np.int64), OFFSET),
        ("n", MATRIX[0], OFFSET),
        ("n", MATRIX[:0], OFFSET),
        ("n", MATRIX, OFFSET[:1]),
        ("n", MATRIX, OFFSET.astype(np.float64)),
        ("n", MATRIX * np.int32(LARGEST_MASS // 4 + 1), OFFSET),
        ("n", MATRIX, OFFSET + LARGEST_MASS * 2**22 + 1),
        ("n", np.full((4, 2), -(2**31), dtype=np.int32), OFFSET),
    ],
)
def test_what_is_no_prior_is_refused(name, matrix, offset):
    with pytest.raises(ValueError, match="prior"):
        PublicPrior(name, matrix, offset)


def encoded(**changes):
    tensors = {"matrix": MATRIX, "offset": OFFSET, "name": np.array([110], dtype=np.uint8)}
    return save({**tensors, **changes})


def test_the_plainest_file_is_read():
    assert PublicPrior.from_bytes(encoded()).name == "n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        encoded()[:-1],
        encoded() + b"\x00",
        encoded(extra=OFFSET),
        encoded(name=np.array([255], dtype=np.uint8)),
        encoded(name=np.array([110], dtype=np.int64)),
        encoded(matrix=MATRIX.astype(np.float32)),
        encoded(matrix=MATRIX * np.int32(LARGEST_MASS)),
        encoded(offset=np.zeros(3, dtype=np.int64)),
        save({"matrix": MATRIX}),
    ],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(DecodeError) as caught:
        PublicPrior.from_bytes(data)
    assert caught.value.code == "learn.prior"
