"""The accountant: what integers and helpers cost beside a trusted server's noise, and its seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from support.machine import Row, median_s, row, say
from tacit.privacy.accounting import calibrate, epsilon
from tacit.privacy.calibration import make_plan
from tacit.privacy.plan import Plan

DELTA = 1e-5


class Setting(NamedTuple):
    """A run to be planned."""

    epsilon: float
    rate: float
    rounds: int

    @property
    def label(self) -> str:
        """The run in a row's name."""
        return f"eps {self.epsilon:g}, q={self.rate:g}, T={self.rounds}"


SETTINGS = (
    Setting(0.9, 0.5, 40),
    Setting(1.0, 0.1, 150),
    Setting(3.0, 0.1, 150),
    Setting(8.0, 0.1, 150),
    Setting(3.0, 0.1365, 300),
    Setting(3.0, 1.0, 50),
    Setting(3.0, 0.001, 10_000),
)


def rows(settings: Sequence[Setting], repeats: int) -> Iterator[Row]:
    """Plans against central noise; calibration and pricing from cold."""
    for setting in settings:
        say(setting.label)
        yield _against_central(setting)
        yield from _seconds(setting, repeats)


def _plan(setting: Setting) -> Plan:
    return make_plan(
        unit="record",
        epsilon=setting.epsilon,
        delta=DELTA,
        clip_norm=1.0,
        sampling_rate=setting.rate,
        expected_units=10_000,
        rounds=setting.rounds,
        helpers=10,
        max_colluding=1,
        own_noise=False,
        dimension=10_000,
    )


def _against_central(setting: Setting) -> Row:
    """The epsilon of a plan's integers against dp_accounting's of a Gaussian of the same variance."""
    plan = _plan(setting)
    ratio = math.sqrt(plan.guaranteed_variance) / plan.sensitivity
    event = dp_event.PoissonSampledDpEvent(setting.rate, dp_event.GaussianDpEvent(ratio))
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_event.SelfComposedDpEvent(event, setting.rounds))
    central, own = accountant.get_epsilon(DELTA), plan.epsilon()
    how = f"{own:.6f} certified, {central:.6f} central, the same guaranteed variance"
    return row(f"epsilon, {setting.label}", own / central, "x central", how, "<= 1.005")


def _seconds(setting: Setting, repeats: int) -> Iterator[Row]:
    """Nothing is cached between calls: each asks about a slightly different rate."""
    rates = (setting.rate * (1.0 - 1e-9 * n) for n in itertools.count(1))
    ratio = _plan(setting).noise_ratio()

    def cold(call: Callable[[float], float]) -> float:
        return median_s(lambda: call(next(rates)), repeats)

    taken = cold(
        lambda rate: epsilon(
            noise_ratio=ratio, sampling_rate=rate, rounds=setting.rounds, delta=DELTA
        )
    )
    how = "grid, composition, both bounds; nothing cached"
    yield row(f"price, {setting.label}", taken, "s", how)
    taken = cold(
        lambda rate: calibrate(
            target_epsilon=setting.epsilon, delta=DELTA, sampling_rate=rate, rounds=setting.rounds
        )
    )
    how = "to a relative 5e-5 in noise, certified; nothing cached"
    yield row(f"calibrate, {setting.label}", taken, "s", how)
