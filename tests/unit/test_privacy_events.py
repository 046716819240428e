"""Events and their price: what is refused, who gets which figure."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation

from tacit.errors import ConfigError
from tacit.privacy.accounting import MAX_ROUNDS, epsilon, price
from tacit.privacy.events import SEES_PARTICIPATION, Releases, Sampling

DELTA = 1e-5
SEEING = sorted(SEES_PARTICIPATION)


def releases(**change) -> Releases:
    """Client level, ten per cent of all clients in each of 150 rounds, no cap."""
    usual = Releases("client", "zero-out", 4.7428, Sampling("secret", 0.1), 150, None)
    return dataclasses.replace(usual, **change)


def cost(*events: Releases, observer="released-models", delta=DELTA) -> float:
    return price(events, observer=observer, delta=delta)


def in_full(ratio: float, rounds: int) -> float:
    return epsilon(noise_ratio=ratio, sampling_rate=1.0, rounds=rounds, delta=DELTA)


def test_secret_sampling_is_amplified_for_everybody():
    expected = epsilon(noise_ratio=4.7428, sampling_rate=0.1, rounds=150, delta=DELTA)
    for observer in ("released-models", *SEEING):
        assert cost(releases(), observer=observer) == expected


@pytest.mark.parametrize(
    ("noise_ratio", "claimed", "capped", "uncapped"),
    [(4.7428, 1.0, 3.467, 13.76), (1.943, 3.0, 9.956, math.inf), (1.0398, 8.0, 22.16, math.inf)],
)
def test_who_sees_the_cohort_is_never_given_the_amplified_figure(
    noise_ratio, claimed, capped, uncapped
):
    """The expected 15 participations as a cap, or none: what the claimed epsilon really is to them."""
    visible = releases(noise_ratio=noise_ratio, sampling=Sampling("visible", 0.1))
    with_cap = dataclasses.replace(visible, participations=15)
    assert cost(visible) == pytest.approx(claimed, rel=1e-4)
    for observer in SEEING:
        assert cost(with_cap, observer=observer) == in_full(noise_ratio, 15)
        assert cost(with_cap, observer=observer) == pytest.approx(capped, rel=1e-3)
        assert cost(visible, observer=observer) == in_full(noise_ratio, 150)
        assert cost(visible, observer=observer) == pytest.approx(uncapped, rel=1e-3)


def test_without_sampling_the_cap_counts_for_everybody():
    event = releases(sampling=Sampling("none", 1.0), participations=15)
    for observer in ("released-models", *SEEING):
        assert cost(event, observer=observer) == in_full(4.7428, 15)


def test_a_cap_never_costs_more_and_binds_once_it_is_small():
    amplified = cost(releases())
    capped = [cost(releases(participations=cap)) for cap in (1, 5, 15, 150)]
    assert all(a <= b for a, b in itertools.pairwise(capped))
    assert capped[-1] == capped[-2] == amplified
    assert capped[0] == in_full(4.7428, 1) < amplified


def test_different_events_compose_as_the_accountant_composes_them():
    """Two kinds of sampled rounds and one without sampling, against dp_accounting itself."""
    events = [
        releases(noise_ratio=2.0, rounds=30),
        releases(noise_ratio=4.0, sampling=Sampling("secret", 0.3), rounds=20),
        releases(noise_ratio=9.0, sampling=Sampling("none", 1.0), rounds=3),
    ]
    accountant = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in events:
        one = dp_event.PoissonSampledDpEvent(
            event.sampling.rate, dp_event.GaussianDpEvent(event.noise_ratio)
        )
        accountant.compose(dp_event.SelfComposedDpEvent(one, event.rounds))
    reference = accountant.get_epsilon(DELTA)
    found = cost(*events)
    assert reference <= found <= reference * (1 + 1e-5)
    assert found == cost(*reversed(events))
    assert max(cost(event) for event in events) < found < sum(cost(event) for event in events)


def test_equal_events_are_one_event():
    assert cost(releases(rounds=100), releases(rounds=50)) == cost(releases())


def test_each_event_is_priced_as_the_observer_sees_it():
    """One warm-up round that everybody sees, then secret sampling."""
    first = releases(sampling=Sampling("visible", 0.5), rounds=1)
    expected = cost(releases(sampling=Sampling("none", 1.0), rounds=1), releases())
    assert cost(first, releases(), observer="leader") == expected > cost(first, releases())


def test_nothing_costs_nothing():
    assert cost() == 0.0


def refusal(call) -> str:
    """The key that a refusal names."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == "accounting.unsupported"
    assert caught.value.remedy
    return str(caught.value.details["key"])


@pytest.mark.parametrize("adjacency", ["replace-one", "replace", ""])
def test_only_zeroing_and_removing_have_a_price(adjacency):
    assert refusal(lambda: releases(adjacency=adjacency)) == "adjacency"


@pytest.mark.parametrize("kind", ["fixed-size", "without-replacement", "shuffled", "poisson"])
def test_only_honest_coins_have_a_price(kind):
    assert refusal(lambda: Sampling(kind, 0.1)) == "sampling"


def test_samples_of_a_fixed_size_are_told_why():
    with pytest.raises(ConfigError, match="not independent coins"):
        Sampling("fixed-size", 0.1)


def test_unknown_units_and_observers_are_refused():
    assert refusal(lambda: releases(unit="none")) == "unit"
    assert refusal(lambda: cost(releases(), observer="public")) == "observer"
    assert refusal(lambda: cost(observer="public")) == "observer"


def test_a_sequence_has_one_unit_and_one_neighbouring_relation():
    assert refusal(lambda: cost(releases(), releases(unit="record"))) == "unit"
    assert refusal(lambda: cost(releases(), releases(adjacency="add-or-remove"))) == "adjacency"


@pytest.mark.parametrize("observer", SEEING)
def test_who_is_seen_to_take_part_cannot_be_hidden(observer):
    event = releases(adjacency="add-or-remove", sampling=Sampling("visible", 0.1))
    assert refusal(lambda: cost(event, observer=observer)) == "adjacency"
    assert cost(event) == cost(releases())


def test_too_many_rounds_or_kinds_are_refused():
    half = MAX_ROUNDS // 2 + 1
    assert refusal(lambda: cost(releases(rounds=half), releases(rounds=half))) == "rounds"
    many = [releases(noise_ratio=5.0 + n, rounds=1) for n in range(17)]
    assert refusal(lambda: cost(*many)) == "events"
    assert cost(*many[:16]) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"noise_ratio": 0.0},
        {"noise_ratio": math.nan},
        {"noise_ratio": math.inf},
        {"rounds": 0},
        {"participations": 0},
    ],
)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="must"):
        releases(**change)


@pytest.mark.parametrize(
    ("kind", "rate"), [("secret", 0.0), ("visible", 1.1), ("secret", math.nan), ("none", 0.5)]
)
def test_rates_out_of_range_are_refused(kind, rate):
    with pytest.raises(ValueError, match="rate"):
        Sampling(kind, rate)


@pytest.mark.parametrize("delta", [0.0, 1e-11, 1.0, math.nan])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        cost(releases(), delta=delta)
