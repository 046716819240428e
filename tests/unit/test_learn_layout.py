"""The layout of a model's state: what it covers, how vectors are taken apart, what is refused."""

import dataclasses
import hashlib

import numpy as np
import pytest

from tacit.errors import ConfigError, DecodeError
from tacit.learn.layout import Entry, Layout
from tacit.learn.models import LogisticRegression
from tacit.types import Digest

ONE, TWO = Digest(b"\x01" * 32), Digest(b"\x02" * 32)
WEIGHT = Entry("weight", (2, 3), "float32", "shared")
SCALE = Entry("norm.scale", (3,), "float32", "local")
BIAS = Entry("bias", (2,), "float32", "shared")
STEPS = Entry("steps", (), "int64", "constant", content=ONE)
LAYOUT = Layout((WEIGHT, SCALE, BIAS, STEPS))


def changed(**fields):
    return Layout((dataclasses.replace(WEIGHT, **fields), SCALE, BIAS, STEPS))


OTHERS = {
    "name": changed(name="weigth"),
    "shape": changed(shape=(3, 2)),
    "type": changed(dtype="float64"),
    "role": changed(role="local"),
    "order": Layout((BIAS, SCALE, WEIGHT, STEPS)),
    "missing": Layout((WEIGHT, SCALE, BIAS)),
    "constant": Layout((WEIGHT, SCALE, BIAS, dataclasses.replace(STEPS, content=TWO))),
    "frozen": Layout(
        (WEIGHT, SCALE, dataclasses.replace(BIAS, role="constant", content=ONE), STEPS)
    ),
}


@pytest.mark.parametrize("difference", sorted(OTHERS))
def test_any_difference_changes_the_digest(difference):
    assert OTHERS[difference].digest != LAYOUT.digest


def test_the_digest_is_that_of_the_documented_form():
    text = (
        '[{"dtype":"float32","name":"weight","role":"shared","shape":[2,3]},'
        '{"dtype":"float32","name":"norm.scale","role":"local","shape":[3]},'
        '{"dtype":"float32","name":"bias","role":"shared","shape":[2]},'
        '{"content":"'
        + "01" * 32
        + '","dtype":"int64","name":"steps","role":"constant","shape":[]}]'
    )
    assert LAYOUT.digest == hashlib.sha256(b"tacit model layout v1\x00" + text.encode()).digest()


def test_vectors_are_taken_apart_in_order_and_put_together_again():
    parameters = np.arange(11.0)
    assert (LAYOUT.dimension, LAYOUT.local_dimension) == (8, 3)
    assert LAYOUT.offsets() == {"weight": 0, "bias": 6}
    assert LAYOUT.shared(parameters).tolist() == [0, 1, 2, 3, 4, 5, 9, 10]
    assert LAYOUT.local(parameters).tolist() == [6, 7, 8]
    joined = LAYOUT.join(LAYOUT.shared(parameters), LAYOUT.local(parameters))
    assert joined.tolist() == parameters.tolist()


def test_parts_of_another_length_are_refused():
    for call in (
        lambda: LAYOUT.shared(np.zeros(12)),
        lambda: LAYOUT.local(np.zeros(10)),
        lambda: LAYOUT.join(np.zeros(8), np.zeros(2)),
        lambda: LAYOUT.join(np.zeros(9), np.zeros(3)),
    ):
        with pytest.raises(ValueError, match="fit the layout"):
            call()


def test_senseless_layouts_are_refused():
    with pytest.raises(ValueError, match="twice"):
        Layout((WEIGHT, WEIGHT))
    with pytest.raises(ValueError, match="shares nothing"):
        Layout((SCALE, STEPS))
    with pytest.raises(ValueError, match="constant"):
        Entry("a", (1,), "float32", "shared", content=ONE)
    with pytest.raises(ValueError, match="constant"):
        Entry("a", (1,), "float32", "constant")
    with pytest.raises(ValueError, match="negative"):
        Entry("a", (-1,), "float32", "shared")


def test_patterns_make_entries_local():
    plain = Layout((WEIGHT, dataclasses.replace(SCALE, role="shared"), BIAS, STEPS))
    assert plain.with_local(()) == plain
    assert plain.with_local(("norm.*",)) == LAYOUT
    assert plain.with_local(("*s", "norm.scal?")).local_dimension == 5
    assert plain.with_local(("*s",)).digest != LAYOUT.digest


@pytest.mark.parametrize(
    ("patterns", "message", "remedy"),
    [
        (("norm.*", "nrom.*"), "'nrom.*' matches no trained parameter", "weight, norm.scale, bias"),
        (("steps",), "'steps' matches no trained parameter", "weight, norm.scale, bias"),
        (("Weight",), "'Weight' matches no", "weight"),
        (("*",), "nothing would be learnt", "at least one"),
        (("weight", "norm.*", "bias"), "nothing would be learnt", "at least one"),
    ],
)
def test_patterns_that_miss_or_take_everything_are_refused(patterns, message, remedy):
    plain = Layout((WEIGHT, dataclasses.replace(SCALE, role="shared"), BIAS, STEPS))
    with pytest.raises(ConfigError) as caught:
        plain.with_local(patterns)
    assert caught.value.code == "learn.local-layers"
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert caught.value.details == {"key": "training.local_layers"}


def test_stored_local_parameters_are_read_back_or_refused():
    local = np.array([1.5, -0.0, 3e-310])
    data = LAYOUT.local_to_bytes(local)
    assert LAYOUT.local_from_bytes(data).tobytes() == local.tobytes()
    wrong = [
        b"",
        data[:-1],
        data + b"\x00" * 8,
        OTHERS["constant"].local_to_bytes(local),
        LAYOUT.local_to_bytes(np.array([1.0, np.nan, 2.0])),
    ]
    for candidate in wrong:
        with pytest.raises(DecodeError):
            LAYOUT.local_from_bytes(candidate)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_laid_out_as_its_tensors_are(classes):
    model = LogisticRegression(4, classes)
    theta = np.arange(float(model.dimension))
    starts = model.layout.offsets()
    for entry in model.layout.entries:
        flat = theta[starts[entry.name] : starts[entry.name] + entry.size]
        assert flat.reshape(entry.shape).tolist() == model.tensors(theta)[entry.name].tolist()
    assert model.layout.dimension == model.dimension
    assert model.layout.digest == LogisticRegression(4, classes).layout.digest
    assert model.layout.digest != LogisticRegression(5, classes).layout.digest
