"""No plan that can be constructed lets an honest sum wrap around, at any width of the ring."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.errors import ConfigError
from tacit.privacy.plan import Plan

WIDTHS = st.sampled_from([16, 24, 32])


@st.composite
def plans(draw) -> Plan:
    """Plans near the edge of what fits: any width, any helpers, with and without noise."""
    bits = draw(WIDTHS)
    unit = draw(st.sampled_from(["record", "entity", "client", "none"]))
    colluding = draw(st.integers(1, 9))
    least = draw(st.integers(colluding + 1, 12))
    bound = draw(st.integers(1, 2 ** (bits - 1)))
    ratio = draw(st.floats(0.05, 40.0)) if unit != "none" else 0.0
    most = draw(st.integers(least, 14))
    spread = math.sqrt(least / (least - colluding)) * ratio * bound * 9
    fitting = max(1, int((2 ** (bits - 1) - spread) // bound))
    try:
        return Plan(
            unit=unit,
            rounds=10,
            delta=1e-5,
            clip_norm=float(bound),
            sampling_rate=0.5,
            visible_sampling=unit == "client" and draw(st.booleans()),
            max_participations=0,
            expected_units=100,
            noise_multiplier=ratio,
            helpers=most,
            max_colluding=colluding,
            min_helpers=least,
            ring_bits=bits,
            grid=1.0,
            units_bound=draw(st.sampled_from([fitting, max(1, fitting - 1), fitting + 1])),
        )
    except ConfigError:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(plans(), st.sampled_from([-1, 1]), st.data())
def test_no_admissible_plan_can_wrap(plan, sign, data):
    """The extreme sum: every unit at its largest, noise at nine deviations, any helpers present."""
    present = data.draw(st.integers(plan.min_helpers, plan.helpers))
    noise = math.isqrt(81 * plan.total_variance(present))
    assert noise <= plan.coordinate_noise_tail
    extreme = sign * (plan.units_bound * plan.coordinate_bound + noise)
    half = 2 ** (plan.ring_bits - 1)
    assert (extreme + half) % (2 * half) - half == extreme  # what centring the ring makes of it
    if not plan.rotated:  # nothing saturates: one coordinate may hold the whole norm
        assert plan.coordinate_bound == plan.sensitivity


@settings(max_examples=300, deadline=None)
@given(plans())
def test_one_unit_beyond_is_refused(plan):
    room = 2 ** (plan.ring_bits - 1) - 1 - plan.coordinate_noise_tail
    most = room if plan.rotated else room // plan.sensitivity
    largest = dataclasses.replace(plan, units_bound=most)
    assert largest.coordinate_bound == (1 if plan.rotated else plan.sensitivity)
    with pytest.raises(ConfigError, match="fit") as caught:
        dataclasses.replace(plan, units_bound=most + 1)
    assert caught.value.details["key"]
    assert caught.value.remedy
