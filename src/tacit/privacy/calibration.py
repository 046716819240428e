"""From an epsilon to a plan: the least noise and the finest grid that keep the promise."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

from tacit.privacy import accounting, integers, noise, sampling
from tacit.privacy.plan import (
    Plan,
    Unit,
    refused,
    room,
    share_variances,
    tail,
    too_narrow,
)
from tacit.privacy.rotated import rotated_length, rotation_block

__all__ = ["make_plan", "sample_bound"]

SATURATION = 6.0
"""Root mean squares of a rotated block at which its coordinates saturate: a coordinate of random
signs goes beyond with probability 4e-8 (Hoeffding), wherever in the vector its norm lies."""

ATTEMPTS = 5

GRID_SHARE = 0.05
"""Largest grid in units of clip_norm / sqrt(dimension): truncation erases what is below the grid."""


def make_plan(  # noqa: D417, PLR0913 - a plan has this many parameters; all are named
    *,
    unit: Unit,
    epsilon: float,
    delta: float,
    clip_norm: float,
    sampling_rate: float,
    expected_units: int,
    rounds: int,
    helpers: int,
    max_colluding: int,
    own_noise: bool,
    dimension: int,
    units_bound: int | None = None,
    min_helpers: int | None = None,
    ring_bits: int = 32,
    visible_sampling: bool = False,
    max_participations: int = 0,
) -> Plan:
    """Chooses the least noise and the finest grid that keep the promise.

    The grid is the smallest power of two with which ``units_bound`` units and nine standard
    deviations of noise, as many as there can be with the fewest helpers present, fit into the ring.
    For unit ``none`` in 16 bits, where contributions are rotated and saturated, it is the smallest
    at which only one coordinate in 10**7 saturates. Wrapping around would cost utility, never
    privacy.

    Args:
        unit, delta, clip_norm, sampling_rate, expected_units, rounds, helpers: See ``Plan``.
        epsilon: Of the whole run, against ``max_colluding`` helpers (with ``visible_sampling``: who
            hold the released models and do not see the cohorts); ignored for unit ``none``.
        max_colluding: Helpers that may collude; ignored with ``own_noise``.
        own_noise: Every helper adds the full noise: ``max_colluding`` becomes ``helpers - 1``.
        dimension: Length of the vector, before or after a rotation pads it.
        units_bound: Units in one sum; by default the expected sample plus ten of its roots.
        min_helpers: Fewest helpers present in a round; all of them by default.
        ring_bits: Width of the ring: 16, 24 or 32.
        visible_sampling, max_participations: See ``Plan``.

    Raises:
        ConfigError: The settings cannot hold together; names the key.

    Guarantee:
        ``plan.epsilon() <= epsilon`` unless the unit is ``none``, certified by the accountant.
        Checked by ``tests/unit/test_privacy_plan.py::test_plan_keeps_the_promise``.
    """
    colluding = max(helpers - 1, 0) if own_noise else max_colluding
    if not 1 <= dimension <= noise.MAX_DRAWS:
        raise refused("model", f"its length {dimension} is out of range", "use a smaller model")
    draft = Plan(
        unit=unit,
        rounds=rounds,
        delta=float(delta),
        clip_norm=float(clip_norm),
        sampling_rate=float(sampling_rate),
        visible_sampling=visible_sampling,
        max_participations=max_participations,
        expected_units=expected_units,
        noise_multiplier=0.0 if unit == "none" else 1.0,
        helpers=helpers,
        max_colluding=colluding,
        min_helpers=helpers if min_helpers is None else min_helpers,
        ring_bits=ring_bits,
        grid=_coarse_grid(clip_norm),
        units_bound=1,
    )
    units = units_bound or sample_bound(sampling_rate * expected_units)
    if not draft.private:
        return _fit_grid(draft, 0.0, units, dimension)
    return _calibrated(draft, epsilon, units, dimension)


def _calibrated(draft: Plan, epsilon: float, units: int, dimension: int) -> Plan:
    multiplier = _multiplier(draft, epsilon)
    for _ in range(ATTEMPTS):
        plan = _fit_grid(draft, multiplier, units, dimension)
        if plan.epsilon() <= epsilon:
            return plan
        multiplier *= 1.0 + 1e-5  # the accountant's V - 4, or the last bit of the ratio
    raise AssertionError("the plan's noise does not agree with its calibration")


def _coarse_grid(clip_norm: float) -> float:
    """A draft's grid. D is 64 to 127: one such unit fits every width under any share of noise."""
    return math.ldexp(1.0, math.frexp(clip_norm)[1] - 7) if _positive(clip_norm) else 1.0


def sample_bound(mean: float) -> int:
    """Ten roots above the expected sample; where that makes no sense, Plan names the key at fault."""
    return math.ceil(mean + 10.0 * math.sqrt(mean)) if 0.0 < mean < 2.0**31 else 1


def _multiplier(draft: Plan, target: float) -> float:
    if not _positive(target):
        raise refused("epsilon", "it must be positive and finite", "choose a number such as 1.0")
    try:
        return accounting.calibrate(
            target_epsilon=target,
            delta=draft.delta,
            sampling_rate=sampling.realised_rate(draft.sampling_threshold),
            rounds=draft.rounds,
        )
    except ValueError as error:
        raise refused("epsilon", str(error), "raise epsilon or delta") from error


def _fit_grid(draft: Plan, multiplier: float, units: int, dimension: int) -> Plan:
    """The draft with ``units`` and the finest power-of-two grid that leaves the headroom."""
    exponent = math.frexp(draft.clip_norm)[1] - draft.ring_bits
    if draft.rotated:
        exponent -= math.isqrt(dimension).bit_length()
    while True:
        exponent += 1
        grid = math.ldexp(1.0, exponent)
        bound = int(Fraction(draft.clip_norm) // Fraction(grid))
        if bound > integers.MAX_SENSITIVITY:
            continue
        if draft.rotated:
            largest = room(draft.ring_bits, units, 0)
            if largest < 1:
                raise too_narrow(draft)
            fits = _saturates_rarely(draft.clip_norm, min(largest, bound) * grid, dimension)
            norm = integers.rounded_norm_bound(bound, rotated_length(dimension))
            fits &= norm <= integers.MAX_SENSITIVITY
        else:
            if not grid <= GRID_SHARE * draft.clip_norm / math.sqrt(dimension):
                raise too_narrow(draft)
            shares = (draft.max_colluding, draft.min_helpers, draft.helpers)
            variances = share_variances(multiplier, bound, *shares) if multiplier else ()
            worst = max((p * v for p, v in enumerate(variances, draft.min_helpers)), default=0)
            fits = room(draft.ring_bits, units, tail(worst)) >= bound
        if fits:
            return dataclasses.replace(
                draft, noise_multiplier=multiplier, grid=grid, units_bound=units
            )


def _saturates_rarely(clip_norm: float, largest: float, dimension: int) -> bool:
    """Whether a rotated coordinate of a vector of norm ``clip_norm`` hardly ever exceeds ``largest``."""
    block = rotation_block(dimension)
    return largest >= min(clip_norm, SATURATION * clip_norm / math.sqrt(block))


def _positive(value: float) -> bool:
    return 0.0 < value < math.inf
