"""Which units are held out from training."""

import numpy as np
import pyarrow as pa
import pytest

from tacit.connect.batch import build_batch
from tacit.connect.receipt import Receipt, Rows
from tacit.learn.holdout import held_out_rows
from tacit.policy.schema import FeatureColumn, Schema
from tacit.types import Digest

KEY, OTHER = bytes(range(32)), bytes(32)
SCHEMA = Schema((FeatureColumn("a", -9.0, 9.0), FeatureColumn("b", -9.0, 9.0)), "y", ("n", "y"))


def batch(rows, seed=0, entities=None, count=2000):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, 2)), rng.integers(0, 2, count)
    zero = Digest(bytes(32))
    counts = Rows(len(rows), len(rows), 0)
    digests = (zero, zero, zero, SCHEMA.digest, zero)
    receipt = Receipt("small", *digests, 0, zero, counts, (), (), zero)
    chosen = None if entities is None else entities[rows]
    return build_batch((x[rows], y[rows], chosen), SCHEMA, pa.table({}), receipt)


def test_about_the_share_is_held_out():
    marks = held_out_rows(batch(np.arange(2000)), KEY, 0.2, by_entity=False)
    assert abs(marks.mean() - 0.2) < 4.5 * (0.16 / 2000) ** 0.5
    assert not held_out_rows(batch(np.arange(9)), KEY, 0.0, by_entity=False).any()


@pytest.mark.parametrize("by_entity", [False, True])
def test_a_unit_stays_on_its_side(by_entity):
    """Whoever else is there, and in whatever order."""
    entities = np.random.default_rng(1).integers(0, 40, 2000).astype(np.uint64)
    everyone = np.arange(2000)
    before = held_out_rows(batch(everyone, entities=entities), KEY, 0.3, by_entity=by_entity)
    fewer = np.random.default_rng(2).permutation(everyone)[:700]
    after = held_out_rows(batch(fewer, entities=entities), KEY, 0.3, by_entity=by_entity)
    assert (after == before[fewer]).all()
    if by_entity:
        for entity in range(40):
            assert len(set(before[entities == entity])) == 1
        assert 0 < before.mean() < 1


def test_the_choice_depends_on_the_key():
    one, other = (
        held_out_rows(batch(np.arange(500)), k, 0.5, by_entity=False) for k in (KEY, OTHER)
    )
    assert 0.3 < (one == other).mean() < 0.7


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        held_out_rows(batch(np.arange(3)), b"short", 0.5, by_entity=False)
    with pytest.raises(ValueError, match="no entities"):
        held_out_rows(batch(np.arange(3)), KEY, 0.5, by_entity=True)
