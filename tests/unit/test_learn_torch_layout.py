"""The layout of torch modules: buffers and frozen parameters are named constants."""

import hashlib

import numpy as np
import pytest

from tacit.errors import ConfigError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tacit.learn.torch_model import TorchModel  # noqa: E402


class Net(nn.Module):
    """A frozen projection, an integer buffer that picks features, and a scalar that is never set."""

    def __init__(self, order=(2, 0, 1, 3), *, seen=7):
        super().__init__()
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("seen", torch.tensor(seen), persistent=False)
        self.register_buffer("flags", torch.zeros(0, dtype=torch.bool))
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(requires_grad=False)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.frozen(x[:, self.order]))))


def model(factory=Net):
    return TorchModel(factory, features=4, classes=3)


def test_every_tensor_of_the_state_is_named_with_its_role():
    roles = {entry.name: (entry.role, entry.dtype, entry.shape) for entry in model().layout.entries}
    assert roles == {
        "norm.weight": ("shared", "float32", (4,)),
        "norm.bias": ("shared", "float32", (4,)),
        "head.weight": ("shared", "float32", (3, 4)),
        "head.bias": ("shared", "float32", (3,)),
        "frozen.weight": ("constant", "float32", (4, 4)),
        "frozen.bias": ("constant", "float32", (4,)),
        "order": ("constant", "int64", (4,)),
        "seen": ("constant", "int64", ()),
        "flags": ("constant", "bool", (0,)),
    }


def test_only_trained_parameters_are_in_the_vector_at_their_offsets():
    made = model()
    theta = made.initial(b"seed")
    assert made.dimension == made.layout.dimension == len(theta) == 4 + 4 + 12 + 3
    for name, start in made.layout.offsets().items():
        tensor = made.tensors(theta)[name]
        assert tensor.reshape(-1).tolist() == theta[start : start + tensor.size].tolist()


def test_an_integer_buffer_is_digested_exactly():
    (order,) = (entry for entry in model().layout.entries if entry.name == "order")
    content = np.array([2, 0, 1, 3], dtype="<i8").tobytes()
    assert order.content == hashlib.sha256(content).digest()


def test_sites_with_other_constants_have_other_digests():
    assert model().layout.digest == model().layout.digest

    class OtherProjection(Net):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.frozen.weight[0, 0] += 1e-6

    digests = {
        made.layout.digest
        for made in (
            model(),
            model(lambda: Net((0, 2, 1, 3))),
            model(lambda: Net(seen=8)),
            model(OtherProjection),
        )
    }
    assert len(digests) == 4


def test_trained_values_are_no_part_of_the_layout():
    """The first model is derived; its values must not decide who may take part."""

    class OtherHead(Net):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.head.weight)

    assert model(OtherHead).layout.digest == model().layout.digest


def test_constants_follow_no_seed_and_no_training():
    made = model()
    before = made.layout.digest
    x, y = np.random.default_rng(0).normal(size=(6, 4)), np.arange(6) % 3
    made.gradients(made.initial(b"one"), x, y)
    made.assess(made.initial(b"two"), x, y)
    assert TorchModel(Net, features=4, classes=3).layout.digest == before
    names = {entry.name for entry in made.layout.entries if entry.role == "constant"}
    assert not names & set(made.tensors(made.initial(b"")))


class Counting(nn.Linear):
    """Counts its calls in an integer buffer, as batch normalisation does."""

    def __init__(self, *, replace):
        super().__init__(4, 3)
        self.replace = replace
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        if self.replace:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("replace", "message"), [(True, "buffer 'calls'"), (False, "fails on one record")]
)
def test_a_module_that_changes_a_buffer_is_refused(replace, message):
    with pytest.raises(ConfigError) as caught:
        model(lambda: Counting(replace=replace))
    assert caught.value.code == "learn.module"
    assert message in caught.value.message


def test_batch_statistics_are_refused_with_both_remedies():
    with pytest.raises(ConfigError) as caught:
        model(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    assert "GroupNorm" in caught.value.remedy
    assert "training.local_layers" in caught.value.remedy


def test_records_are_assessed_like_the_mean_loss_and_the_scores():
    made = model()
    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 3
    theta = made.initial(b"seed")
    assessed = made.assess(theta, x, y)
    assert assessed.shape == (40, 3)
    assert assessed[:, 2] == pytest.approx(made.scores(theta, x)[:, -1], rel=1e-6)
    assert assessed[:, 0].mean() == pytest.approx(made.loss(theta, x, y), rel=1e-6)
    assert assessed[:, 1].tolist() == (made.scores(theta, x).argmax(axis=1) == y).tolist()
    assert 0 < assessed[:, 1].mean() < 1
