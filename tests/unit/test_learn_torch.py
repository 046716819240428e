"""Torch modules: gradients, initialisation, and the modules that are refused."""

from random import random

import numpy as np
import pytest

from tacit.errors import ConfigError
from tacit.learn.models import LogisticRegression
from tacit.privacy.integers import joined
from tacit.testing.sums import record_sum

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tacit.learn.torch_model import TorchModel  # noqa: E402


def small():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def records(n=6, k=4, classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, k)), rng.integers(0, classes, n)


def test_gradients_match_finite_differences():
    model = TorchModel(small, features=4, classes=3)
    x, y = records()
    theta = model.initial(b"seed")
    gradients = model.gradients(theta, x, y)
    assert gradients.shape == (6, model.dimension)
    for i in range(2):
        one = (x[i : i + 1], y[i : i + 1])
        for j, unit in enumerate(np.eye(model.dimension)):
            change = model.loss(theta + 0.01 * unit, *one) - model.loss(theta - 0.01 * unit, *one)
            assert gradients[i, j] == pytest.approx(change / 0.02, abs=2e-4)


def test_a_linear_module_equals_logistic_regression():
    ours = LogisticRegression(4, 3)
    theirs = TorchModel(lambda: nn.Linear(4, 3), features=4, classes=3)
    x, y = records()
    theta = np.random.default_rng(1).normal(size=15)
    assert theirs.gradients(theta, x, y) == pytest.approx(ours.gradients(theta, x, y), abs=1e-6)
    assert theirs.scores(theta, x) == pytest.approx(ours.scores(theta, x), abs=1e-6)
    assert theirs.loss(theta, x, y) == pytest.approx(ours.loss(theta, x, y), abs=1e-6)


def test_scores_cover_more_records_than_one_block():
    model = TorchModel(small, features=4, classes=3)
    x, _ = records(600)
    scores = model.scores(model.initial(b""), x)
    assert scores.shape == (600, 3)
    assert scores.sum(axis=1) == pytest.approx(np.ones(600), abs=1e-12)
    assert scores[599] == pytest.approx(model.scores(model.initial(b""), x[599:])[0], abs=1e-6)


def test_the_seed_alone_decides_the_first_model():
    model = TorchModel(small, features=4, classes=3)
    again = TorchModel(small, features=4, classes=3)
    torch.manual_seed(5)
    first = model.initial(b"one")
    torch.manual_seed(6)
    assert first.tobytes() == again.initial(b"one").tobytes()
    assert first.tobytes() == model.initial(b"one").tobytes()
    assert first.tobytes() != model.initial(b"two").tobytes()


def test_the_global_generator_and_thread_count_are_left_alone():
    torch.manual_seed(7)
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    model = TorchModel(small, features=4, classes=3)
    x, y = records()
    theta = model.initial(b"one")
    model.gradients(theta, x, y)
    model.scores(theta, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 2


def test_frozen_parameters_are_constants_and_no_part_of_theta():
    def factory():
        net = small()
        net[0].requires_grad_(requires_grad=False)
        return net

    model = TorchModel(factory, features=4, classes=3)
    again = TorchModel(factory, features=4, classes=3)
    assert model.dimension == 5 * 3 + 3
    assert list(model.tensors(model.initial(b""))) == ["2.weight", "2.bias"]
    x, _ = records()
    theta = model.initial(b"one")
    assert model.scores(theta, x).tobytes() == again.scores(theta, x).tobytes()


def test_tensors_carry_the_module_s_names_and_values():
    model = TorchModel(small, features=4, classes=3)
    theta = model.initial(b"one")
    net = small().double()
    net.load_state_dict({k: torch.from_numpy(v) for k, v in model.tensors(theta).items()})
    x, _ = records()
    expected = torch.softmax(net(torch.from_numpy(x)), dim=1).detach().numpy()
    assert model.scores(theta, x) == pytest.approx(expected, abs=1e-6)


def test_a_non_finite_record_contributes_zero_and_harms_no_other():
    model = TorchModel(small, features=4, classes=3)
    x, y = records(8)
    x[2, 1] = np.nan
    theta = model.initial(b"one")
    public = {"clip_norm": 1.0, "grid": 2.0**-20, "micro_batch": 8}
    everyone = record_sum(model, theta, x, y, np.ones(8, bool), **public)
    healthy = record_sum(model, theta, x, y, np.arange(8) != 2, **public)
    assert everyone.any()
    assert (everyone == healthy).all()


def test_a_batch_size_whose_rows_depend_on_position_is_done_record_by_record(monkeypatch):
    model = TorchModel(small, features=4, classes=3)
    theta = model.initial(b"one")
    honest = model._vectorised

    def position_dependent(theta, x, y):
        (outputs, inputs), *rest = honest(theta, x, y)
        return [(outputs * (1 + 1e-6 * np.arange(len(x)))[:, None], inputs), *rest]

    monkeypatch.setattr(model, "_vectorised", position_dependent)
    x, y = records()
    together = model.gradients(theta, x, y)
    moved = model.gradients(theta, np.roll(x, 1, axis=0), np.roll(y, 1))
    assert np.roll(moved, -1, axis=0).tobytes() == together.tobytes()
    assert together[3].tobytes() != joined(position_dependent(theta, x, y))[3].tobytes()


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


UNSUITABLE = [
    (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "'1' (BatchNorm1d)", "GroupNorm"),
    (
        lambda: nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True), nn.Linear(4, 3)),
        "(InstanceNorm1d)",
        "GroupNorm",
    ),
    (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)), "(Dropout)", "remove"),
    (nn.Identity, "no trainable parameter", "requires_grad"),
    (lambda: nn.Linear(4, 2), "shape (1, 2)", "one logit per class"),
    (lambda: nn.Linear(5, 3), "fails on one record", "float32[1, 4]"),
    (lambda: Branching(4, 3), "fails on one record", "vmap"),
    (lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(init=random())), "not reproducible", "torch"),
]


@pytest.mark.parametrize(("factory", "message", "remedy"), UNSUITABLE)
def test_unsuitable_modules_are_refused_with_a_remedy(factory, message, remedy):
    with pytest.raises(ConfigError) as caught:
        TorchModel(factory, features=4, classes=3)
    assert caught.value.code == "learn.module"
    assert message in caught.value.message
    assert remedy in caught.value.remedy
