"""Feature scaling depends on the record and the public schema only."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tacit.connect.batch import build_batch
from tacit.learn.features import scale_features
from tacit.policy.schema import FeatureColumn, Schema


def draw(rng, n, k):
    lower = rng.normal(size=k) * 10.0 ** rng.integers(-3, 4, k)
    upper = lower + rng.random(k) * 10.0 ** rng.integers(-3, 4, k) + 1e-6
    columns = tuple(
        FeatureColumn(f"c{i}", float(a), float(b))
        for i, (a, b) in enumerate(zip(lower, upper, strict=True))
    )
    rows = np.clip(lower + rng.random((n, k)) * (upper - lower), lower, upper)
    return rows, Schema(columns, "label", ("a", "b"))


def scaled(rows, schema, scale, norm):
    labels = np.zeros(len(rows), dtype=np.int64)
    batch = build_batch((rows.copy(), labels, None), schema, pa.table({}), None)
    return scale_features(batch, scale=scale, norm=norm)


CASES = {
    "n": st.integers(1, 70),
    "k": st.integers(1, 40),
    "scale": st.sampled_from(["linear", "log1p"]),
    "norm": st.sampled_from([0.1, 1.0, 3.0]),
    "seed": st.integers(0, 2**32),
}


@given(**CASES)
def test_rows_are_independent(n, k, scale, norm, seed):
    rng = np.random.default_rng(seed)
    rows, schema = draw(rng, n, k)
    together = scaled(rows, schema, scale, norm)
    order = rng.permutation(n)
    assert scaled(rows[order], schema, scale, norm).tobytes() == together[order].tobytes()
    row = int(rng.integers(n))
    alone = scaled(rows[row : row + 1], schema, scale, norm)
    assert alone.tobytes() == together[row : row + 1].tobytes()


@given(**CASES)
def test_no_record_exceeds_the_norm(n, k, scale, norm, seed):
    rows, schema = draw(np.random.default_rng(seed), n, k)
    lengths = np.linalg.norm(scaled(rows, schema, scale, norm), axis=1)
    assert (lengths <= norm * (1 + 1e-12)).all()


@given(seed=st.integers(0, 2**32), scale=st.sampled_from(["linear", "log1p"]))
def test_a_larger_value_scales_to_no_less(seed, scale):
    rows, schema = draw(np.random.default_rng(seed), 30, 1)
    rows.sort(axis=0)
    assert (np.diff(scaled(rows, schema, scale, 2.0)[:, 0]) >= 0).all()
