"""Some records of a sanitised batch: nothing that the contract removed comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tacit.connect import SanitisedBatch, take
from tacit.engine.folder import FolderSource
from tacit.policy.contract import Contract
from tacit.testing.federation import write_small_federation
from tacit.types import Milliseconds


@pytest.fixture
def batch(tmp_path: Path) -> SanitisedBatch:
    write_small_federation(tmp_path / "f")
    folder = tmp_path / "f" / "evaluation"
    return FolderSource(Contract.load(folder / "contract.toml"), folder).read_public(
        "test", Milliseconds(0)
    )


def test_records_come_in_the_order_asked_for(batch: SanitisedBatch) -> None:
    rows = np.array([5, 0, 5])
    part = take(batch, rows)
    assert np.array_equal(part.features, batch.features[rows])
    assert np.array_equal(part.labels, batch.labels[rows])
    assert part.schema == batch.schema
    assert not part.features.flags.writeable
    assert part.extra.num_rows == batch.extra.take([0] * 3).num_rows


def test_the_receipt_is_about_these_records(batch: SanitisedBatch) -> None:
    one, other = take(batch, np.array([0, 1])), take(batch, np.array([1, 0]))
    assert one.receipt.rows.out == 2
    assert len({batch.receipt.data, one.receipt.data, other.receipt.data}) == 3
    assert take(batch, np.array([0, 1])).receipt.data == one.receipt.data
    assert one.receipt.contract == batch.receipt.contract


def test_no_records_and_records_that_are_not_there_are_refused(batch: SanitisedBatch) -> None:
    with pytest.raises(ValueError, match="at least one"):
        take(batch, np.array([], dtype=np.int64))
    with pytest.raises(IndexError):
        take(batch, np.array([10_000]))
