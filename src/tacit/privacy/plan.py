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
from typing import Any, Literal, get_args

import rfc8785

from tacit.errors import ConfigError, DecodeError
from tacit.privacy import accounting, integers, noise, sampling
from tacit.privacy.events import Adjacency, Observer, Releases, Sampling, SamplingKind

__all__ = ["ADJACENCY", "Plan", "Unit", "refused", "room", "share_variances", "tail", "too_narrow"]

Unit = Literal["record", "entity", "client", "none"]
"""What one neighbour is: a record, all records of an entity, a whole client, or nothing at all."""

ADJACENCY: dict[Unit, Adjacency] = {
    "record": "add-or-remove",
    "entity": "add-or-remove",
    "client": "zero-out",
}
"""That a client is enrolled is in the roster, which everybody in the federation has signed."""

RING_BITS = (16, 24, 32)
"""Widths of the ring that a job may choose."""

MAX_HELPERS = 2**7
"""With ``noise.MAX_DRAWS`` and ``accounting.MAX_ROUNDS`` it keeps a run below 2**52 samples, which the
accountant assumes."""

MIN_SHARE_VARIANCE = 8
"""Below this the lemmas' factors would no longer be negligible (design note, section 3)."""

TAIL = 9
"""Standard deviations of noise that the ring leaves room for: exceeded with probability 6e-18."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The mechanism's public parameters.

    Args:
        unit: Unit of privacy.
        rounds: Releases at most.
        delta: Of the whole run.
        clip_norm: L2 bound of one unit's row (unit ``none``: of one client's vector).
        sampling_rate: Poisson rate of units in every round.
        visible_sampling: Whether leader and helpers see who was sampled (unit ``client``: those who
            were not do not upload); otherwise nobody but the data holder does.
        max_participations: In how many rounds one client is sampled at most; 0 for no cap.
        expected_units: Public constant; with the rate it makes the constant divisor of the sum.
        noise_multiplier: Guaranteed noise in units of the sensitivity; 0.0 for unit ``none``.
        helpers: Number m of helpers' operators.
        max_colluding: Number t of helpers whose shares are not counted.
        min_helpers: Fewest helpers present in a round; each of those adds one share of noise.
        ring_bits: Width b of the ring of the sum: 16, 24 or 32.
        grid: Value of one integer unit.
        units_bound: How many units (or clients) the ring has room for in one sum.

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
    visible_sampling: bool
    max_participations: int
    expected_units: int
    noise_multiplier: float
    helpers: int
    max_colluding: int
    min_helpers: int
    ring_bits: int
    grid: float
    units_bound: int

    def __post_init__(self) -> None:
        _check_common(self)
        _check_sampling(self)
        if self.private:
            _check_noise(self)
        elif self.noise_multiplier != 0.0:
            raise refused("noise_multiplier", "unit 'none' has no noise", "set it to 0.0")
        _check_presence(self)
        if self.private:
            _check_shares(self)
        if self.coordinate_bound < (1 if self.rotated else self.sensitivity):
            raise too_narrow(self)

    @property
    def private(self) -> bool:
        """Whether the run has differential privacy."""
        return self.unit != "none"

    @property
    def sensitivity(self) -> int:
        """The exact integer L2 sensitivity D."""
        return integers.sensitivity(self.clip_norm, self.grid)

    @property
    def rotated(self) -> bool:
        """Whether contributions are rotated, saturated and rounded at random: unit none, 16 bits.

        Their rounded norm may exceed the sensitivity, up to ``integers.rounded_norm_bound``.
        """
        return not self.private and self.ring_bits == min(RING_BITS)

    @property
    def coordinate_bound(self) -> int:
        """The largest magnitude, in integer units, of one coordinate of one unit's contribution.

        At most the sensitivity. A sum of ``units_bound`` of these and ``coordinate_noise_tail`` is
        at most ``2**(ring_bits - 1) - 1``. Only where ``rotated`` is it less than the sensitivity.
        """
        largest = room(self.ring_bits, self.units_bound, self.coordinate_noise_tail)
        return min(self.sensitivity, largest)

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
        if not self.private:
            return (0,) * (self.helpers - self.min_helpers + 1)
        return share_variances(
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
        return self.sampling_rate * self.expected_units

    @property
    def coordinate_noise_tail(self) -> int:
        """What the noise of one coordinate exceeds with probability 6e-18 at most, in any round."""
        return tail(self._largest_variance())

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
        if not self.private:
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
        if not self.private or colluding >= self.min_helpers:
            return 0.0
        return _noise_ratio(self._variance_against(colluding), self.sensitivity)

    def releases(self, rounds: int, colluding: int | None = None) -> Releases | None:
        """What ``rounds`` rounds release to whoever knows the noise of ``colluding`` helpers.

        Returns:
            None where nothing is promised: for unit ``none``, and against all helpers of a round.
        """
        noise_ratio = self.noise_ratio(colluding)
        if self.unit == "none" or noise_ratio == 0.0:
            return None
        kind: SamplingKind = "visible" if self.visible_sampling else "secret"
        return Releases(
            unit=self.unit,
            adjacency=ADJACENCY[self.unit],
            noise_ratio=noise_ratio,
            sampling=Sampling(
                "none" if self.sampling_rate == 1.0 else kind,
                sampling.realised_rate(self.sampling_threshold),
            ),
            rounds=rounds,
            participations=self.max_participations or None,
        )

    def epsilon(
        self,
        rounds: int | None = None,
        colluding: int | None = None,
        observer: Observer = "released-models",
    ) -> float:
        """Epsilon after ``rounds`` releases against ``colluding`` helpers who pool their shares.

        Args:
            rounds: All rounds of the plan by default.
            colluding: ``max_colluding`` by default. A party that is no helper counts as none.
            observer: Who looks. It makes a difference with ``visible_sampling`` alone: who sees the
                cohorts gets no amplification.

        Returns:
            An upper bound at the plan's delta, the worst over the number of helpers present in each
            round; infinity for unit ``none`` (unless no round was released) and for
            ``colluding >= min_helpers``, who may be all the helpers of a round.

        Raises:
            ValueError: A negative count.

        Guarantee:
            Monotone in both counts, and never amplified for who sees the sampling.
            Checked by ``tests/unit/test_privacy_plan.py::test_epsilon_grows_with_the_coalition``,
            ``::test_epsilon_grows_with_the_rounds``,
            ``::test_epsilon_is_the_worst_over_who_is_present`` and
            ``::test_who_sees_the_cohort_gets_no_amplification``.
        """
        rounds = self.rounds if rounds is None else rounds
        if rounds < 0:
            raise ValueError("rounds must not be negative")
        if rounds == 0:
            return 0.0
        releases = self.releases(rounds, colluding)
        if releases is None:
            return math.inf
        return accounting.price([releases], observer=observer, delta=self.delta)

    def charge(self, rounds: int | None = None) -> float:
        """What a data holder pays for so many of its uploads: epsilon against the run's own parties.

        Args:
            rounds: All rounds of the plan by default.
        """
        return self.epsilon(rounds, observer="leader")

    def to_record(self) -> dict[str, str | int | bool]:
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


def room(ring_bits: int, units: int, tail: int) -> int:
    """The wrap-around bound: what one coordinate of one of ``units`` contributions may be, at most.

    ``units`` of these and the noise stay within ``2**(ring_bits - 1) - 1``; 0 or less if none can.
    """
    return ((1 << (ring_bits - 1)) - 1 - tail) // units


@lru_cache(maxsize=1024)
def share_variances(
    multiplier: float, bound: int, colluding: int, least: int, most: int
) -> tuple[int, ...]:
    """ceil((z D)**2 / (p - t)) for p from ``least`` to ``most`` helpers present, exactly."""
    target = (Fraction(multiplier) * bound) ** 2
    return tuple(
        -(-target.numerator // (target.denominator * (present - colluding)))
        for present in range(least, most + 1)
    )


def tail(variance: int) -> int:
    """What one coordinate of noise exceeds with probability 6e-18 at most."""
    return math.isqrt(TAIL**2 * variance) + (1 if variance else 0)


def _noise_ratio(variance: int, bound: int) -> float:
    """sqrt(V - 4) / D, rounded down: the noise of the continuous mechanism behind the integers."""
    return math.nextafter(math.sqrt(Fraction(variance - 4, bound**2)) * (1.0 - 2.0**-50), 0.0)


def _check_common(plan: Plan) -> None:
    limits = (
        ("rounds", plan.rounds, 1, accounting.MAX_ROUNDS),
        ("expected_units", plan.expected_units, 1, 2**31),
        ("helpers", plan.helpers, 0, MAX_HELPERS),
        ("max_colluding", plan.max_colluding, 0, MAX_HELPERS),
        ("min_helpers", plan.min_helpers, 0, plan.helpers),
        ("units_bound", plan.units_bound, 1, 2 ** max(RING_BITS)),
    )
    for key, value, least, most in limits:
        if not least <= value <= most:
            raise refused(key, f"it must lie between {least} and {most}", "correct it")
    if plan.ring_bits not in RING_BITS:
        raise refused("ring_bits", "it must be 16, 24 or 32", "set it to 32")
    if plan.unit not in get_args(Unit):
        raise refused("unit", f"it must be one of {', '.join(get_args(Unit))}", "correct it")
    if not accounting.MIN_DELTA <= plan.delta < 1.0:
        raise refused("delta", f"it must lie in [{accounting.MIN_DELTA}, 1)", "choose 1e-5, say")
    for key, real in (("clip_norm", plan.clip_norm), ("grid", plan.grid)):
        if not 1e-60 < real < 1e60:
            raise refused(key, "it must lie between 1e-60 and 1e60", "choose a number such as 1.0")
    try:
        integers.sensitivity(plan.clip_norm, plan.grid)
    except ValueError as error:
        raise refused("grid", str(error), "correct it") from error


def _check_sampling(plan: Plan) -> None:
    if not 2.0**-64 <= plan.sampling_rate <= 1.0:
        raise refused("sampling_rate", "it must lie in (0, 1]", "choose a number such as 0.5")
    if not 0 <= plan.max_participations <= plan.rounds:
        raise refused("max_participations", "it must lie in 0 to rounds", "leave it out")
    if plan.unit != "client" and (plan.visible_sampling or plan.max_participations):
        raise refused(
            "client_sampling",
            "only clients are sampled in sight of others, or a limited number of times",
            "leave client_sampling and max_participations out, or set unit to 'client'",
        )


def _check_noise(plan: Plan) -> None:
    if plan.max_colluding < 1:
        raise refused(
            "max_colluding",
            "it must be at least 1: every helper can subtract its own noise",
            "set it to 1 or more",
        )
    if plan.max_colluding >= plan.helpers:
        raise refused(
            "max_colluding",
            f"all {plan.helpers} helpers could collude and subtract all the noise",
            "lower it below the number of helpers, or add helpers",
        )
    if not 0.0 < plan.noise_multiplier <= 2.0**20:
        raise refused("noise_multiplier", "it must lie in (0, 2**20]", "raise epsilon")


def _check_presence(plan: Plan) -> None:
    """Every round that may happen has an honest helper, and a masked one more than one helper."""
    if not plan.helpers:
        return
    least, danger = max(2, plan.max_colluding + 1), "no honest one might be left in a round"
    if not plan.private:
        # Any two rounds share an honest helper, who answers for one and the same cohort only.
        least = max(least, (plan.helpers + plan.max_colluding) // 2 + 1)
        danger = "two rounds without noise might share no honest one"
    if plan.min_helpers < least:
        own = plan.max_colluding == plan.helpers - 1
        hint = " (privacy.noise = 'own' counts on all others colluding)" if own else ""
        raise refused(
            "min_helpers",
            f"with {plan.min_helpers} helpers present and up to {plan.max_colluding} colluding "
            f"{danger}",
            f"raise aggregation.min_helpers to {least} or more, or lower privacy.max_colluding{hint}",
        )


def _check_shares(plan: Plan) -> None:
    smallest, largest = plan.share_variance(plan.helpers), plan.share_variance(plan.min_helpers)
    if not MIN_SHARE_VARIANCE <= smallest <= largest <= noise.MAX_VARIANCE:
        raise refused("grid", "a noise share's variance is out of range", "use a finer grid")


def too_narrow(plan: Plan) -> ConfigError:
    """No grid is both fine enough to be of use and coarse enough not to wrap around."""
    reason = (
        f"so many units and so much noise do not fit into a ring of {plan.ring_bits} bits at a "
        "useful precision"
    )
    if plan.ring_bits < max(RING_BITS):
        wider = " or ".join(str(bits) for bits in sorted(RING_BITS) if bits > plan.ring_bits)
        return refused(
            "ring_bits", reason, f"set aggregation.ring_bits = {wider}, or lower sampling_rate"
        )
    key = "expected_units" if plan.private else "clip_norm"
    remedy = "raise epsilon, lower sampling_rate or use a smaller model"
    return refused(key, reason, remedy)


def _value(name: str, kind: str, value: Any) -> Any:
    """One field of a record, strictly typed."""
    if kind == "float" and isinstance(value, str) and len(value) <= 32:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and repr(number) == value:
            return number
    elif type(value) is {"int": int, "bool": bool, "Unit": str}.get(kind):
        return value
    raise DecodeError("plan.value", f"the plan's '{name}' is not valid")


def refused(key: str, reason: str, remedy: str) -> ConfigError:
    """A setting that cannot hold."""
    return ConfigError("plan.value", f"privacy plan: {key}: {reason}", remedy=remedy, key=key)
