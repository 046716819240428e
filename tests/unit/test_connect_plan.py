"""What a plan fixes before any data are read: the columns that nobody decodes, and the digest."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, ipc, parquet

from tacit.config import parse_table
from tacit.connect import Plan, read
from tacit.policy import Contract
from tacit.policy.rows import Apply, Cell, Literal, RowFilter
from tacit.testing.permissions import FixedKeys, permission

KEYS = FixedKeys()
Entry = dict[str, Any]
X: Entry = {
    "logicalType": "number",
    "classification": "feature",
    "transform": {"method": "keep"},
    "logicalTypeOptions": {"minimum": 0, "maximum": 1},
    "bounds_source": "scale",
}
Y: Entry = {
    "logicalType": "integer",
    "classification": "label",
    "transform": {"method": "keep"},
    "values": [0, 1],
}
CONSENT: Entry = {"logicalType": "boolean", "classification": "consent"}


def column(class_: str, method: str, kind: str = "string", **more: Any) -> Entry:
    """A column; keys that a method takes may be given beside its name."""
    own = {"values", "train", "required", "impute", "filter", "logicalTypeOptions", "bounds_source"}
    how = {key: value for key, value in more.items() if key not in own}
    rest = {key: value for key, value in more.items() if key in own}
    return {
        "logicalType": kind,
        "classification": class_,
        "transform": {"method": method, **how},
        **rest,
    }


def contract(form: str = "csv", columns: dict[str, Entry] | None = None, **head: Any) -> Contract:
    entries = {"x": X, "y": Y, **(columns or {})}
    content = {
        "apiVersion": "v3.1.0",
        "name": "small",
        "server": {"type": "local", "path": f"records.{form}", "format": form},
        "properties": [{"name": name, **entry} for name, entry in entries.items()],
        **head,
    }
    return parse_table(content, Contract, "contract.toml")


# --- columns that nobody decodes -----------------------------------------------------------------

DROPPED = {
    "name": column("identifier", "drop"),
    "stay": column("sensitive", "drop", "integer"),
    "consent": CONSENT,
}
CANARY = "free text that must not be decoded "
ROWS = 1000


def table() -> pa.Table:
    return pa.table(
        {
            "x": np.linspace(0, 1, ROWS),
            "name": [f"{CANARY}{row:04}" for row in range(ROWS)],
            "stay": np.arange(ROWS) + 7_000_000_000,
            "consent": np.arange(ROWS) % 2 == 0,
            "y": np.arange(ROWS) % 2,
        }
    )


def spoil_parquet(path: Path, names: set[str]) -> None:
    """Overwrites every page of some columns with garbage."""
    data = bytearray(path.read_bytes())
    metadata = parquet.ParquetFile(path).metadata
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema in names:
                start, size = chunk.data_page_offset, chunk.total_compressed_size
                data[start : start + size] = b"\xa5" * size
    path.write_bytes(data)


def spoil_arrow(path: Path) -> None:
    """Overwrites the offsets and the texts of the column ``name`` with garbage."""
    data = path.read_bytes()
    length = len(CANARY) + 4
    offsets = (np.arange(ROWS + 1, dtype="<i4") * length).tobytes()
    texts = "".join(table().column("name").to_pylist()).encode()
    for held in (offsets, texts):
        assert data.count(held) == 1
        data = data.replace(held, b"\xa5" * len(held))
    path.write_bytes(data)


@pytest.mark.parametrize("consented", [False, True], ids=["all rows", "row rule"])
def test_pages_of_dropped_columns_are_never_decoded(tmp_path: Path, *, consented: bool) -> None:
    path = tmp_path / "records.parquet"
    parquet.write_table(table(), path, compression="none", use_dictionary=False, row_group_size=400)
    made = contract("parquet", DROPPED)
    rule = RowFilter((Cell("consent", "Bool"),), ()) if consented else None
    plan = Plan.compile(made, rule)
    expected = read(made, tmp_path, permission(made, rule), KEYS)
    assert len(expected) == (ROWS // 2 if consented else ROWS)
    assert plan.never_decoded == (("name", "stay") if consented else ("name", "stay", "consent"))
    spoil_parquet(path, set(plan.never_decoded))
    for name in plan.never_decoded:
        with pytest.raises((OSError, pa.ArrowException)):
            parquet.read_table(path, columns=[name])
    found = read(made, tmp_path, permission(made, rule), KEYS)
    assert np.array_equal(found.features, expected.features)
    assert np.array_equal(found.labels, expected.labels)
    assert found.receipts == expected.receipts
    cells = {entry.name: entry.cells for entry in found.receipt.columns}
    assert {name for name, count in cells.items() if count == 0} == set(plan.never_decoded)


def test_buffers_of_dropped_columns_in_arrow_files_are_never_used(tmp_path: Path) -> None:
    path = tmp_path / "records.arrow"
    feather.write_feather(table(), path, compression="uncompressed")
    made = contract("arrow", DROPPED)
    expected = read(made, tmp_path, permission(made), KEYS)
    spoil_arrow(path)
    with pytest.raises(pa.ArrowInvalid), ipc.open_file(path) as opened:
        opened.read_all().validate(full=True)
    found = read(made, tmp_path, permission(made), KEYS)
    assert np.array_equal(found.features, expected.features)
    assert found.receipts == expected.receipts


# --- the digest ----------------------------------------------------------------------------------

ON = date(2026, 1, 1)
PAIRS: dict[str, tuple[Entry, Entry]] = {
    "mask visible": (column("identifier", "mask"), column("identifier", "mask", visible=2)),
    "token period": (column("identifier", "token"), column("identifier", "token", period="year")),
    "ff1 alphabet": (
        column("identifier", "ff1", alphabet="digits"),
        column("identifier", "ff1", alphabet="hex"),
    ),
    "ff1 period": (
        column("identifier", "ff1", alphabet="digits"),
        column("identifier", "ff1", alphabet="digits", period="month"),
    ),
    "prefix length": (
        column("sensitive", "prefix", length=2),
        column("sensitive", "prefix", length=3),
    ),
    "age width": (
        column("sensitive", "age", "integer"),
        column("sensitive", "age", "integer", width=5),
    ),
    "age on": (
        column("sensitive", "age", "date", on=ON),
        column("sensitive", "age", "date", on=date(2026, 1, 2)),
    ),
    "bins width": (
        column("sensitive", "bins", "number", width=5),
        column("sensitive", "bins", "number", width=6),
    ),
    "clamp lower": (
        column("sensitive", "clamp", "number", lower=0, upper=9),
        column("sensitive", "clamp", "number", lower=1, upper=9),
    ),
    "clamp upper": (
        column("sensitive", "clamp", "number", lower=0, upper=9),
        column("sensitive", "clamp", "number", lower=0, upper=8),
    ),
    "date-shift days": (
        column("sensitive", "date-shift", "date", days=30),
        column("sensitive", "date-shift", "date", days=31),
    ),
    "date-shift period": (
        column("sensitive", "date-shift", "date", days=30),
        column("sensitive", "date-shift", "date", days=30, period="year"),
    ),
    "vocabulary buckets": (
        column("sensitive", "vocabulary", buckets=1, values=["a"], train=True),
        column("sensitive", "vocabulary", buckets=2, values=["a"], train=True),
    ),
    "vocabulary values": (
        column("sensitive", "vocabulary", buckets=1, values=["a"], train=True),
        column("sensitive", "vocabulary", buckets=1, values=["b"], train=True),
    ),
    "train": (
        column("sensitive", "clamp", "number", lower=0, upper=9),
        column("sensitive", "clamp", "number", lower=0, upper=9, train=True),
    ),
    "year or decade": (
        column("sensitive", "year", "date"),
        column("sensitive", "decade", "date"),
    ),
    "logical type": (column("sensitive", "year", "date"), column("sensitive", "year", "timestamp")),
    "class": (column("sensitive", "zip3"), column("quasi-identifier", "zip3")),
    "drop": (column("free-text", "drop"), column("free-text", "quarantine", required=False)),
    "required": (column("sensitive", "zip3"), column("sensitive", "zip3", required=False)),
    "impute": (
        column("sensitive", "zip3", required=False),
        column("sensitive", "zip3", required=False, impute="75001"),
    ),
    "limits": (
        column("sensitive", "clamp", "number", lower=0, upper=9),
        column("sensitive", "clamp", "number", lower=0, upper=9, logicalTypeOptions={"minimum": 0}),
    ),
    "pattern": (
        column("identifier", "token"),
        column("identifier", "token", logicalTypeOptions={"pattern": "[0-9]+"}),
    ),
    "allowed values": (
        column("identifier", "token"),
        column("identifier", "token", values=["a", "b"]),
    ),
    "large values": (
        column("identifier", "token", "integer", values=[2**60]),
        column("identifier", "token", "integer", values=[2**60 + 1]),
    ),
}


def digest(entry: Entry | None = None, rows: RowFilter | None = None, **head: Any) -> str:
    person = {"person": column("identifier", "token")}
    columns = person | ({"c": entry} if entry is not None else {})
    return Plan.compile(contract("csv", columns, **{"entity": "person", **head}), rows).digest.hex()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_every_parameter_of_a_method_changes_the_digest(pair: tuple[Entry, Entry]) -> None:
    first, second = pair
    assert digest(first) == digest(dict(first))
    assert digest(first) != digest(second)


def test_every_method_has_a_pair() -> None:
    from tacit.policy.transform import METHODS

    covered = {
        (method, key) for method, fit in METHODS.items() for key in fit.required | fit.optional
    }
    assert {tuple(name.split()) for name in PAIRS} >= covered


def test_bounds_classes_and_names_change_the_digest() -> None:
    plans = [
        Plan.compile(contract("csv", columns)).digest
        for columns in (
            {},
            {"x": {**X, "logicalTypeOptions": {"minimum": 0, "maximum": 2}}},
            {"x": {**X, "logicalTypeOptions": {"minimum": -1, "maximum": 1}}},
            {"y": {**Y, "values": [1, 0]}},
            {"z": column("identifier", "drop")},
            {"w": column("identifier", "drop")},
        )
    ]
    assert len(set(plans)) == len(plans)


def test_what_happens_to_rows_changes_the_digest() -> None:
    consent = Cell("consent", "Bool")
    filters = [
        None,
        RowFilter((consent,), ()),
        RowFilter((Literal(True),), (consent,)),
        RowFilter((Apply("!", (consent,)),), ()),
    ]
    place = column("quasi-identifier", "zip3")
    heads: list[dict[str, Any]] = [
        {"entity": None},
        {"invalid_rows": "quarantine"},
        {"anonymity": {"k": 2}},
        {"anonymity": {"k": 3}},
        {"anonymity": {"k": 3, "violation": "suppress"}},
    ]
    digests = [digest(CONSENT, rows) for rows in filters]
    digests += [digest(place), *(digest(place, **head) for head in heads)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "text",
    [{"bounds_source": "another source"}, {"unit": "mm"}, {"synthetic": True}],
    ids=lambda text: next(iter(text)),
)
def test_texts_for_people_do_not_change_the_digest(text: Entry) -> None:
    plain, told = contract(), contract("csv", {"x": {**X, **text}})
    assert plain.digest != told.digest
    assert Plan.compile(plain).digest == Plan.compile(told).digest


def test_canaries_are_no_part_of_a_digest_that_leaves_the_site() -> None:
    assert digest() == digest(canaries=["Made-up Person"])
