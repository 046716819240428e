from __future__ import annotations

import copy
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tacit.config import parse_table
from tacit.connect import ColumnReceipt, Receipt, Rows, SanitisedBatch, read
from tacit.errors import LocalProtocolError
from tacit.policy import Contract
from tacit.testing.permissions import LOCK, permission
from tacit.types import Digest

CONTRACT = parse_table(
    {
        "apiVersion": "v3.1.0",
        "name": "small",
        "server": {"type": "local", "path": "records.csv", "format": "csv"},
        "properties": [
            {"name": "note", "logicalType": "string", "classification": "free-text"},
            {
                "name": "x",
                "logicalType": "number",
                "classification": "feature",
                "transform": {"method": "keep"},
                "logicalTypeOptions": {"minimum": 0, "maximum": 9},
                "bounds_source": "scale of the instrument",
            },
            {
                "name": "y",
                "logicalType": "integer",
                "classification": "label",
                "transform": {"method": "keep"},
                "values": [0, 1],
            },
        ],
    },
    Contract,
    "contract.toml",
)


def batch(folder: Path, text: str = "note,x,y\nhello,1.5,0\nthere,2,1\n") -> SanitisedBatch:
    (folder / "records.csv").write_text(text)
    return read(CONTRACT, folder, permission(CONTRACT))


def test_only_connect_builds_a_batch(tmp_path: Path) -> None:
    made = batch(tmp_path)
    with pytest.raises(LocalProtocolError):
        SanitisedBatch()
    with pytest.raises(LocalProtocolError):
        SanitisedBatch(made.features, made.labels, made.schema, made.receipt, made.extra)
    with pytest.raises(LocalProtocolError):
        type("Mine", (SanitisedBatch,), {})
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(LocalProtocolError):
            duplicate(made)


def test_a_batch_cannot_be_changed(tmp_path: Path) -> None:
    made = batch(tmp_path)
    with pytest.raises(LocalProtocolError):
        made.features = np.zeros((2, 1))
    with pytest.raises(LocalProtocolError):
        del made.labels
    with pytest.raises(ValueError, match="read-only"):
        made.features[0, 0] = 3.0
    with pytest.raises(ValueError, match="read-only"):
        made.labels[0] = 1


def test_a_batch_shows_no_data(tmp_path: Path) -> None:
    text = repr(batch(tmp_path))
    assert text == "SanitisedBatch('small', 2 records, 1 features)"


def test_the_receipt_counts_what_was_removed(tmp_path: Path) -> None:
    receipt = batch(tmp_path).receipt
    assert receipt.rows == Rows(2, 2, 0)
    assert receipt.removed() == (ColumnReceipt("note", "free-text", "drop", "dropped", 0),)
    assert [(column.method, column.cells) for column in receipt.columns] == [
        ("drop", 0),
        ("keep", 2),
        ("keep", 2),
    ]
    assert receipt.policy == LOCK
    assert receipt.contract == CONTRACT.digest
    assert receipt.schema == CONTRACT.schema().digest


def test_the_receipt_is_bound_to_the_records(tmp_path: Path) -> None:
    first = batch(tmp_path).receipt
    assert batch(tmp_path, "note,x,y\nother,1.5,0\nnotes,2,1\n").receipt == first
    assert batch(tmp_path, "note,x,y\nhello,1.5,0\nthere,2.5,1\n").receipt.data != first.data
    assert batch(tmp_path, "note,x,y\nhello,1.5,1\nthere,2,1\n").receipt.data != first.data
    assert first.data.hex() not in repr(first)
    assert repr(first.data) not in repr(first)


def test_commitment_binds_every_field_and_the_salt(tmp_path: Path) -> None:
    receipt = batch(tmp_path).receipt
    salt = bytes(32)
    changes = {
        "name": "other",
        "contract": Digest(bytes(32)),
        "plan": Digest(bytes(32)),
        "schema": Digest(bytes(32)),
        "policy": Digest(bytes(32)),
        "source": Digest(bytes(32)),
        "number": 1,
        "previous": Digest(bytes(32)),
        "residual": (("email", 1),),
        "rows": Rows(3, 2, 1),
        "columns": receipt.columns[1:],
        "data": Digest(bytes(32)),
    }
    assert set(changes) == {field.name for field in fields(Receipt)}
    altered = [replace(receipt, **{key: value}) for key, value in changes.items()]
    for field in fields(ColumnReceipt):
        value = getattr(receipt.columns[0], field.name)
        other = value + "x" if isinstance(value, str) else value + 1 if value else True
        first = replace(receipt.columns[0], **{field.name: other})
        altered.append(replace(receipt, columns=(first, *receipt.columns[1:])))
    commitments = {item.commitment(salt) for item in (receipt, *altered)}
    commitments.add(receipt.commitment(bytes(31) + b"\1"))
    commitments.add(receipt.commitment(bytes(31)))
    assert len(commitments) == len(altered) + 3
    assert receipt.commitment(salt) == receipt.commitment(salt)
    with pytest.raises(LocalProtocolError):
        receipt.commitment(bytes(15))
