"""Linear layers in closed form: a record's gradient of a weight is an outer product.

The product of what comes back through the layer's output and of what went into it: two vectors tell it,
and nobody need hold the matrix of every record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn

__all__ = ["outer_product_layers", "own_name", "watched"]


Change = Callable[[str, Tensor, Tensor], Tensor]
"""A layer's name, what went into it and its output, to the output that others see."""


def outer_product_layers(
    module: nn.Module, trainable: Collection[str], features: int
) -> dict[str, nn.Linear]:
    """The linear layers of which the closed form holds, by name.

    Plain ones with a trainable weight, called once per record, on one vector, whose parameters reach the
    logits in no other way: where the layer computes with copies of them, the graph has no path to them.

    Args:
        module: Takes ``float32[1, features]``.
        trainable: Names of its trainable parameters.
        features: Number of features of a record.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if _is_plain(layer) and own_name(name, "weight") in trainable
    }
    calls: dict[str, list[torch.Size]] = {name: [] for name in layers}

    def cut_off(name: str, given: Tensor, output: Tensor) -> Tensor:
        layer = layers[name]
        calls[name].append(given.shape)
        bias = None if layer.bias is None else layer.bias.detach()
        return nn.functional.linear(given, layer.weight.detach(), bias)

    anchor = torch.zeros((), requires_grad=True)  # the graph of a module of such layers alone
    with _changed(layers, cut_off):
        logits = module(torch.zeros(1, features)) + anchor
    parameters = dict(module.named_parameters())
    paths = torch.autograd.grad(
        logits.sum(), [parameters[name] for name in trainable], allow_unused=True
    )
    reached = {name for name, path in zip(trainable, paths, strict=True) if path is not None}
    return {
        name: layer
        for name, layer in layers.items()
        if calls[name] == [(1, layer.in_features)]
        and reached.isdisjoint(own_name(name, kind) for kind in ("weight", "bias"))
    }


@contextmanager
def watched(
    layers: Mapping[str, nn.Linear], shifts: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """While it lasts, every layer adds its shift to its output and notes what went into it.

    The gradient of a shift of zero is what comes back through the layer's output.
    """
    inputs: dict[str, Tensor] = {}

    def shifted(name: str, given: Tensor, output: Tensor) -> Tensor:
        inputs[name] = given
        return output + shifts[name]

    with _changed(layers, shifted):
        yield inputs


def own_name(layer: str, kind: str) -> str:
    """The name of a layer's ``weight`` or ``bias`` in the module."""
    return f"{layer}.{kind}" if layer else kind


@contextmanager
def _changed(layers: Mapping[str, nn.Linear], change: Change) -> Iterator[None]:
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(_hook(name, change), with_kwargs=True))
        yield


def _hook(name: str, change: Change) -> Callable[..., Tensor]:
    def hook(
        _layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> Tensor:
        return change(name, given[0] if given else named["input"], output)

    return hook


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Not a subclass, and with nothing of its owner's around its ``forward``."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)  # noqa: SLF001 - no public way to ask
    return type(layer) is nn.Linear and not any(hooks) and "forward" not in vars(layer)
