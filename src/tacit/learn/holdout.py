"""Which units are never trained on: chosen by a keyed hash of the unit alone."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # Who checks models only need not load what reads data.
    from tacit.connect.batch import SanitisedBatch


__all__ = ["held_out_rows"]

KEY_BYTES = 32


def held_out_rows(
    batch: SanitisedBatch, key: bytes, share: float, *, by_entity: bool
) -> NDArray[np.bool_]:
    """Marks about ``share`` of the units.

    Args:
        batch: The records.
        key: Secret of the site for this run, 32 bytes; the same key makes the same choice.
        share: In [0, 1).
        by_entity: Whether all records of an entity go together; else records that are equal do.

    Returns:
        ``bool[n]``.

    Raises:
        ValueError: The key has another size, or the batch knows no entities.

    Guarantee:
        Whether a unit is held out depends on the unit and the key, not on other units or on its place,
        so that adding or removing a unit moves no other from one side to the other. Test:
        ``tests/unit/test_learn_holdout.py::test_a_unit_stays_on_its_side``.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a holdout key has {KEY_BYTES} bytes")
    if by_entity:
        if batch.entities is None:
            raise ValueError("the batch knows no entities")
        rows = [token.tobytes() for token in batch.entities.astype("<u8")]
    else:
        features = np.ascontiguousarray(batch.features, dtype="<f8")
        labels = batch.labels.astype("<i8")
        pairs = zip(features, labels, strict=True)
        rows = [row.tobytes() + label.tobytes() for row, label in pairs]
    words = b"".join(hashlib.blake2b(row, digest_size=8, key=key).digest() for row in rows)
    limit = np.uint64(int(Fraction(share) * 2**64))
    marks: NDArray[np.bool_] = np.frombuffer(words, dtype="<u8") < limit
    return marks
