"""The rule by which a run may end early."""

import math

import pytest

from tacit.learn.early_stop import losses_from_bytes, losses_to_bytes, should_stop

NAN = math.nan


def stop_after(losses, patience):
    """The number of rounds after which the rule ends a run; None if it never does."""
    rounds = range(1, len(losses) + 1)
    return next((n for n in rounds if should_stop(losses[:n], patience)), None)


def test_a_falling_loss_never_stops():
    assert stop_after([1 / n for n in range(1, 50)], 3) is None


@pytest.mark.parametrize("patience", [1, 3, 10])
def test_a_rising_loss_stops_after_the_patience(patience):
    assert stop_after([0.1 * n for n in range(50)], patience) == patience + 2


def test_one_bad_round_is_smoothed_away():
    losses = [1 / n for n in range(1, 40)]
    losses[20] += 0.05
    assert stop_after(losses, 5) is None


def test_what_the_noise_drowned_does_not_count():
    assert stop_after([NAN] * 100, 3) is None
    assert stop_after([1.0, NAN, NAN, NAN, NAN, 0.5], 3) is None
    assert stop_after([1.0, NAN, 2.0, NAN, 2.0, NAN, NAN, 2.0], 2) == 8


def test_without_patience_nothing_stops():
    assert stop_after([1.0, 2.0, 3.0] * 20, 0) is None


def test_losses_survive_their_storage():
    losses = [0.5, NAN, 1e300]
    again = losses_from_bytes(losses_to_bytes(losses))
    assert again[0] == 0.5
    assert math.isnan(again[1])
    assert again[2] == 1e300
