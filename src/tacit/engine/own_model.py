"""The whole model of a site that keeps layers to itself, as a file for its operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tacit.files import write_atomic

__all__ = ["write_own_model"]

MODELS = "models"


def write_own_model(folder: Path, name: str, run: str, theta: NDArray[np.float64]) -> Path:
    """Writes ``models/NAME.safetensors`` into a site's folder.

    Args:
        folder: The site's folder.
        name: Name of the file.
        run: Run id, which stands in the file.
        theta: The model's parameters, ``float64``.

    Raises:
        TransportError: The disk refuses the write.
    """
    place = folder / MODELS
    place.mkdir(mode=0o700, exist_ok=True)
    path = place / f"{name}.safetensors"
    tensors = {"theta": np.ascontiguousarray(theta)}
    write_atomic(path, safetensors.numpy.save(tensors, metadata={"run": run}))
    return path
