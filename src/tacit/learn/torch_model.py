"""Any ``torch.nn.Module`` as a model with per-record gradients (``torch.func``, float32, CPU).

The module is only ever called on one record, ``float32[1, features]``, vectorised by ``vmap``: it
cannot mix records even if its author tries. It runs in evaluation mode and on one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from tacit.errors import ConfigError
from tacit.learn.layout import Entry, Layout
from tacit.learn.linear_layers import outer_product_layers, own_name, watched
from tacit.learn.models import Features, Labels, mean_of_finite
from tacit.privacy.integers import Part, joined
from tacit.types import Digest

__all__ = ["Loss", "TorchModel"]

Floats = NDArray[np.float64]
Tensors = dict[str, Tensor]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``float32[1, classes]`` and labels ``int64[1]`` to a scalar."""

Rows = Callable[[Floats, Features, Labels], list[Part]]
"""Parameters and ``n`` records to the columns of a matrix with a row for each."""

_SCORE_BATCH = 256


class TorchModel:
    """A module and a loss; the parameter vector is the module's trainable parameters in order.

    Frozen parameters (``requires_grad = False``) and buffers, of integers too, are constants: drawn
    once under a fixed seed, never trained and never averaged; ``layout`` names them.

    A matrix library may round a row differently depending on where it stands in a batch, so the first
    use of a batch size checks, on public synthetic records, that this one does not; if it does, rows
    of that batch size are computed record by record.

    Guarantee:
        At a fixed ``n``, row i of ``gradients``, of its parts and of ``assess`` is a function of
        record i and ``theta`` alone, bit for bit, at any position. By construction for the record-by-record path;
        for the vectorised path by the check above, which is a measurement and not a proof. Test:
        ``tests/property/test_learn_torch.py::test_rows_are_independent``.

    Args:
        factory: Builds the module; called under a seeded CPU generator.
        features: Number of features of a record, at least 1.
        classes: Number of logits that the module returns, at least 2.
        loss: Cross-entropy by default.

    Raises:
        ConfigError: The module has batch normalisation, running statistics or dropout, is not built
            alike twice, has nothing to train, changes a buffer when called, or does not turn
            ``float32[1, features]`` into ``float32[1, classes]``.

    Reference:
        Abadi et al. 2016 (per-record gradients).
    """

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        *,
        features: int,
        classes: int,
        loss: Loss = nn.functional.cross_entropy,
    ) -> None:
        self._factory = factory
        self._features = features
        self._classes = classes
        self._loss = loss
        self._module = self._build(b"tacit constants")
        _refuse_unsuitable(self._module)
        if not _equal(self._module, self._build(b"tacit constants")):
            raise _unsuitable(
                "the model's constructor is not reproducible",
                "draw random numbers from torch's own generator only",
            )
        trainable = {
            name: value.detach()
            for name, value in self._module.named_parameters()
            if value.requires_grad
        }
        if not trainable:
            raise _unsuitable("the model has no trainable parameter", "leave requires_grad on")
        self._shapes = {name: value.shape for name, value in trainable.items()}
        self._linear: dict[str, nn.Linear] = {}
        self._position_free: dict[tuple[str, int], bool] = {}
        self._layout = _layout(self._module)
        self._try_out(_flatten(trainable))

    @property
    def dimension(self) -> int:
        """Number of trainable parameters."""
        return sum(shape.numel() for shape in self._shapes.values())

    @property
    def layout(self) -> Layout:
        """The trainable parameters in the module's order, then its constants."""
        return self._layout

    def initial(self, seed: bytes) -> Floats:
        """The module's own initialisation under ``seed``; the global generator is left alone."""
        module = self._build(seed)
        return _flatten(
            {
                name: value.detach()
                for name, value in module.named_parameters()
                if value.requires_grad
            }
        )

    def gradients(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Per-record gradients, ``float64[n, dimension]``; see ``Model.gradients``."""
        return joined(self.gradient_parts(theta, x, y))

    def gradient_parts(self, theta: Floats, x: Features, y: Labels) -> list[Part]:
        """The same by tensors, ``float32``, linear layers in closed form; see ``Model``."""
        return self._by_record("gradients", self._vectorised, theta, x, y)

    def mean_gradient(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Mean of the per-record rows; see ``Model.mean_gradient``."""
        return mean_of_finite(self.gradients(theta, x, y))

    def assess(self, theta: Floats, x: Features, y: Labels) -> Floats:
        """Loss, correctness and last score of each record, ``float64[n, 3]``; see ``Model.assess``."""
        return joined(self._by_record("assess", self._assessed, theta, x, y))

    def scores(self, theta: Floats, x: Features) -> Floats:
        """Softmax of the logits, ``float64[n, classes]``."""
        return torch.softmax(self._logits(theta, x).to(torch.float64), dim=1).numpy()

    def loss(self, theta: Floats, x: Features, y: Labels) -> float:
        """Mean loss."""
        labels = torch.from_numpy(np.array(y, dtype=np.int64))
        logits = self._logits(theta, x)
        with _one_thread():
            values = vmap(lambda row, label: self._loss(row[None], label[None]))(logits, labels)
        return float(values.to(torch.float64).mean())

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """The trainable parameters under their names in the module."""
        values = _split(np.array(theta, dtype=np.float64), self._shapes)
        return {name: value.numpy() for name, value in values.items()}

    @property
    def features(self) -> int:
        """Number of features of a record."""
        return self._features

    def exact_copy(self) -> tuple[nn.Module, Loss, dict[str, torch.Size]]:
        """For analyses: the module in float64 with its constants, the loss, and the shapes of what is trained.

        Its parameters are of no meaning; call it by ``torch.func.functional_call`` with others.
        """
        return self._build(b"tacit constants").double(), self._loss, dict(self._shapes)

    def _build(self, seed: bytes) -> nn.Module:
        # torch.manual_seed would seed accelerators too, which fork_rng(devices=[]) does not restore.
        number = int.from_bytes(
            hashlib.sha256(b"tacit torch seed v1\x00" + seed).digest()[:8], "big"
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number)
            return self._factory().to(device="cpu", dtype=torch.float32).eval()

    def _by_record(
        self, kind: str, rows: Rows, theta: Floats, x: Features, y: Labels
    ) -> list[Part]:
        """The rows at once where that is known to keep them apart, else one by one."""
        n = len(x)
        if (kind, n) not in self._position_free:
            self._position_free[kind, n] = n == 1 or self._check_positions(rows, n)
        if self._position_free[kind, n]:
            return rows(theta, x, y)
        return [np.concatenate([joined(rows(theta, x[i : i + 1], y[i : i + 1])) for i in range(n)])]

    def _vectorised(self, theta: Floats, x: Features, y: Labels) -> list[Part]:
        parameters = self._parameters(theta)
        told = {own_name(name, kind) for name in self._linear for kind in ("weight", "bias")}
        others = {name: value for name, value in parameters.items() if name not in told}
        shifts = {name: torch.zeros(1, layer.out_features) for name, layer in self._linear.items()}

        def gradient(record: Tensor, label: Tensor) -> tuple[Tensors, Tensors, Tensors]:
            def loss(others: Tensors, shifts: Tensors) -> tuple[Tensor, Tensors]:
                with watched(self._linear, shifts) as inputs:
                    logits = functional_call(self._module, parameters | others, (record[None],))
                return self._loss(logits, label[None]), inputs

            found: tuple[Any, ...] = vjp(loss, others, shifts, has_aux=True)
            value, backward, inputs = found
            # torch.func.grad would keep the whole graph, to differentiate it once more
            one = torch.ones_like(value)
            gradients, outputs = backward(one, retain_graph=False, create_graph=False)
            return gradients, outputs, inputs

        records = torch.from_numpy(np.array(x, dtype=np.float32))
        labels = torch.from_numpy(np.array(y, dtype=np.int64))
        with _one_thread():
            gradients, outputs, inputs = vmap(gradient)(records, labels)
        parts: dict[str, Part] = {name: _rows(value) for name, value in gradients.items()}
        for name in self._linear:
            parts[own_name(name, "weight")] = (_rows(outputs[name]), _rows(inputs[name]))
            parts[own_name(name, "bias")] = _rows(outputs[name])
        return [parts[name] for name in self._shapes]

    def _assessed(self, theta: Floats, x: Features, y: Labels) -> list[Part]:
        def assess(record: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(self._module, parameters, (record[None],))
            right = (logits.argmax(dim=1) == label).to(torch.float64)[0]
            loss = self._loss(logits, label[None]).to(torch.float64)
            return torch.stack([loss, right, torch.softmax(logits.to(torch.float64), dim=1)[0, -1]])

        parameters = self._parameters(theta)
        records = torch.from_numpy(np.array(x, dtype=np.float32))
        labels = torch.from_numpy(np.array(y, dtype=np.int64))
        with _one_thread(), torch.no_grad():
            return [vmap(assess)(records, labels).numpy()]

    def _logits(self, theta: Floats, x: Features) -> Tensor:
        parameters = self._parameters(theta)
        records = torch.from_numpy(np.array(x, dtype=np.float32))
        with _one_thread(), torch.no_grad():
            blocks = [
                vmap(lambda record: functional_call(self._module, parameters, (record[None],))[0])(
                    block
                )
                for block in torch.split(records, _SCORE_BATCH)
            ]
        return torch.cat(blocks)

    def _parameters(self, theta: Floats) -> Tensors:
        return _split(np.array(theta, dtype=np.float32), self._shapes)

    def _check_positions(self, rows: Rows, n: int) -> bool:
        """Whether moving a record, or changing all others, leaves its row as it was."""
        public = np.random.Generator(np.random.PCG64(n))
        theta = 0.1 * public.standard_normal(self.dimension)
        x = public.standard_normal((n, self._features))
        y = public.integers(0, self._classes, n)

        def digests(x: Floats, y: Labels) -> list[bytes]:
            parts = rows(theta, x, y)
            matrices = [m for part in parts for m in (part if isinstance(part, tuple) else (part,))]
            digested = (b"".join(matrix[i].tobytes() for matrix in matrices) for i in range(n))
            return [hashlib.sha256(row).digest() for row in digested]

        reference = digests(x, y)
        moved = digests(np.roll(x, 1, axis=0), np.roll(y, 1))
        turned = digests(x[::-1], y[::-1])
        alone = x.copy()
        alone[1:] = 0.0
        return (
            moved == reference[-1:] + reference[:-1]
            and turned == reference[::-1]
            and digests(alone, y)[0] == reference[0]
        )

    def _try_out(self, theta: Floats) -> None:
        """One gradient of a zero record, so that an unusable module is refused before a run."""
        x, y = np.zeros((1, self._features)), np.zeros(1, dtype=np.int64)
        try:
            shape = tuple(self._logits(theta, x).shape)
            self._linear = outer_product_layers(self._module, self._shapes, self._features)
            self._vectorised(theta, x, y)
            changed = set(_layout(self._module).entries) - set(self._layout.entries)
        except Exception as error:
            raise _unsuitable(
                f"the model fails on one record: {type(error).__name__}: {error}",
                f"forward must take float32[1, {self._features}] and be usable under torch.func.vmap",
            ) from error
        if shape != (1, self._classes):
            raise _unsuitable(
                f"the model returns shape {shape} for one record, not (1, {self._classes})",
                "return one logit per class",
            )
        if changed:
            raise _unsuitable(
                f"calling the model changes its buffer '{min(entry.name for entry in changed)}'",
                "leave buffers as they are in forward(): they are constants of the run",
            )


def _refuse_unsuitable(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        tracked = bool(getattr(layer, "track_running_stats", False))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) or tracked:  # noqa: SLF001 - the base
            raise _unsuitable(
                f"layer '{name}' ({kind}) mixes records through batch statistics",
                "use torch.nn.GroupNorm; training.local_layers can keep its scale and shift at each site",
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd):  # noqa: SLF001 - the common base
            raise _unsuitable(
                f"layer '{name}' ({kind}) makes a record's gradient random", "remove the layer"
            )


def _layout(module: nn.Module) -> Layout:
    """Trainable parameters first: their order is that of the parameter vector."""
    parameters = dict(module.named_parameters())
    trained = [
        Entry(name, tuple(value.shape), _type(value), "shared")
        for name, value in parameters.items()
        if value.requires_grad
    ]
    frozen = {name: value for name, value in parameters.items() if not value.requires_grad}
    constants = [
        Entry(name, tuple(value.shape), _type(value), "constant", content=_content(value))
        for name, value in {**frozen, **dict(module.named_buffers())}.items()
    ]
    return Layout((*trained, *constants))


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _content(value: Tensor) -> Digest:
    octets = value.detach().reshape(-1).contiguous().view(torch.uint8).numpy()
    return Digest(hashlib.sha256(octets.tobytes()).digest())


def _equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = ([*module.parameters(), *module.buffers()] for module in (one, other))
    return all(torch.equal(mine, its) for mine, its in zip(ours, theirs, strict=True))


def _unsuitable(message: str, remedy: str) -> ConfigError:
    return ConfigError("learn.module", message, remedy=remedy)


def _flatten(parameters: Tensors) -> Floats:
    return np.concatenate(
        [value.to(torch.float64).reshape(-1).numpy() for value in parameters.values()]
    )


def _rows(values: Tensor) -> NDArray[np.float32]:
    """``float32[n, ...]`` as a matrix."""
    rows: NDArray[np.float32] = values.reshape(len(values), -1).numpy()
    return rows


def _split(theta: Floats | NDArray[np.float32], shapes: dict[str, torch.Size]) -> Tensors:
    """``theta`` as tensors, which share its memory."""
    parts = torch.split(torch.from_numpy(theta), [shape.numel() for shape in shapes.values()])
    return {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """How many threads share a sum decides how it is rounded: take one, then restore."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
