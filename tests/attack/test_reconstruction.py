"""Reconstruction finds what is there: exact answers where they are known, and no more than theory allows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from tacit.attack.measure import Ceiling
from tacit.attack.reconstruction.gradients import LocalSteps, LogisticUpdates, updates_of
from tacit.attack.reconstruction.identify import evidence, members_of_sum, of_single, sampled
from tacit.attack.reconstruction.labels import (
    first_linear,
    input_of_linear,
    label_of,
    labels_of_sum,
    last_bias,
)
from tacit.attack.reconstruction.matching import Observed, Search, search
from tacit.attack.reconstruction.pool import Pool, psnr
from tacit.attack.reconstruction.runs import over_runs, shared_draws
from tacit.attack.reconstruction.span import span_of, unknowns_of
from tacit.attack.scratch import DataPool
from tacit.demo import digits, hospitals
from tacit.learn.code import load_model
from tacit.learn.models import LogisticRegression
from tacit.party.job import JobSpec
from tacit.party.workload import Workload


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("digits") / "job", digits, 64, 10)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("hospitals") / "job", hospitals, 30, 2)


def loaded(folder, demo, features, classes):
    """The computation of a bundled job and all of its public records."""
    demo.write_federation(folder, demo.split(0))
    job = JobSpec.load(folder / "job.toml")
    job = job.model_copy(
        update={"evaluation": job.evaluation.model_copy(update={"holdout": 0.0, "patience": 0})}
    )
    model = load_model(job.model, folder, features=features, classes=classes)
    workload = Workload.build(job, model, classes)
    return workload, Pool.of(workload, DataPool.load(folder / "attack" / "contract.toml"))


def drawn(name):
    return np.random.default_rng([ord(letter) for letter in name])


@pytest.mark.parametrize("classes", [2, 10])
def test_a_logistic_gradient_is_its_record(classes):
    generator = drawn("logistic")
    model = LogisticRegression(20, classes)
    updates, layout = LogisticUpdates(model), model.layout
    for label in range(classes):
        theta, x = generator.normal(size=(1, model.dimension)), generator.normal(size=(1, 20))
        gradient = 0.01 * updates.rows(theta, x, np.array([label]))[0, 0]  # as clipping rescales it
        weight, bias = (gradient[part] for part in first_linear(layout, 20))
        assert np.allclose(input_of_linear(weight.reshape(-1, 20), bias), x[0], atol=1e-6)
        assert label_of(gradient[last_bias(layout, classes)]) == label


def test_a_linear_first_layer_gives_its_record_away():
    torch = pytest.importorskip("torch")
    from tacit.attack.reconstruction.modules import ModuleUpdates
    from tacit.learn.torch_model import TorchModel

    def build():
        return torch.nn.Sequential(torch.nn.Linear(12, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))

    model = TorchModel(build, features=12, classes=3)
    x = drawn("perceptron").normal(size=(1, 12))
    gradient = ModuleUpdates(model).rows(model.initial(b"s")[None], x, np.array([2]))[0, 0]
    weight, bias = (gradient[part] for part in first_linear(model.layout, 12))
    assert np.allclose(input_of_linear(weight.reshape(7, 12), bias), x[0], atol=1e-6)
    assert label_of(gradient[last_bias(model.layout, 3)]) == 2


def test_the_derivatives_are_those_of_the_updates(digit):
    generator = drawn("derivatives")
    workload, pool = digit
    softmax = LogisticUpdates(LogisticRegression(5, 4))
    theta = workload.first(b"d" * 32).theta
    for updates, point, x in (
        (softmax, generator.normal(size=24), generator.normal(size=5)),
        (LogisticUpdates(LogisticRegression(5, 2)), generator.normal(size=6), np.ones(5)),
        (updates_of(workload), theta, pool.features[3]),
        (updates_of(workload, LocalSteps(2, 0.1)), theta, pool.features[3]),
    ):
        along, label = 1e-5 * generator.normal(size=x.shape), np.array([1])
        up, down = (updates.rows(point[None], (x + s * along)[None], label) for s in (1, -1))
        told = updates.jacobian(point[None], x[None], label) @ along
        assert np.allclose((up - down) / 2.0, told, rtol=1e-4, atol=1e-12)


def test_gradient_matching_finds_a_digit_whatever_the_scale(digit):
    workload, pool = digit
    updates, theta = updates_of(workload), workload.first(b"a" * 32).theta[None]
    seen = 0.003 * updates.rows(theta, pool.features[5:6], pool.labels[5:6])[0]
    slope = seen[:, last_bias(workload.state_layout, 10)]
    assert label_of(slope[0]) == pool.labels[5]
    target = Observed(theta, seen, pool.labels[5:6], scaled=True)
    found = search(updates, target, drawn("search"), Search(restarts=8, iterations=60))
    values = pool.restored(found.records, np.array([5]))
    assert psnr(values, pool.values[5:6])[0] > 40.0
    assert pool.reconstructed(values, np.array([5])).all()


def test_local_steps_hide_no_digit(digit):
    workload, pool = digit
    updates = updates_of(workload, LocalSteps(4, 0.1))
    theta = workload.first(b"b" * 32).theta[None]
    seen = updates.rows(theta, pool.features[9:10], pool.labels[9:10])[0]
    target = Observed(theta, seen, pool.labels[9:10], scaled=True)
    found = search(updates, target, drawn("local"), Search(restarts=8, iterations=60))
    assert pool.reconstructed(pool.restored(found.records, np.array([9])), np.array([9])).all()


@pytest.mark.slow
def test_signed_adam_finds_a_digit_too(digit):
    from tacit.attack.reconstruction.modules import cosine_descent

    workload, pool = digit
    updates, theta = updates_of(workload), workload.first(b"c" * 32).theta[None]
    seen = 7.0 * updates.rows(theta, pool.features[:1], pool.labels[:1])[0]
    start = drawn("adam").uniform(-0.5, 0.5, (1, 64))
    target = Observed(theta, seen, pool.labels[:1])
    found = cosine_descent(updates, target, start, iterations=150, image=pool.image)
    assert psnr(pool.restored(found.records, np.array([0])), pool.values[:1])[0] > 20.0


def test_one_sum_over_three_sites_falls_apart(digit):
    workload, pool = digit
    rows = np.array([1, 12, 123])
    updates, theta = updates_of(workload), workload.first(b"e" * 32).theta[None]
    total = updates.rows(theta, pool.features[rows], pool.labels[rows]).sum(axis=1)
    shares = workload.model.model.scores(theta[0], pool.features)
    labels = labels_of_sum(total[0, last_bias(workload.state_layout, 10)], shares, 3)
    assert sorted(labels) == sorted(pool.labels[rows])
    target = Observed(theta, total, labels)
    found = search(updates, target, drawn("sum"), Search(restarts=6, iterations=80))
    values = pool.restored(found.records, rows)
    assert pool.recovered(values, rows).all()
    assert not pool.recovered(np.full((3, 64), 0.5), rows).any()


def test_least_squares_names_the_members_of_a_sum(digit):
    _, pool = digit
    generator = drawn("members")
    model = LogisticRegression(64, 10)
    updates, theta = LogisticUpdates(model), 0.1 * generator.normal(size=(1, model.dimension))
    candidates = generator.choice(len(pool), 100, replace=False)
    rows = updates.rows(theta, pool.features[candidates], pool.labels[candidates])[0]
    members = np.sort(generator.choice(100, 16, replace=False))
    found, weights = members_of_sum(rows[members].sum(axis=0), rows)
    assert np.array_equal(found, members)  # recall 1, no false positive
    assert np.allclose(weights[members], 1.0, atol=1e-6)


def test_a_rescaled_update_names_its_record(digit):
    workload, pool = digit
    updates, theta = updates_of(workload), workload.first(b"f" * 32).theta[None]
    rows = updates.rows(theta, pool.features[:200], pool.labels[:200])
    for row in (0, 77, 199):
        assert of_single(1e-4 * rows[:, row], rows)[0] == row


@pytest.mark.parametrize("mu", [1.0, 2.0, 3.0])
def test_identification_under_noise_is_what_theory_says(mu):
    count, trials, generator = 64, 4000, drawn(f"gauss {mu}")
    canaries = np.eye(count)[None]  # orthogonal: the likelihood test is the best there is
    right = 0
    for _ in range(trials):
        residual = canaries[0, 0] + generator.normal(size=count) / mu
        scores = evidence(residual[None], canaries, 1.0 / mu, 1.0)
        right += int(np.argmax(scores) == 0)

    def density(x: float) -> float:
        return float(stats.norm.pdf(x - mu) * stats.norm.cdf(x) ** (count - 1))

    expected, _ = integrate.quad(density, -8.0, 12.0)
    bound = stats.norm.cdf(mu + stats.norm.ppf(1.0 / count))
    spread = np.sqrt(expected * (1.0 - expected) / trials)
    assert expected <= bound
    assert abs(right / trials - expected) < 6.0 * spread  # seeded: does not flake
    assert right / trials > 0.5 * bound  # and close to what is possible


def test_evidence_weighs_that_a_record_may_not_have_been_sampled():
    rows = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    sure = evidence(np.array([[1.0, 0.0]]), rows, 0.1, 1.0)
    maybe = evidence(np.array([[1.0, 0.0]]), rows, 0.1, 0.25)
    assert np.allclose(sure, [50.0, -50.0])
    assert np.allclose(maybe, [50.0 + np.log(0.25), np.log(0.75)], atol=1e-6)


def test_who_was_sampled_follows_from_an_exact_contribution():
    generator = drawn("sampled")
    rows = generator.integers(-(10**6), 10**6, size=(20, 31))
    chosen = generator.random(20) < 0.5
    assert np.array_equal(sampled(rows[chosen].sum(axis=0), rows), chosen)
    assert sampled(rows[chosen].sum(axis=0) + 1, rows) is None


def test_features_lead_back_to_what_was_written_down(digit, patient):
    (_, images), (_, table) = digit, patient
    rows = np.arange(0, 500, 5)
    assert np.allclose(images.restored(images.features[rows], rows), images.values[rows])
    restored = table.restored(
        table.features[rows], rows
    )  # scaling lost the length of about half of them
    assert table.close(restored, rows).mean() > 0.9
    assert table.reconstructed(restored, rows).mean() > 0.9
    assert images.image == (8, 8)
    assert table.image is None


def test_chance_is_measured_and_small(digit, patient):
    for _, pool in (digit, patient):
        assert 1.0 / len(pool) <= pool.null < 0.01
    assert 0.1 < patient[1].null_columns < 0.4  # the mean of its class is close in many columns
    other = np.roll(np.arange(len(digit[1])), 1)
    assert not digit[1].reconstructed(digit[1].values[other], np.arange(len(other))).any()


def test_intervals_over_runs_cover_what_they_must():
    same = over_runs([8, 8, 8], [8, 8, 8], null=0.1)
    assert same.value == 1.0
    assert same.low < 0.3  # three equal runs are three trials, not 24
    spread = over_runs([8, 0, 8, 0], [8, 8, 8, 8], null=0.1)
    assert spread.low == 0.0
    assert spread.high == 1.0
    none = shared_draws([0, 0], [100, 100], null=0.01, ceiling=0.02)
    assert none.value == none.low == 0.0
    assert 0.01 < none.high < 0.03
    assert none.within_ceiling


def test_a_ceiling_bounds_orthogonal_canaries():
    profile = tuple((e / 20.0, _gauss(e / 20.0, 1.0)) for e in range(201))
    ceiling = Ceiling(1.0, profile[0][1], profile)
    for count in (10, 100, 1000):
        exact = stats.norm.cdf(1.0 + stats.norm.ppf(1.0 / count))
        assert exact <= ceiling.identification(count) + 1e-12
        assert ceiling.identification(count) < 1.2 * exact


def _gauss(epsilon, mu):
    """Delta of the Gaussian mechanism (Balle and Wang 2018)."""
    first = stats.norm.cdf(mu / 2.0 - epsilon / mu)
    return float(first - np.exp(epsilon) * stats.norm.cdf(-mu / 2.0 - epsilon / mu))


@pytest.mark.parametrize("classes", [2, 10])
def test_the_span_of_sums_holds_their_records(classes):
    # 4 records of 300 columns: 16 unknowns instead of 1,200, and all are found.
    generator = np.random.default_rng(classes)
    updates = LogisticUpdates(LogisticRegression(300, classes))
    records = generator.uniform(-0.2, 0.2, (4, 300))
    labels = np.arange(4) % classes
    outputs = updates.shape[0]
    theta = 0.3 * generator.normal(size=(24 // min(outputs, 3), outputs * 301))
    totals = updates.rows(theta, records, labels).sum(axis=1)
    span = span_of(updates, Observed(theta, totals, labels))
    assert unknowns_of(updates, len(theta), 4) == 16
    found = search(
        span.updates, span.seen, generator, Search(restarts=8, iterations=100, bound=4.0)
    )
    right = np.abs(found.records @ span.basis - records[:, None]).max(axis=2).min(axis=1)
    assert (right < 1e-4).all()


def test_a_narrow_record_is_searched_for_as_it_is():
    updates = LogisticUpdates(LogisticRegression(8, 10))
    seen = Observed(np.zeros((8, 90)), np.zeros((8, 90)), np.arange(4))
    assert span_of(updates, seen) is None
    assert unknowns_of(updates, 8, 4) == 32
