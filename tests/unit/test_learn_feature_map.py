"""What becomes of columns before a model sees them."""

import hashlib

import numpy as np
import pytest

from tacit.errors import ConfigError, PolicyDenied
from tacit.learn.code import load_model
from tacit.learn.feature_map import FeatureMap
from tacit.learn.prior import PublicPrior
from tacit.learn.scattering import Scattering
from tacit.types import Digest

MODEL = Digest(hashlib.sha256(b"model").digest())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((40, 64))


@pytest.fixture(scope="module")
def prior(images):
    features = Scattering(8, 8).apply(images)
    return PublicPrior.fit(features, name="random images", rank=10, power=1.0)


def write(tmp_path, prior):
    path = tmp_path / "prior.safetensors"
    path.write_bytes(prior.to_bytes())
    return path


def test_without_a_map_columns_stay_and_the_code_is_the_models(images):
    nothing = FeatureMap.load("none", (28, 28), None, 64)
    assert not nothing.fixed
    assert nothing.apply(images) is images
    assert nothing.dimension(64) == 64
    assert nothing.code(MODEL) == MODEL
    assert nothing.public_data == ()


def test_scattering_then_prior(tmp_path, images, prior):
    both = FeatureMap.load("scattering", (8, 8), write(tmp_path, prior), 64)
    assert both.dimension(64) == 10
    expected = prior.apply(Scattering(8, 8).apply(images))
    assert (both.apply(images) == expected).all()
    assert both.public_data == ("random images",)


def test_every_map_has_another_code(tmp_path, prior):
    path = write(tmp_path, prior)
    codes = {
        FeatureMap.load(kind, (8, 8), file, columns).code(MODEL)
        for kind, file, columns in (
            ("none", None, 64),
            ("scattering", None, 64),
            ("scattering", path, 64),
        )
    }
    other = PublicPrior(prior.name, prior.matrix + 1, prior.offset)
    codes.add(FeatureMap(Scattering(8, 8), other).code(MODEL))
    assert len(codes) == 4


def test_a_site_with_another_prior_refuses_the_run(tmp_path, prior):
    """The digest that the offer names covers the map, so no site computes other features."""
    ours = FeatureMap(Scattering(8, 8), prior)
    theirs = FeatureMap(Scattering(8, 8), PublicPrior(prior.name, prior.matrix + 1, prior.offset))
    made = load_model("logistic", tmp_path, features=64, classes=2, feature_map=ours)
    assert made.model.dimension == 11
    assert made.feature_map is ours
    with pytest.raises(PolicyDenied):
        load_model(
            "logistic", tmp_path, features=64, classes=2, expected=made.code, feature_map=theirs
        )


def test_what_does_not_fit_is_refused_by_key(tmp_path, prior):
    path = write(tmp_path, prior)
    cases = [
        (("scattering", (8, 12), None, 64), "features.height"),
        (("none", (8, 8), path, 64), "features.prior"),
        (("scattering", (12, 12), path, 144), "features.prior"),
    ]
    for arguments, key in cases:
        with pytest.raises(ConfigError) as caught:
            FeatureMap.load(*arguments)
        assert caught.value.details["key"] == key
    with pytest.raises(ConfigError):
        FeatureMap.load("none", (8, 8), tmp_path / "missing.safetensors", 64)
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError) as caught:
        FeatureMap.load("none", (8, 8), tmp_path / "broken.safetensors", 64)
    assert "tacit prior" in caught.value.remedy
