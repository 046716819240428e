"""One step of Tacit: the site's whole sum of clipped, encoded, checked per-record gradients.

python -m support.own_step ...     (in the folder benchmarks)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from peers.step import CLASSES, CLIP_NORM, FEATURES, NETWORKS, WARM, Setting, Step, Total, serve

from tacit.learn.gradient_sum import Encoding, unit_sum
from tacit.learn.row_code import RowCode
from tacit.learn.torch_model import TorchModel

GRID = 2.0**-21
"""Room for 1,024 records in the 32-bit ring."""


def build(setting: Setting) -> tuple[Step, Total]:
    """The network as a ``TorchModel``, tried out on a few records."""
    model = TorchModel(NETWORKS[setting.network], features=FEATURES, classes=CLASSES)
    theta = np.load(setting.theta)
    records, code = setting.records(), RowCode.of(CLIP_NORM)
    last: list[NDArray[np.int64]] = []

    def add_up(count: int, size: int) -> None:
        everyone = np.arange(count)[:, None]
        last[:] = [unit_sum(model, theta, records, everyone, code, Encoding(CLIP_NORM, GRID, size))]

    add_up(WARM, WARM)
    return lambda: add_up(setting.batch, setting.micro_batch), lambda: last[0] * GRID


if __name__ == "__main__":
    serve(build)
