"""One step of Opacus: per-sample gradients, clipped and added up over virtual steps.

    python -m peers.opacus_step ...     (in the folder benchmarks)

Runs in an environment of its own that holds ``opacus`` and not Tacit. A logical batch is driven as
Opacus's ``BatchMemoryManager`` does it, by ``signal_skip_step`` before every micro-batch. Not counted, in
Opacus's favour: loading and collating records, noise, accountant, the step of the optimiser.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from peers.step import CLIP_NORM, NETWORKS, WARM, Setting, Step, Total, serve

warnings.filterwarnings("ignore", message="Full backward hook")


def build(setting: Setting) -> tuple[Step, Total]:
    """A module under ``GradSampleModule`` and its ``DPOptimizer``, tried out on a few records."""
    network = NETWORKS[setting.network]()
    theta = torch.from_numpy(np.load(setting.theta).astype(np.float32))
    nn.utils.vector_to_parameters(theta, network.parameters())
    module = GradSampleModule(network)
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=setting.batch,
    )
    features, labels = setting.records()
    x, y = torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)

    def virtual_steps(count: int, size: int) -> None:
        for parameter in module.parameters():
            parameter.summed_grad = None
        for start in range(0, count, size):
            batch = slice(start, start + size)
            optimizer.signal_skip_step(do_skip=True)
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()

    def total() -> NDArray[np.float64]:
        sums = [parameter.summed_grad.reshape(-1) for parameter in module.parameters()]
        return torch.cat(sums).to(torch.float64).numpy()

    virtual_steps(WARM, WARM)
    return lambda: virtual_steps(setting.batch, setting.micro_batch), total


if __name__ == "__main__":
    serve(build)
