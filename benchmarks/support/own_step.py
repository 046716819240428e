"""One step of Tacit: the site's whole sum of clipped, encoded, checked per-record gradients.

python -m support.own_step ...     (in the folder benchmarks)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from peers.step import CLASSES, CLIP_NORM, FEATURES, NETWORKS, WARM, Setting, Step, Total, serve

from tacit.learn.gradient_sum import record_sum
from tacit.learn.torch_model import TorchModel

GRID = 2.0**-21
"""Room for 1,024 records in the 32-bit ring."""


def build(setting: Setting) -> tuple[Step, Total]:
    """The network as a ``TorchModel``, tried out on a few records."""
    model = TorchModel(NETWORKS[setting.network], features=FEATURES, classes=CLASSES)
    theta = np.load(setting.theta)
    features, labels = setting.records()
    last: list[NDArray[np.int64]] = []

    def add_up(count: int, size: int) -> None:
        x, y, everyone = features[:count], labels[:count], np.ones(count, dtype=bool)
        public = {"clip_norm": CLIP_NORM, "grid": GRID}
        last[:] = [record_sum(model, theta, x, y, everyone, micro_batch=size, **public)]

    add_up(WARM, WARM)
    return lambda: add_up(setting.batch, setting.micro_batch), lambda: last[0] * GRID


if __name__ == "__main__":
    serve(build)
