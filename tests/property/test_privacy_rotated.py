"""Sixteen bits: no update, however crafted, exceeds its bounds, and rounding keeps the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tacit.algebra.ring import Ring
from tacit.algebra.rotation import rotate
from tacit.privacy import rotated
from tacit.privacy.calibration import make_plan
from tacit.privacy.integers import rounded_norm_bound, sensitivity
from tacit.privacy.plan import Plan
from tacit.privacy.rotated import decode_rotated, encode_rotated, rotated_length, rotation_block
from tacit.testing.entropy import SeededEntropy

SEED = bytes(range(32))
ODD = st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-310, math.nan, math.inf, -math.inf, 1e308, -1e300, 1e154, 1.0, -1.0]
)
UPDATES = npst.arrays(
    np.float64,
    st.one_of(st.integers(0, 5), st.integers(60, 200)),
    elements=st.one_of(ODD, st.floats(), st.floats(-2, 2)),
    fill=st.one_of(st.just(0.0), st.floats(-1, 1)),
)
SCALES = st.sampled_from(
    [(1.0, 2.0**-12, 300), (1.0, 0.01, 3), (3.0, 1.0, 1), (0.3, 1e-5, 32767), (1e300, 1e296, 200)]
)


def plan_for(length: int, clients: int) -> Plan:
    return make_plan(
        unit="none",
        epsilon=1.0,
        delta=1e-5,
        clip_norm=1.0,
        sampling_rate=1.0,
        expected_units=100,
        rounds=3,
        helpers=2,
        max_colluding=1,
        own_noise=False,
        dimension=length,
        units_bound=clients,
        ring_bits=16,
    )


def encode(update: np.ndarray, plan: Plan, name: object) -> np.ndarray:
    return encode_rotated(
        update,
        clip_norm=plan.clip_norm,
        grid=plan.grid,
        coordinate_bound=plan.coordinate_bound,
        seed=SEED,
        entropy=SeededEntropy(f"round {name}"),
    )


def unit_update(length: int, name: int, norm: float = 0.9) -> np.ndarray:
    values = np.random.default_rng(name).standard_normal(length)
    return values * (norm / np.linalg.norm(values))


@settings(max_examples=300, deadline=None)
@given(UPDATES, SCALES, st.integers(0, 2**32))
def test_no_update_exceeds_the_bounds(update, scales, name):
    clip, grid, largest = scales
    x = encode_rotated(
        update,
        clip_norm=clip,
        grid=grid,
        coordinate_bound=largest,
        seed=SEED,
        entropy=SeededEntropy(name),
    )
    assert x.dtype == np.int16
    assert len(x) == rotated_length(len(update))
    assert np.abs(x.astype(np.int64)).max(initial=0) <= largest
    norm = rounded_norm_bound(sensitivity(clip, grid), len(x))
    assert sum(value * value for value in x.tolist()) <= norm**2
    if not np.isfinite(update).all():
        assert not x.any()


@pytest.mark.parametrize("crafted", [math.nan, math.inf, -1e300, 1e30, 32767.5, -40000.0, 77.7])
def test_the_bounds_rest_on_the_integers_alone(crafted, monkeypatch):
    """Whatever the floating-point steps return, no coordinate and no norm exceeds its bound."""
    monkeypatch.setattr(rotated, "rotate", lambda values, seed, block: np.full(128, crafted))
    for grid, largest in ((2.0**-3, 7), (2.0**-10, 32767)):
        x = encode_rotated(
            np.ones(128),
            clip_norm=1.0,
            grid=grid,
            coordinate_bound=largest,
            seed=SEED,
            entropy=SeededEntropy(1),
        )
        assert np.abs(x.astype(np.int64)).max() <= largest
        assert np.sum(x.astype(np.int64) ** 2) <= rounded_norm_bound(int(1 / grid), 128) ** 2


def test_a_rounding_beyond_the_norm_is_drawn_again(monkeypatch):
    """At the edge of the bound some roundings fail; what is returned never does."""
    calls = []
    original = rotated._round_into

    def counted(*arguments):
        calls.append(original(*arguments))
        return calls[-1]

    monkeypatch.setattr(rotated, "_round_into", counted)
    update = np.full(64, 1.0 / 8.0)
    norm = rounded_norm_bound(4, 64)
    for name in range(200):
        x = encode_rotated(
            update,
            clip_norm=1.0,
            grid=0.25,
            coordinate_bound=100,
            seed=SEED,
            entropy=SeededEntropy(f"edge {name}"),
        )
        assert np.sum(x.astype(np.int64) ** 2) <= norm**2
    failed = sum(squares > norm**2 for squares in calls)
    assert len(calls) == 200 + failed
    assert 0 < failed < 0.61 / 0.39 * 200  # each fails with probability exp(-1/2) at most


@pytest.mark.parametrize("length", [50, 1000, 20_000])
def test_rounding_keeps_the_mean(length):
    """Over many draws the decoded mean is the update: the standard error is all that is left."""
    plan = plan_for(length, clients=1000)
    update, draws = unit_update(length, length), 400
    total = sum(encode(update, plan, name).astype(np.int64) for name in range(draws))
    error = decode_rotated(total, plan.grid, SEED, length) / draws - update
    # One rounding has a variance of 1/4 unit at most per coordinate.
    largest = plan.grid * math.sqrt(0.25 * rotated_length(length) / draws)
    assert 0.05 * largest < np.linalg.norm(error) < 1.2 * largest
    once = decode_rotated(encode(update, plan, 0).astype(np.int64), plan.grid, SEED, length)
    # and it is an average that gets there: a rounding to nearest would not
    assert np.linalg.norm(once - update) > 10 * np.linalg.norm(error)


@pytest.mark.parametrize("clients", [2, 10, 100])
@pytest.mark.parametrize("length", [31, 5000])
def test_a_sum_over_the_ring_is_the_sum_of_the_updates(length, clients):
    plan, ring = plan_for(length, clients), Ring(16)
    common = unit_update(length, clients, 0.5)
    updates = [common + unit_update(length, name, 0.4) for name in range(clients)]
    encoded = [encode(update, plan, name) for name, update in enumerate(updates)]
    total = ring.sum([x.view(np.uint16) for x in encoded], rotated_length(length))
    centred = ring.centred(total)
    assert np.array_equal(centred, sum(x.astype(np.int64) for x in encoded))
    assert np.linalg.norm(centred) <= plan.aggregate_norm_bound(len(centred))
    decoded = decode_rotated(centred, plan.grid, SEED, length)
    exact = sum(updates)
    error = plan.grid * math.sqrt(0.25 * rotated_length(length) * clients)
    assert np.linalg.norm(decoded - exact) < 1.5 * error
    assert error < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("length", [100, 5000, 300_000])
def test_a_single_large_coordinate_does_not_saturate(length):
    """The weight may hold most of a client's norm: it comes out right wherever it stands."""
    plan = plan_for(length, clients=50)
    for place in (0, length // 2, length - 1):
        update = np.zeros(length)
        update[place] = 0.999
        spread = rotate(update / plan.grid, SEED, rotation_block(length))
        assert np.abs(spread).max() <= plan.coordinate_bound
        x = encode(update, plan, place).astype(np.int64)
        decoded = decode_rotated(x, plan.grid, SEED, length)
        assert abs(decoded[place] - 0.999) < 6 * plan.grid


def test_saturation_is_rare_and_bounded():
    plan = plan_for(100_000, clients=3000)
    x = encode(unit_update(100_000, 1, 5.0), plan, 1)
    assert np.mean(np.abs(x) == plan.coordinate_bound) < 1e-4
    narrow = encode_rotated(
        unit_update(100_000, 1, 5.0),
        clip_norm=1.0,
        grid=plan.grid,
        coordinate_bound=1,
        seed=SEED,
        entropy=SeededEntropy(1),
    )
    assert set(np.unique(narrow)) == {-1, 0, 1}


def test_a_larger_update_is_clipped_as_a_whole():
    plan = plan_for(5000, clients=2)
    update = unit_update(5000, 7, 40.0)
    decoded = decode_rotated(encode(update, plan, 1).astype(np.int64), plan.grid, SEED, 5000)
    assert np.linalg.norm(decoded) == pytest.approx(1.0, abs=0.01)
    assert decoded @ update / np.linalg.norm(update) == pytest.approx(1.0, abs=0.01)
    huge = encode(update * 1e200, plan, 1)  # its squares overflow
    assert np.abs(huge.astype(int) - encode(update, plan, 1)).max() <= 1


def test_what_is_charged_covers_the_worst_rounding():
    for bound, dimension in ((1, 1), (100, 7), (500, 10_000), (2**31 - 1, 2**28), (5, 10**6)):
        norm = rounded_norm_bound(bound, dimension)
        assert bound <= norm <= bound + math.isqrt(dimension) + 1
        likely = bound**2 + dimension / 4 + bound + math.sqrt(dimension) / 2
        assert norm**2 <= likely + 3
        assert (norm + 1) ** 2 > min(likely, (bound + math.sqrt(dimension)) ** 2) - 1e-6 * likely


@given(st.integers(0, 2**28))
def test_padding_is_short_and_stable(length):
    block, padded = rotation_block(length), rotated_length(length)
    assert block in [2**k for k in range(6, 17)]
    assert padded % block == 0
    assert 0 <= padded - length < block
    assert block == 64 or padded - length < length / 64
    assert rotation_block(padded) == block


@pytest.mark.parametrize(
    "change",
    [
        {"coordinate_bound": 0},
        {"coordinate_bound": 2**15},
        {"seed": b"short"},
        {"clip_norm": math.nan},
        {"grid": 2.0},
        {"update": np.ones((2, 2))},
    ],
)
def test_refuses_what_cannot_be_encoded(change):
    arguments = {
        "update": np.ones(10),
        "clip_norm": 1.0,
        "grid": 0.01,
        "coordinate_bound": 5,
        "seed": SEED,
        "entropy": SeededEntropy(1),
    }
    with pytest.raises(ValueError, match=r".+"):
        encode_rotated(**arguments | change)


def test_refuses_a_sum_of_another_length():
    with pytest.raises(ValueError, match="elements"):
        decode_rotated(np.zeros(65, dtype=np.int64), 1.0, SEED, 60)
