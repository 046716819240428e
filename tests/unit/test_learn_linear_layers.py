"""Linear layers in closed form: which ones, and that nobody sees a difference."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tacit.learn.linear_layers import outer_product_layers  # noqa: E402
from tacit.learn.torch_model import TorchModel  # noqa: E402

FEATURES, CLASSES = 6, 3


class Net(nn.Module):
    """Two layers and a head, of which subclasses make what they like."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 5)
        self.second = nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Named(Net):
    def forward(self, x):
        return self.head(input=torch.tanh(self.second(torch.tanh(self.first(input=x)))))


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.first.weight.requires_grad_(requires_grad=False)
        self.second.bias.requires_grad_(requires_grad=False)


class NoBias(Net):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(5, 5, bias=False)


class CalledTwice(Net):
    def forward(self, x):
        return self.head(self.second(torch.tanh(self.second(torch.tanh(self.first(x))))))


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.again = nn.Linear(5, 5)
        self.again.weight = self.second.weight

    def forward(self, x):
        return self.head(torch.tanh(self.again(self.second(torch.tanh(self.first(x))))))


class UsedBefore(Net):
    """The first layer's weight has a second path that runs through other layers."""

    def forward(self, x):
        h = torch.tanh(self.first(x)) + x @ self.first.weight.T
        return self.head(torch.tanh(self.second(h)))


class UsedAfter(Net):
    def forward(self, x):
        h = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(h) + self.second.bias[:CLASSES]


class OnASequence(Net):
    def forward(self, x):
        parts = torch.stack([self.first(x), self.first(x * 2)], dim=1)
        return self.head(self.second(parts).mean(dim=1))


class Unused(Net):
    def forward(self, x):
        return self.head(torch.tanh(self.first(x)))


class Subclass(Net):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2.0 * super().forward(x)

    def __init__(self):
        super().__init__()
        self.second = Subclass.Doubled(5, 5)


class Hooked(Net):
    def __init__(self):
        super().__init__()
        self.second.register_forward_hook(lambda layer, given, output: output * 3.0)


class Gated(Net):
    """The second use counts on some records only."""

    def forward(self, x):
        h = torch.tanh(self.second(torch.tanh(self.first(x))))
        return torch.where(x.sum() > 100.0, h @ self.head.weight.T, self.head(h))


ALL = {"first", "second", "head"}
CASES = [
    (Net, ALL),
    (Named, ALL),
    (Frozen, {"second", "head"}),
    (NoBias, ALL),
    (CalledTwice, {"first", "head"}),
    (Tied, {"first", "head"}),
    (UsedBefore, {"second", "head"}),
    (UsedAfter, {"first", "head"}),
    (OnASequence, {"head"}),
    (Unused, {"first", "head"}),
    (Subclass, {"first", "head"}),
    (Hooked, {"first", "head"}),
    (Gated, {"first", "second"}),
    (lambda: nn.Linear(FEATURES, CLASSES), {""}),
]


def by_autograd(model, theta, x, y):
    """Each record's gradient by itself, with nothing but reverse-mode differentiation."""
    module = model._build(b"tacit constants")
    trainable = {k: v for k, v in module.named_parameters() if v.requires_grad}
    for name, value in model.tensors(theta).items():
        trainable[name].data = torch.from_numpy(value).float()
    rows = []
    for record, label in zip(x, y, strict=True):
        logits = module(torch.from_numpy(record[None]).float())
        loss = nn.functional.cross_entropy(logits, torch.tensor([label]))
        found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        parts = [
            torch.zeros_like(v) if g is None else g
            for g, v in zip(found, trainable.values(), strict=True)
        ]
        rows.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
    return np.array(rows)


@pytest.mark.parametrize(("factory", "expected"), CASES)
def test_the_closed_form_is_used_where_it_holds_and_changes_nothing(factory, expected):
    model = TorchModel(factory, features=FEATURES, classes=CLASSES)
    assert set(model._linear) == expected
    generator = np.random.default_rng(4)
    x = generator.normal(size=(9, FEATURES))
    x[4] += 50.0  # beyond the gate
    y = generator.integers(0, CLASSES, 9)
    theta = generator.normal(size=model.dimension)
    rows = model.gradients(theta, x, y)
    assert rows == pytest.approx(by_autograd(model, theta, x, y), rel=1e-4, abs=1e-5)
    assert np.count_nonzero(rows.any(axis=1)) >= 8  # a gradient may vanish beyond the gate


def test_a_layer_s_matrices_are_never_made():
    model = TorchModel(Net, features=FEATURES, classes=CLASSES)
    x, y = np.ones((7, FEATURES)), np.zeros(7, dtype=np.int64)
    parts = model.gradient_parts(model.initial(b""), x, y)
    shapes = [
        tuple(half.shape for half in part) if isinstance(part, tuple) else part.shape
        for part in parts
    ]
    assert shapes == [
        *(((7, 5), (7, 6)), (7, 5)),
        *(((7, 5), (7, 5)), (7, 5)),
        *(((7, 3), (7, 5)), (7, 3)),
    ]


def test_watching_leaves_no_trace():
    module = Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert set(outer_product_layers(module, dict(module.named_parameters()), FEATURES)) == ALL
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(value.grad is None for value in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
