"""Feature scaling: the documented formulas and their bounds."""

import math

import numpy as np
import pyarrow as pa
import pytest

from tacit.connect.batch import build_batch
from tacit.learn.features import scale_features
from tacit.policy.schema import FeatureColumn, Schema


def batch(rows, ranges):
    columns = tuple(FeatureColumn(f"c{i}", *pair) for i, pair in enumerate(ranges))
    features = np.array(rows, dtype=float).reshape(-1, len(ranges))
    labels = np.zeros(len(features), dtype=np.int64)
    schema = Schema(columns, "label", ("a", "b"))
    return build_batch((features, labels, None), schema, pa.table({}), None)


def test_linear_maps_the_public_range_to_minus_one_and_one():
    data = batch([[0.05], [0.125], [0.2]], [(0.05, 0.2)])
    scaled = scale_features(data, scale="linear", norm=5.0)
    assert scaled[:, 0] == pytest.approx([-1.0, 0.0, 1.0], abs=1e-12)


def test_log1p_maps_the_middle_of_the_orders_of_magnitude_to_zero():
    middle = math.sqrt(100.0 * 3000.0) - 1.0  # log1p is half way between those of 99 and 2999
    data = batch([[99.0], [middle], [2999.0]], [(99.0, 2999.0)])
    scaled = scale_features(data, scale="log1p", norm=5.0)
    assert scaled[:, 0] == pytest.approx([-1.0, 0.0, 1.0], abs=1e-12)


def test_log1p_takes_negative_values():
    data = batch([[-9.0], [0.0], [9.0]], [(-9.0, 9.0)])
    scaled = scale_features(data, scale="log1p", norm=5.0)
    assert scaled[:, 0] == pytest.approx([-1.0, 0.0, 1.0], abs=1e-12)


def test_a_change_of_unit_changes_nothing_on_the_linear_scale():
    metres = batch([[0.25], [1.5]], [(0.0, 2.0)])
    millimetres = batch([[250.0], [1500.0]], [(0.0, 2000.0)])
    first = scale_features(metres, scale="linear", norm=1.0)
    assert scale_features(millimetres, scale="linear", norm=1.0) == pytest.approx(first, abs=1e-14)


def test_only_records_beyond_the_norm_are_shortened():
    data = batch([[1.0, 1.0], [0.1, 0.0]], [(-1.0, 1.0), (-1.0, 1.0)])
    scaled = scale_features(data, scale="linear", norm=1.0)
    assert scaled[0] == pytest.approx([math.sqrt(0.5)] * 2)
    assert scaled[1] == pytest.approx([0.1, 0.0], abs=1e-15)


def test_a_record_in_the_middle_of_every_range_is_zero():
    assert not scale_features(batch([[0.5, 5.0]], [(0, 1), (0, 10)]), scale="linear", norm=1).any()


def test_an_empty_batch_gives_no_rows():
    assert scale_features(batch([], [(0, 1)]), scale="log1p", norm=1.0).shape == (0, 1)


def test_the_result_is_read_only():
    scaled = scale_features(batch([[0.5]], [(0, 1)]), scale="log1p", norm=1.0)
    with pytest.raises(ValueError, match="read-only"):
        scaled[0, 0] = 1.0


@pytest.mark.parametrize("norm", [0.0, -1.0, math.inf, math.nan])
def test_a_norm_that_bounds_nothing_is_refused(norm):
    with pytest.raises(ValueError, match="norm"):
        scale_features(batch([[0.5]], [(0, 1)]), scale="linear", norm=norm)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale"):
        scale_features(batch([[0.5]], [(0, 1)]), scale="z-score", norm=1.0)
