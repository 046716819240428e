"""One step of private training as a process of its own: what both sides of the comparison share.

Needs ``torch`` and neither Tacit nor a peer. A side builds its step, then answers every line on its
standard input with a line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import torch
from numpy.typing import NDArray
from support.footprint import forget_peak, in_use, peak
from torch import nn

FEATURES, CLASSES, CLIP_NORM = 28 * 28, 10, 1.0
WARM = 2
"""Records of a first step on either side, so that code which is loaded once counts for neither."""


def narrow() -> nn.Module:
    """The network of Opacus's MNIST example, 26,010 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, CLASSES),
    )


def wide() -> nn.Module:
    """Two convolutions and a wide layer, 421,642 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"narrow": narrow, "wide": wide}


class Setting(NamedTuple):
    """What both sides are given; ``theta`` is the file of the parameters, ``float64[d]``."""

    network: str
    theta: Path
    batch: int
    micro_batch: int

    def arguments(self) -> list[str]:
        """For the command line of a side."""
        return [self.network, str(self.theta), str(self.batch), str(self.micro_batch)]

    def records(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Features ``[batch, 784]`` and labels ``[batch]``, the same in every process."""
        generator = np.random.default_rng(7)
        features = generator.standard_normal((self.batch, FEATURES))
        return features, generator.integers(0, CLASSES, self.batch)


Step = Callable[[], object]
Total = Callable[[], NDArray[np.float64]]


def serve(build: Callable[[Setting], tuple[Step, Total]]) -> None:
    """Answers ``step`` with its seconds, ``first`` with the bytes of the first one, ``sum FILE``.

    Args:
        build: Makes a step, which clips and adds up the gradients of all records, and what tells the
            sum of the last one.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("theta", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("micro_batch", type=int)
    torch.set_num_threads(1)
    step, total = build(Setting(**vars(parser.parse_args())))
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        answer = {"step": lambda: _timed(step), "first": lambda: _grown(step)}
        if command == "sum":
            np.save(path, total())
        print(json.dumps(answer.get(command, dict)()), flush=True)


def _timed(step: Step) -> dict[str, float]:
    start = time.process_time()
    step()
    return {"seconds": time.process_time() - start}


def _grown(step: Step) -> dict[str, int]:
    gc.collect()
    forget_peak()
    before = in_use()
    step()
    return {"bytes": peak() - before, "before": before}
