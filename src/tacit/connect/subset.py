"""Some records of a sanitised batch: for scratch federations that divide one data set anew and anew."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

from tacit.connect.batch import SanitisedBatch, build_batch
from tacit.connect.receipt import Rows
from tacit.types import Digest

__all__ = ["take"]


def take(batch: SanitisedBatch, rows: npt.NDArray[np.int64]) -> SanitisedBatch:
    """The records at ``rows``, in that order.

    Args:
        batch: Already sanitised; nothing that its contract removed comes back.
        rows: int64[m], indices into the batch, m at least 1; repeats are allowed.

    Returns:
        A batch whose receipt counts its own rows and has a digest of its own data.

    Raises:
        IndexError: A row is out of range.
        ValueError: There are no rows.
    """
    if not len(rows):
        raise ValueError("a batch has at least one record")
    features = np.asfortranarray(batch.features[rows])
    labels = batch.labels[rows]
    entities = None if batch.entities is None else batch.entities[rows]
    data = hashlib.sha256(repr(features.shape).encode())
    for part in (features, labels, entities):
        if part is not None:
            data.update(np.ascontiguousarray(part).astype(part.dtype.newbyteorder("<")).tobytes())
    receipt = dataclasses.replace(
        batch.receipt, rows=Rows(len(rows), len(rows), 0), data=Digest(data.digest())
    )
    extra = batch.extra.take(rows)
    return build_batch((features, labels, entities), batch.schema, extra, receipt)
