"""The released model file: one float64 tensor ``theta``, and metadata that name its evidence.

Written and read in one form, so that the same model has the same bytes, whichever version of a library
made it.

Reference: https://github.com/huggingface/safetensors#format, an 8-byte length and a JSON header.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import DecodeError

__all__ = ["read_model", "read_theta", "write_model"]

LENGTH_BYTES = 8
HEADER_LIMIT = 4096


def write_model(theta: NDArray[np.float64], run: str, transcript: str) -> bytes:
    """The file of a released model.

    Args:
        theta: Parameters, float64[d].
        run: Run id in hexadecimal.
        transcript: Digest of the run's transcript in hexadecimal.
    """
    data = np.ascontiguousarray(theta, dtype="<f8").tobytes()
    return _header(theta.size, {"run": run, "transcript": transcript}) + data


def read_model(data: bytes) -> tuple[bytes, dict[str, str]]:
    """The parameters (float64, little-endian) and the metadata of a model file.

    Raises:
        DecodeError: Not one that ``write_model`` wrote.
    """
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    try:
        if start > HEADER_LIMIT:
            raise ValueError("header")
        header: Any = json.loads(data[LENGTH_BYTES:start])
        metadata = {name: header["__metadata__"][name] for name in ("run", "transcript")}
        texts = all(isinstance(text, str) for text in metadata.values())
        whole, rest = divmod(len(data) - start, 8)
        identical = texts and not rest and _header(whole, metadata) == data[:start]
    except (ValueError, LookupError, TypeError, RecursionError):
        identical = False
    if not identical:
        raise DecodeError(
            "evidence.model",
            "the released model file does not hold one tensor 'theta' and what names its evidence",
        )
    return data[start:], metadata


def read_theta(data: bytes) -> bytes:
    """The parameters of a model file, see ``read_model``."""
    return read_model(data)[0]


def _header(size: int, metadata: dict[str, str]) -> bytes:
    tensor = {"dtype": "F64", "shape": [size], "data_offsets": [0, 8 * size]}
    fields = {"__metadata__": metadata, "theta": tensor}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
