"""The figures between which a reported epsilon must lie, and that it is no figure otherwise."""

from __future__ import annotations

import math

import mpmath
import pytest

from tacit.errors import VerificationError
from tacit.privacy import accounting
from tacit.privacy.accounting import epsilon
from tacit.privacy.bounds import Rounds, renyi_bound, shown_by_a_test

DELTA = 1e-5
ORDINARY = Rounds(4.0, 0.1365, 300)


def gaussian_epsilon(ratio: float, delta: float) -> float:
    """Of one release without sampling, exactly: Balle and Wang 2018, theorem 8."""
    with mpmath.workdps(40):
        r = mpmath.mpf(ratio)

        def surplus(eps: mpmath.mpf) -> mpmath.mpf:
            above = mpmath.ncdf(1 / (2 * r) - eps * r)
            return above - mpmath.exp(eps) * mpmath.ncdf(-1 / (2 * r) - eps * r) - delta

        return float(mpmath.findroot(surplus, (0, 60), solver="bisect", maxsteps=120))


@pytest.mark.parametrize(("ratio", "number"), [(3.73, 1), (10.0, 50), (0.5, 1), (120.0, 100_000)])
def test_the_test_is_exact_without_sampling(ratio, number):
    exact = gaussian_epsilon(ratio / math.sqrt(number), DELTA)
    shown = shown_by_a_test([Rounds(ratio, 1.0, number)], DELTA)
    assert exact * (1 - 1e-3) <= shown <= exact * (1 + 1e-9)


@pytest.mark.parametrize(
    "part", [ORDINARY, Rounds(2.0, 0.1, 100), Rounds(13.13, 0.5, 40), Rounds(50.0, 0.01, 10_000)]
)
def test_the_bounds_are_near(part):
    """Near enough for an epsilon that is wrong by a quarter to be noticed."""
    ratio, rate, rounds = part
    found = epsilon(noise_ratio=ratio, sampling_rate=rate, rounds=rounds, delta=DELTA)
    assert 0.75 * found < shown_by_a_test([part], DELTA) <= found
    assert found <= renyi_bound([part], DELTA) < 1.25 * found


def test_renyi_accounting_gives_the_published_figure():
    assert renyi_bound([ORDINARY], DELTA) == pytest.approx(2.726, abs=1e-3)


def test_several_kinds_of_rounds():
    other = Rounds(10.0, 1.0, 50)
    assert shown_by_a_test([ORDINARY, other], DELTA) == shown_by_a_test([other], DELTA)
    assert renyi_bound([ORDINARY, other], DELTA) > renyi_bound([other], DELTA)


def test_renyi_accounting_says_nothing_below_its_rounding():
    assert renyi_bound([Rounds(100.0, 1e-8, 10)], DELTA) == math.inf


@pytest.fixture
def one_round(monkeypatch):
    """Lets the accountant price another noise ratio than it was asked about."""
    original = accounting._one_round

    def plant(factor: float) -> None:
        monkeypatch.setattr(
            accounting,
            "_one_round",
            lambda ratio, rate, interval: original(factor * ratio, rate, interval),
        )
        accounting._epsilon.cache_clear()
        accounting._certified.cache_clear()

    yield plant
    accounting._epsilon.cache_clear()
    accounting._certified.cache_clear()


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_wrong_figure_is_an_error(one_round, factor):
    def ask() -> float:
        return epsilon(noise_ratio=4.0, sampling_rate=0.1365, rounds=300, delta=DELTA)

    one_round(1.0)
    assert ask() == pytest.approx(2.502, abs=1e-3)
    one_round(factor)
    with pytest.raises(VerificationError, match="contradicts"):
        ask()


def test_calibration_does_not_answer_with_a_wrong_figure(one_round):
    one_round(1.4)
    with pytest.raises(VerificationError, match="contradicts"):
        accounting.calibrate(target_epsilon=2.51, delta=DELTA, sampling_rate=0.13, rounds=300)
