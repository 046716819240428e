"""The privacy plan of a run: fixed, public and signed before the first record is read.

Every quantity that privacy depends on is an integer derived here by one formula, so that leader,
clients, helpers and the verifier agree on it bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import rfc8785

from tacit.errors import ConfigError, DecodeError
from tacit.privacy import accounting, integers, noise, sampling

__all__ = ["Plan", "make_plan", "sample_bound"]

Unit = Literal["record", "none"]

RING_BITS = 32
MAX_ROUNDS = 2**17
MAX_HELPERS = 2**7
"""With ``noise.MAX_DRAWS`` these keep a run below 2**52 samples, which the accountant assumes."""

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
        helpers: Number m of helpers' operators, each adding one share of noise.
        max_colluding: Number t of helpers whose shares are not counted.
        ring_bits: Width of the ring of the sum.
        grid: Value of one integer unit.
        units_bound: How many records (or clients) the ring has room for in one sum.

    Raises:
        ConfigError: A value is out of range; names the key.
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
    ring_bits: int
    grid: float
    units_bound: int

    def __post_init__(self) -> None:
        _check_common(self)
        if self.unit == "record":
            _check_record(self)
        elif self.noise_multiplier != 0.0:
            raise _refused("noise_multiplier", "unit 'none' has no noise", "set it to 0.0")

    @property
    def sensitivity(self) -> int:
        """The exact integer L2 sensitivity D."""
        return integers.sensitivity(self.clip_norm, self.grid)

    @property
    def share_variance(self) -> int:
        """Variance of one helper's discrete Gaussian share: (z D)**2 / (m - t), rounded up."""
        honest = self.helpers - self.max_colluding
        if self.unit == "none":
            return 0
        target = (Fraction(self.noise_multiplier) * self.sensitivity) ** 2 / honest
        return -(-target.numerator // target.denominator)

    @property
    def guaranteed_variance(self) -> int:
        """Variance that stays when ``max_colluding`` helpers subtract their shares."""
        return (self.helpers - self.max_colluding) * self.share_variance

    @property
    def total_variance(self) -> int:
        """Variance of the noise in every released sum."""
        return self.helpers * self.share_variance

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
        """What the noise of one coordinate exceeds with probability 6e-18 at most."""
        return _tail(self.total_variance)

    def aggregate_norm_bound(self, dimension: int) -> float:
        """Largest plausible L2 norm of an aggregate, in integer units.

        Args:
            dimension: Length of the vector.

        Returns:
            ``units_bound`` sensitivities plus a noise tail that an honest aggregate of at most
            ``units_bound`` units exceeds with probability 3e-18 (design note, section 7).
        """
        signal = float(self.units_bound * self.sensitivity)
        if self.unit == "none":
            return signal
        return signal + math.sqrt(self.total_variance) * (math.sqrt(dimension) + TAIL)

    def epsilon(self, rounds: int | None = None, colluding: int | None = None) -> float:
        """Epsilon after ``rounds`` releases against ``colluding`` helpers who pool their shares.

        Args:
            rounds: All rounds of the plan by default.
            colluding: ``max_colluding`` by default. A party that is no helper counts as none.

        Returns:
            An upper bound at the plan's delta; infinity for unit ``none`` (unless no round was
            released) and for ``colluding >= helpers``.

        Raises:
            ValueError: A negative count.

        Guarantee:
            Monotone in both arguments.
            Checked by ``tests/unit/test_privacy_plan.py::test_epsilon_grows_with_the_coalition`` and
            ``::test_epsilon_grows_with_the_rounds``.
        """
        rounds = self.rounds if rounds is None else rounds
        colluding = self.max_colluding if colluding is None else colluding
        if rounds < 0 or colluding < 0:
            raise ValueError("rounds and colluding must not be negative")
        if rounds == 0:
            return 0.0
        if self.unit == "none" or colluding >= self.helpers:
            return math.inf
        variance = (self.helpers - colluding) * self.share_variance
        return accounting.epsilon(
            noise_ratio=_noise_ratio(variance, self.sensitivity),
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


def make_plan(  # noqa: PLR0913 - a plan has this many parameters; all are named
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
) -> Plan:
    """Chooses the least noise and the finest grid that keep the promise.

    The grid is the smallest power of two with which ``units_bound`` units and nine standard
    deviations of noise fit into the ring. Wrapping around would cost utility, never privacy.

    Args:
        unit: ``record``, or ``none`` for no noise (``epsilon`` is then ignored).
        epsilon: Of the whole run, against ``max_colluding`` helpers; positive.
        delta: Of the whole run.
        clip_norm: See ``Plan``.
        sampling_rate: See ``Plan``.
        expected_records: See ``Plan``.
        rounds: Releases at most.
        helpers: Number of helpers.
        max_colluding: Helpers that may collude; ignored with ``own_noise``.
        own_noise: Every helper adds the full noise: ``max_colluding`` becomes ``helpers - 1``.
        dimension: Length of the vector.
        units_bound: Units in one sum; by default the expected sample plus ten of its roots.

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
        ring_bits=RING_BITS,
        grid=math.ldexp(1.0, math.frexp(clip_norm)[1] - 20) if _positive(clip_norm) else 1.0,
        units_bound=units_bound or sample_bound(sampling_rate * expected_records),
    )
    if unit == "none":
        return _fit_grid(draft, 0.0, dimension)
    multiplier = _multiplier(draft, epsilon)
    for _ in range(ATTEMPTS):
        plan = _fit_grid(draft, multiplier, dimension)
        if plan.epsilon() <= epsilon:
            return plan
        multiplier *= 1.0 + 1e-5  # the accountant's V - 4, or the last bit of the ratio
    raise AssertionError("the plan's noise does not agree with its calibration")


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


def _fit_grid(draft: Plan, multiplier: float, dimension: int) -> Plan:
    """The draft with the finest power-of-two grid that leaves the headroom."""
    room = 2 ** (RING_BITS - 1) - 1
    exponent = math.frexp(draft.clip_norm)[1] - RING_BITS
    honest = max(draft.helpers - draft.max_colluding, 1)
    while True:
        exponent += 1
        grid = math.ldexp(1.0, exponent)
        if not grid <= GRID_SHARE * draft.clip_norm / math.sqrt(dimension):
            key = "expected_records" if draft.unit == "record" else "clip_norm"
            raise _refused(
                key,
                "so many units and so much noise do not fit into the ring at a useful precision",
                "raise epsilon, lower sampling_rate or use a smaller model",
            )
        bound = Fraction(draft.clip_norm) // Fraction(grid)
        if bound > integers.MAX_SENSITIVITY:
            continue
        variance = draft.helpers * math.ceil((Fraction(multiplier) * bound) ** 2 / honest)
        if draft.units_bound * bound + _tail(variance) <= room:
            return dataclasses.replace(draft, noise_multiplier=multiplier, grid=grid)


def _tail(variance: int) -> int:
    return math.isqrt(TAIL**2 * variance) + (1 if variance else 0)


def _noise_ratio(variance: int, bound: int) -> float:
    """sqrt(V - 4) / D, rounded down: the noise of the continuous mechanism behind the integers."""
    return math.nextafter(math.sqrt(Fraction(variance - 4, bound**2)) * (1.0 - 2.0**-50), 0.0)


def _check_common(plan: Plan) -> None:
    limits = (
        ("rounds", plan.rounds, 1, MAX_ROUNDS),
        ("expected_records", plan.expected_records, 1, 2**31),
        ("helpers", plan.helpers, 0, MAX_HELPERS),
        ("max_colluding", plan.max_colluding, 0, MAX_HELPERS),
        ("ring_bits", plan.ring_bits, RING_BITS, RING_BITS),
        ("units_bound", plan.units_bound, 1, 2**RING_BITS),
    )
    for key, value, least, most in limits:
        if not least <= value <= most:
            raise _refused(key, f"it must lie between {least} and {most}", "correct it")
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
    if not MIN_SHARE_VARIANCE <= plan.share_variance <= noise.MAX_VARIANCE:
        raise _refused("grid", "a noise share's variance is out of range", "use a finer grid")


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
