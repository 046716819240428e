"""The privacy plan of a run: fixed, public and signed before the first record is read.

Every quantity that privacy depends on is an integer derived here by one formula, so that leader,
clients, helpers and the verifier agree on it bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import rfc8785

from tacit.errors import ConfigError, DecodeError
from tacit.privacy import accounting, integers, noise, sampling
from tacit.privacy.rotated import rotated_length, rotation_block

__all__ = ["Plan", "make_plan", "sample_bound"]

Unit = Literal["record", "none"]

RING_BITS = (16, 24, 32)
"""Widths of the ring that a job may choose."""

SATURATION = 6.0
"""Root mean squares of a rotated block at which its coordinates saturate: a coordinate of random
signs goes beyond with probability 4e-8 (Hoeffding), wherever in the vector its norm lies."""

MAX_HELPERS = 2**7
"""With ``noise.MAX_DRAWS`` and ``accounting.MAX_ROUNDS`` it keeps a run below 2**52 samples, which the
accountant assumes."""

MIN_SHARE_VARIANCE = 8
"""Below this the lemmas' factors would no longer be negligible (design note, section 3)."""

TAIL = 9
"""Standard deviations of noise that the ring leaves room for: exceeded with probability 6e-18."""

ATTEMPTS = 5

GRID_SHARE = 0.05
"""Largest grid in units of clip_norm / sqrt(dimension): truncation erases what is below the grid."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The mechanism's public parameters.

    Args:
        unit: Unit of privacy: one record, or none at all.
        rounds: Releases at most.
        delta: Of the whole run.
        clip_norm: L2 bound of one record's gradient (unit ``none``: of one client's vector).
        sampling_rate: Poisson rate of records in every round.
        expected_records: Public constant; with the rate it makes the constant divisor of the sum.
        noise_multiplier: Guaranteed noise in units of the sensitivity; 0.0 for unit ``none``.
        helpers: Number m of helpers' operators.
        max_colluding: Number t of helpers whose shares are not counted.
        min_helpers: Fewest helpers present in a round; each of those adds one share of noise.
        ring_bits: Width b of the ring of the sum: 16, 24 or 32.
        grid: Value of one integer unit.
        units_bound: How many records (or clients) the ring has room for in one sum.

    Raises:
        ConfigError: A value is out of range, or a sum could wrap around; names the key.

    Guarantee:
        No sum of at most ``units_bound`` admissible units, under noise of at most
        ``coordinate_noise_tail``, leaves ``[-2**(b - 1), 2**(b - 1))`` in any coordinate, whoever of
        the helpers is present: such a plan cannot be constructed. Checked by
        ``tests/property/test_privacy_plan.py::test_no_admissible_plan_can_wrap`` and
        ``::test_one_unit_beyond_is_refused``.
    """

    unit: Unit
    rounds: int
    delta: float
    clip_norm: float
    sampling_rate: float
    expected_records: int
    noise_multiplier: float
    helpers: int
    max_colluding: int
    min_helpers: int
    ring_bits: int
    grid: float
    units_bound: int

    def __post_init__(self) -> None:
        _check_common(self)
        if self.unit == "record":
            _check_record(self)
        elif self.noise_multiplier != 0.0:
            raise _refused("noise_multiplier", "unit 'none' has no noise", "set it to 0.0")
        _check_presence(self)
        if self.unit == "record":
            _check_shares(self)
        if self.coordinate_bound < (1 if self.rotated else self.sensitivity):
            raise _too_narrow(self)

    @property
    def sensitivity(self) -> int:
        """The exact integer L2 sensitivity D."""
        return integers.sensitivity(self.clip_norm, self.grid)

    @property
    def rotated(self) -> bool:
        """Whether contributions are rotated, saturated and rounded at random: unit none, 16 bits.

        Their rounded norm may exceed the sensitivity, up to ``integers.rounded_norm_bound``.
        """
        return self.unit == "none" and self.ring_bits == min(RING_BITS)

    @property
    def coordinate_bound(self) -> int:
        """The largest magnitude, in integer units, of one coordinate of one unit's contribution.

        At most the sensitivity. A sum of ``units_bound`` of these and ``coordinate_noise_tail`` is
        at most ``2**(ring_bits - 1) - 1``. Only where ``rotated`` is it less than the sensitivity.
        """
        room = _room(self.ring_bits, self.units_bound, self.coordinate_noise_tail)
        return min(self.sensitivity, room)

    def share_variance(self, present: int) -> int:
        """Variance of one helper's discrete Gaussian share: (z D)**2 / (p - t), rounded up.

        Args:
            present: Number p of helpers present in the round, ``min_helpers`` to ``helpers``.

        Returns:
            An integer; 0 for unit ``none``.

        Raises:
            ValueError: ``present`` is out of range: no plan covers such a round.
        """
        if not self.min_helpers <= present <= self.helpers:
            raise ValueError(f"{self.min_helpers} to {self.helpers} helpers must be present")
        return self._shares()[present - self.min_helpers]

    def total_variance(self, present: int) -> int:
        """Variance of the noise in a sum that ``present`` helpers answered; see ``share_variance``."""
        return present * self.share_variance(present)

    @property
    def guaranteed_variance(self) -> int:
        """Variance that stays when ``max_colluding`` helpers subtract their shares, in any round."""
        return self._variance_against(self.max_colluding)

    def _shares(self) -> tuple[int, ...]:
        """``share_variance`` of every number of helpers from ``min_helpers`` on."""
        if self.unit == "none":
            return (0,) * (self.helpers - self.min_helpers + 1)
        return _share_variances(
            self.noise_multiplier,
            self.sensitivity,
            self.max_colluding,
            self.min_helpers,
            self.helpers,
        )

    def _variance_against(self, colluding: int) -> int:
        """The least variance that ``colluding`` helpers cannot subtract, over who is present.

        At most 0 if they may be all helpers of some round.
        """
        present = range(self.min_helpers, self.helpers + 1)
        return min((p - colluding) * v for p, v in zip(present, self._shares(), strict=True))

    @property
    def sampling_threshold(self) -> int:
        """The sampling rate as ``poisson_sample`` takes it."""
        return sampling.threshold(self.sampling_rate)

    @property
    def divisor(self) -> float:
        """The constant by which a sum is divided; never a realised count."""
        return self.sampling_rate * self.expected_records

    @property
    def coordinate_noise_tail(self) -> int:
        """What the noise of one coordinate exceeds with probability 6e-18 at most, in any round."""
        return _tail(self._largest_variance())

    def aggregate_norm_bound(self, dimension: int) -> float:
        """Largest plausible L2 norm of an aggregate, in integer units.

        Args:
            dimension: Length of the vector as it is summed: where ``rotated``, the padded one.

        Returns:
            ``units_bound`` times the norm of one unit (the sensitivity; where ``rotated``, that of
            a rounded vector) plus a noise tail that an honest aggregate of at most ``units_bound``
            units exceeds with probability 3e-18, whoever was present (design note, section 7).
        """
        norm = self.sensitivity
        if self.rotated:
            norm = integers.rounded_norm_bound(norm, dimension)
        signal = float(self.units_bound * norm)
        if self.unit == "none":
            return signal
        return signal + math.sqrt(self._largest_variance()) * (math.sqrt(dimension) + TAIL)

    def _largest_variance(self) -> int:
        """``total_variance`` of the noisiest round that the plan admits."""
        present = range(self.min_helpers, self.helpers + 1)
        return max(p * v for p, v in zip(present, self._shares(), strict=True))

    def noise_ratio(self, colluding: int | None = None) -> float:
        """The noise in a sum that ``colluding`` helpers cannot subtract, as the accountant takes it.

        Args:
            colluding: ``max_colluding`` by default.

        Returns:
            Standard deviation of the continuous Gaussian behind the integers, divided by the
            sensitivity, rounded down; the worst over who is present. 0.0 for unit ``none`` and for
            ``colluding >= min_helpers``, who may be all the helpers of a round.

        Raises:
            ValueError: A negative count.
        """
        colluding = self.max_colluding if colluding is None else colluding
        if colluding < 0:
            raise ValueError("colluding must not be negative")
        if self.unit == "none" or colluding >= self.min_helpers:
            return 0.0
        return _noise_ratio(self._variance_against(colluding), self.sensitivity)

    def epsilon(self, rounds: int | None = None, colluding: int | None = None) -> float:
        """Epsilon after ``rounds`` releases against ``colluding`` helpers who pool their shares.

        Args:
            rounds: All rounds of the plan by default.
            colluding: ``max_colluding`` by default. A party that is no helper counts as none.

        Returns:
            An upper bound at the plan's delta, the worst over the number of helpers present in each
            round; infinity for unit ``none`` (unless no round was released) and for
            ``colluding >= min_helpers``, who may be all the helpers of a round.

        Raises:
            ValueError: A negative count.

        Guarantee:
            Monotone in both arguments.
            Checked by ``tests/unit/test_privacy_plan.py::test_epsilon_grows_with_the_coalition``,
            ``::test_epsilon_grows_with_the_rounds`` and
            ``::test_epsilon_is_the_worst_over_who_is_present``.
        """
        rounds = self.rounds if rounds is None else rounds
        noise_ratio = self.noise_ratio(colluding)
        if rounds < 0:
            raise ValueError("rounds must not be negative")
        if rounds == 0:
            return 0.0
        if noise_ratio == 0.0:
            return math.inf
        return accounting.epsilon(
            noise_ratio=noise_ratio,
            sampling_rate=sampling.realised_rate(self.sampling_threshold),
            rounds=rounds,
            delta=self.delta,
        )

    def to_record(self) -> dict[str, str | int]:
        """The plan as text and integers; a float as its shortest decimal text."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: repr(v) if isinstance(v, float) else v for name, v in values}

    @classmethod
    def from_record(cls, record: Any) -> Plan:
        """Reads what ``to_record`` wrote, and nothing else.

        Raises:
            DecodeError: A key is missing or unknown, or a value has the wrong type, an unusual
                spelling, or lies out of range.
        """
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        if not isinstance(record, dict) or set(record) != set(fields):
            raise DecodeError("plan.keys", "a privacy plan has exactly the plan's keys")
        values = {name: _value(name, str(kind), record[name]) for name, kind in fields.items()}
        try:
            return cls(**values)
        except ConfigError as error:
            raise DecodeError("plan.value", error.message) from error

    def canonical(self) -> bytes:
        """RFC 8785 bytes of ``to_record()``."""
        return rfc8785.dumps(self.to_record())


def make_plan(  # noqa: D417, PLR0913 - a plan has this many parameters; all are named
    *,
    unit: Unit,
    epsilon: float,
    delta: float,
    clip_norm: float,
    sampling_rate: float,
    expected_records: int,
    rounds: int,
    helpers: int,
    max_colluding: int,
    own_noise: bool,
    dimension: int,
    units_bound: int | None = None,
    min_helpers: int | None = None,
    ring_bits: int = 32,
) -> Plan:
    """Chooses the least noise and the finest grid that keep the promise.

    The grid is the smallest power of two with which ``units_bound`` units and nine standard
    deviations of noise, as many as there can be with the fewest helpers present, fit into the ring.
    For unit ``none`` in 16 bits, where contributions are rotated and saturated, it is the smallest
    at which only one coordinate in 10**7 saturates. Wrapping around would cost utility, never
    privacy.

    Args:
        unit, delta, clip_norm, sampling_rate, expected_records, rounds, helpers: See ``Plan``.
        epsilon: Of the whole run, against ``max_colluding`` helpers; ignored for unit ``none``.
        max_colluding: Helpers that may collude; ignored with ``own_noise``.
        own_noise: Every helper adds the full noise: ``max_colluding`` becomes ``helpers - 1``.
        dimension: Length of the vector, before or after a rotation pads it.
        units_bound: Units in one sum; by default the expected sample plus ten of its roots.
        min_helpers: Fewest helpers present in a round; all of them by default.
        ring_bits: Width of the ring: 16, 24 or 32.

    Raises:
        ConfigError: The settings cannot hold together; names the key.

    Guarantee:
        ``plan.epsilon() <= epsilon`` for unit ``record``, certified by the accountant.
        Checked by ``tests/unit/test_privacy_plan.py::test_plan_keeps_the_promise``.
    """
    colluding = max(helpers - 1, 0) if own_noise else max_colluding
    if not 1 <= dimension <= noise.MAX_DRAWS:
        raise _refused("model", f"its length {dimension} is out of range", "use a smaller model")
    draft = Plan(
        unit=unit,
        rounds=rounds,
        delta=float(delta),
        clip_norm=float(clip_norm),
        sampling_rate=float(sampling_rate),
        expected_records=expected_records,
        noise_multiplier=1.0 if unit == "record" else 0.0,
        helpers=helpers,
        max_colluding=colluding,
        min_helpers=helpers if min_helpers is None else min_helpers,
        ring_bits=ring_bits,
        grid=_coarse_grid(clip_norm),
        units_bound=1,
    )
    units = units_bound or sample_bound(sampling_rate * expected_records)
    if unit == "none":
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
        raise _refused("epsilon", "it must be positive and finite", "choose a number such as 1.0")
    try:
        return accounting.calibrate(
            target_epsilon=target,
            delta=draft.delta,
            sampling_rate=sampling.realised_rate(draft.sampling_threshold),
            rounds=draft.rounds,
        )
    except ValueError as error:
        raise _refused("epsilon", str(error), "raise epsilon or delta") from error


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
            room = _room(draft.ring_bits, units, 0)
            if room < 1:
                raise _too_narrow(draft)
            fits = _saturates_rarely(draft.clip_norm, min(room, bound) * grid, dimension)
            norm = integers.rounded_norm_bound(bound, rotated_length(dimension))
            fits &= norm <= integers.MAX_SENSITIVITY
        else:
            if not grid <= GRID_SHARE * draft.clip_norm / math.sqrt(dimension):
                raise _too_narrow(draft)
            shares = (draft.max_colluding, draft.min_helpers, draft.helpers)
            variances = _share_variances(multiplier, bound, *shares) if multiplier else ()
            worst = max((p * v for p, v in enumerate(variances, draft.min_helpers)), default=0)
            fits = _room(draft.ring_bits, units, _tail(worst)) >= bound
        if fits:
            return dataclasses.replace(
                draft, noise_multiplier=multiplier, grid=grid, units_bound=units
            )


def _saturates_rarely(clip_norm: float, largest: float, dimension: int) -> bool:
    """Whether a rotated coordinate of a vector of norm ``clip_norm`` hardly ever exceeds ``largest``."""
    block = rotation_block(dimension)
    return largest >= min(clip_norm, SATURATION * clip_norm / math.sqrt(block))


def _room(ring_bits: int, units: int, tail: int) -> int:
    """The wrap-around bound: what one coordinate of one of ``units`` contributions may be, at most.

    ``units`` of these and the noise stay within ``2**(ring_bits - 1) - 1``; 0 or less if none can.
    """
    return ((1 << (ring_bits - 1)) - 1 - tail) // units


@lru_cache(maxsize=1024)
def _share_variances(
    multiplier: float, bound: int, colluding: int, least: int, most: int
) -> tuple[int, ...]:
    """ceil((z D)**2 / (p - t)) for p from ``least`` to ``most`` helpers present, exactly."""
    target = (Fraction(multiplier) * bound) ** 2
    return tuple(
        -(-target.numerator // (target.denominator * (present - colluding)))
        for present in range(least, most + 1)
    )


def _tail(variance: int) -> int:
    return math.isqrt(TAIL**2 * variance) + (1 if variance else 0)


def _noise_ratio(variance: int, bound: int) -> float:
    """sqrt(V - 4) / D, rounded down: the noise of the continuous mechanism behind the integers."""
    return math.nextafter(math.sqrt(Fraction(variance - 4, bound**2)) * (1.0 - 2.0**-50), 0.0)


def _check_common(plan: Plan) -> None:
    limits = (
        ("rounds", plan.rounds, 1, accounting.MAX_ROUNDS),
        ("expected_records", plan.expected_records, 1, 2**31),
        ("helpers", plan.helpers, 0, MAX_HELPERS),
        ("max_colluding", plan.max_colluding, 0, MAX_HELPERS),
        ("min_helpers", plan.min_helpers, 0, plan.helpers),
        ("units_bound", plan.units_bound, 1, 2 ** max(RING_BITS)),
    )
    for key, value, least, most in limits:
        if not least <= value <= most:
            raise _refused(key, f"it must lie between {least} and {most}", "correct it")
    if plan.ring_bits not in RING_BITS:
        raise _refused("ring_bits", "it must be 16, 24 or 32", "set it to 32")
    if plan.unit not in ("record", "none"):
        raise _refused("unit", "it must be 'record' or 'none'", "correct it")
    if not accounting.MIN_DELTA <= plan.delta < 1.0:
        raise _refused("delta", f"it must lie in [{accounting.MIN_DELTA}, 1)", "choose 1e-5, say")
    for key, real in (("clip_norm", plan.clip_norm), ("grid", plan.grid)):
        if not 1e-60 < real < 1e60:
            raise _refused(key, "it must lie between 1e-60 and 1e60", "choose a number such as 1.0")
    if not 2.0**-64 <= plan.sampling_rate <= 1.0:
        raise _refused("sampling_rate", "it must lie in (0, 1]", "choose a number such as 0.5")
    try:
        integers.sensitivity(plan.clip_norm, plan.grid)
    except ValueError as error:
        raise _refused("grid", str(error), "correct it") from error


def _check_record(plan: Plan) -> None:
    if plan.max_colluding < 1:
        raise _refused(
            "max_colluding",
            "it must be at least 1: every helper can subtract its own noise",
            "set it to 1 or more",
        )
    if plan.max_colluding >= plan.helpers:
        raise _refused(
            "max_colluding",
            f"all {plan.helpers} helpers could collude and subtract all the noise",
            "lower it below the number of helpers, or add helpers",
        )
    if not 0.0 < plan.noise_multiplier <= 2.0**20:
        raise _refused("noise_multiplier", "it must lie in (0, 2**20]", "raise epsilon")


def _check_presence(plan: Plan) -> None:
    """Every round that may happen has an honest helper, and a masked one more than one helper."""
    if not plan.helpers:
        return
    least, danger = max(2, plan.max_colluding + 1), "no honest one might be left in a round"
    if plan.unit == "none":
        # Any two rounds share an honest helper, who answers for one and the same cohort only.
        least = max(least, (plan.helpers + plan.max_colluding) // 2 + 1)
        danger = "two rounds without noise might share no honest one"
    if plan.min_helpers < least:
        own = plan.max_colluding == plan.helpers - 1
        hint = " (privacy.noise = 'own' counts on all others colluding)" if own else ""
        raise _refused(
            "min_helpers",
            f"with {plan.min_helpers} helpers present and up to {plan.max_colluding} colluding "
            f"{danger}",
            f"raise aggregation.min_helpers to {least} or more, or lower privacy.max_colluding{hint}",
        )


def _check_shares(plan: Plan) -> None:
    smallest, largest = plan.share_variance(plan.helpers), plan.share_variance(plan.min_helpers)
    if not MIN_SHARE_VARIANCE <= smallest <= largest <= noise.MAX_VARIANCE:
        raise _refused("grid", "a noise share's variance is out of range", "use a finer grid")


def _too_narrow(plan: Plan) -> ConfigError:
    """No grid is both fine enough to be of use and coarse enough not to wrap around."""
    reason = (
        f"so many units and so much noise do not fit into a ring of {plan.ring_bits} bits at a "
        "useful precision"
    )
    if plan.ring_bits < max(RING_BITS):
        wider = " or ".join(str(bits) for bits in sorted(RING_BITS) if bits > plan.ring_bits)
        return _refused(
            "ring_bits", reason, f"set aggregation.ring_bits = {wider}, or lower sampling_rate"
        )
    key = "expected_records" if plan.unit == "record" else "clip_norm"
    remedy = "raise epsilon, lower sampling_rate or use a smaller model"
    return _refused(key, reason, remedy)


def _value(name: str, kind: str, value: Any) -> Any:
    """One field of a record, strictly typed."""
    if kind == "float" and isinstance(value, str) and len(value) <= 32:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and repr(number) == value:
            return number
    elif type(value) is {"int": int, "Unit": str}.get(kind):
        return value
    raise DecodeError("plan.value", f"the plan's '{name}' is not valid")


def _positive(value: float) -> bool:
    return 0.0 < value < math.inf


def _refused(key: str, reason: str, remedy: str) -> ConfigError:
    return ConfigError("plan.value", f"privacy plan: {key}: {reason}", remedy=remedy, key=key)
