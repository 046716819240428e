"""Membership inference finds what is there, within what theory allows, and nothing where there is nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tacit.attack.measure import Ceiling
from tacit.attack.membership import judge as judging
from tacit.attack.membership.judge import auc_ceiling, best_threshold, judge, roc
from tacit.attack.membership.scores import lira_offline, lira_online, logit_confidence, rmia
from tacit.attack.membership.updates import Observed, informed, joint, matched, over_sources
from tacit.privacy import accounting


def test_a_confidence_of_one_half_has_logit_zero():
    losses = np.array([math.log(2.0), -math.log(0.9), 1e-20, 60.0])
    found = logit_confidence(losses)
    assert found[:2] == pytest.approx([0.0, math.log(9.0)], abs=1e-12)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("attack", [lira_online, lira_offline])
def test_lira_reaches_the_closed_form_of_gaussian_scores(attack):
    generator = np.random.default_rng(1)
    shift, count, models = 1.2, 4000, 256
    centre = generator.normal(0.0, 3.0, count)
    inside = np.arange(models)[:, None] % 2 == np.arange(count)[None, :] % 2
    shadow = centre + shift * inside + generator.normal(size=(models, count))
    members = generator.random(count) < 0.5
    target = (centre + shift * members + generator.normal(size=count))[None, :]
    found = attack(target, shadow, inside)[0]
    area = stats.mannwhitneyu(found[members], found[~members]).statistic
    area /= members.sum() * (~members).sum()
    assert area == pytest.approx(stats.norm.cdf(shift / math.sqrt(2.0)), abs=0.03)


def test_online_lira_is_the_log_ratio_of_densities():
    shadow = np.array([[0.0], [2.0], [5.0], [9.0]])
    inside = np.array([[False], [False], [True], [True]])
    deviations = math.sqrt(2.0), math.sqrt(8.0)
    found = lira_online(np.array([[6.0]]), shadow, inside)[0, 0]
    expected = stats.norm.logpdf(6.0, 7.0, deviations[1]) - stats.norm.logpdf(
        6.0, 1.0, deviations[0]
    )
    assert found == pytest.approx(expected)


def test_rmia_is_the_share_of_dominated_records():
    shadow = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    inside = np.array([[True] * 4, [False] * 4])
    target = np.array([[0.4, 0.1, 0.2, 0.3]])
    everybody, half = np.ones(4, dtype=bool), np.array([False, True, True, False])
    assert rmia(target, shadow, inside, everybody)[0] == pytest.approx([1.0, 0.0, 1 / 3, 2 / 3])
    assert rmia(target, shadow, inside, half)[0] == pytest.approx([1.0, 0.0, 1.0, 1.0])


def test_a_record_that_all_shadow_models_saw_is_refused():
    with pytest.raises(ValueError, match="shadow"):
        lira_offline(np.zeros((1, 1)), np.zeros((2, 1)), np.ones((2, 1), dtype=bool))


def rounds_of(rows, members, noise, rate=1.0, seed=0, sources=1):
    generator = np.random.default_rng(seed)
    found = []
    for gradients in rows:
        sums = []
        for source in range(sources):
            here = np.flatnonzero(members)[source::sources]
            sampled = here[generator.random(len(here)) < rate]
            total = gradients[sampled].sum(axis=0)
            sums.append(total + noise * generator.normal(size=gradients.shape[1]))
        found.append(Observed.of(gradients, np.stack(sums), rate, noise))
    return found


def area(found, members):
    statistic = stats.mannwhitneyu(found[members], found[~members]).statistic
    return statistic / (members.sum() * (~members).sum())


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("length", [12, 80])
def test_exact_sums_over_enough_rounds_name_every_member(length, sources):
    generator = np.random.default_rng(2)
    rows = generator.normal(size=(6, 50, length))
    members = generator.random(50) < 0.5
    seen = rounds_of(rows, members, 0.0, sources=sources)
    found = over_sources(joint(seen, 0.5 / sources)[0])
    assert area(found, members) == 1.0
    assert ((found > 0.0) == members).all()


def test_the_filter_of_an_informed_adversary_has_the_power_of_the_gaussian_test():
    generator = np.random.default_rng(3)
    rows, noise = generator.normal(size=(1, 40, 2000)) / math.sqrt(2000), 1.0
    scores = {True: [], False: []}
    for seed in range(60):
        members = np.random.default_rng(seed).random(40) < 0.5
        found = informed(rounds_of(rows, members, noise, seed=seed), members)
        for member in (True, False):
            scores[member].extend(found[members == member])
    value = area(
        np.array(scores[True] + scores[False]),
        np.repeat([True, False], [len(scores[True]), len(scores[False])]),
    )
    assert value == pytest.approx(stats.norm.cdf(1.0 / math.sqrt(2.0)), abs=0.05)


@pytest.mark.parametrize("attack", ["matched", "joint"])
def test_noise_alone_tells_nothing(attack):
    generator = np.random.default_rng(4)
    rows = generator.normal(size=(3, 300, 20))
    members = generator.random(300) < 0.5
    seen = rounds_of(rows, np.zeros(300, dtype=bool), 50.0, rate=0.5)
    found = matched(seen, 0.5) if attack == "matched" else joint(seen, 0.5)[0]
    assert abs(area(found[:, 0], members) - 0.5) < 6 * math.sqrt(1 / (12 * 75))
    assert np.abs(found).max() < 3.0


def test_the_best_threshold_is_the_best_of_all():
    generator = np.random.default_rng(5)
    positive, negative = generator.integers(0, 8, 40) * 1.0, generator.integers(0, 6, 30) * 1.0
    threshold, gain = best_threshold(positive, negative)
    every = [(positive >= t).mean() - (negative >= t).mean() for t in np.arange(-0.5, 9.5, 0.5)]
    assert gain == pytest.approx(max(every))
    assert (positive >= threshold).mean() - (negative >= threshold).mean() == pytest.approx(gain)


def gaussian_runs(generator, runs, count, shift, common=0.0):
    members = [generator.random(count) < 0.5 for _ in range(runs)]
    scores = {
        name: [
            shift * one + generator.normal(size=count) + common * generator.normal()
            for one in members
        ]
        for name in ("one", "other")
    }
    return scores, members


def test_without_access_the_estimates_keep_their_coverage():
    generator = np.random.default_rng(6)
    inside = {"advantage": 0, "auc": 0}
    for _ in range(80):
        scores, members = gaussian_runs(generator, 5, 50, 0.0, common=1.0)
        measured = judge(scores, members, None).measured
        for metric, null in (("advantage", 0.0), ("auc", 0.5)):
            inside[metric] += measured[metric].low <= null <= measured[metric].high
    assert min(inside.values()) >= 66  # 95% of 80 less 5.1 standard deviations


def test_a_known_advantage_is_found():
    generator = np.random.default_rng(7)
    scores, members = gaussian_runs(generator, 12, 800, 1.0)
    measured = judge(scores, members, None).measured
    assert measured["advantage"].value == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.05)
    assert measured["auc"].value == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.03)
    true = 1 - stats.norm.cdf(stats.norm.ppf(0.99) - 1.0)
    assert measured["tpr_at_1"].value == pytest.approx(true, abs=0.04)
    assert measured["advantage"].above_null


def test_runs_that_all_agree_still_have_an_interval():
    members = [np.arange(50) < 25] * 3
    measured = judge({"sure": [m.astype(float) for m in members]}, members, None).measured
    assert measured["advantage"].value == 1.0
    assert measured["advantage"].low == pytest.approx(1.0 - 3.0 / 150)


def test_the_area_ceiling_is_that_of_the_gaussian_mechanism():
    epsilons = [i / 20.0 for i in range(201)]
    deltas = accounting.deltas(noise_ratio=1.0, sampling_rate=1.0, rounds=1, epsilons=epsilons)
    ceiling = Ceiling(1.0, deltas[0], tuple(zip(epsilons, deltas, strict=True)))
    exact = stats.norm.cdf(1.0 / math.sqrt(2.0))
    assert exact <= auc_ceiling(ceiling) <= exact + 0.003
    nothing = Ceiling(math.inf, 1.0, ((0.0, 1.0),))
    assert auc_ceiling(nothing) == 1.0


def test_a_roc_curve_rises_from_corner_to_corner():
    generator = np.random.default_rng(8)
    scores, members = gaussian_runs(generator, 3, 100, 1.0)
    points = roc("one", scores["one"], members).points
    assert points[0] == (0.0, 0.0) and points[-1] == (1.0, 1.0)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(points))
    assert len(points) <= judging.ROC_POINTS + 3
