from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from tacit.config import parse_table
from tacit.connect import SanitisedBatch, read
from tacit.connect.sources import csv_files, open_source, parquet_files
from tacit.errors import ConfigError, LocalProtocolError, PolicyDenied
from tacit.policy import Contract
from tacit.policy.permission import Permission, public_permission
from tacit.policy.server import Server
from tacit.testing.permissions import NOON, FixedKeys, permission

BOUNDED = {
    "classification": "feature",
    "transform": {"method": "keep"},
    "bounds_source": "instrument",
}
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {
        "logicalType": "string",
        "classification": "identifier",
        "transform": {"method": "token"},
    },
    "note": {"logicalType": "string", "classification": "free-text"},
    "born": {
        "logicalType": "date",
        "classification": "quasi-identifier",
        "transform": {"method": "decade"},
    },
    "x": {
        "logicalType": "number",
        "logicalTypeOptions": {"minimum": -1, "maximum": 30},
        **BOUNDED,
    },
    "n": {
        "logicalType": "integer",
        "logicalTypeOptions": {"minimum": 0, "maximum": 5},
        **BOUNDED,
    },
    "flag": {
        "logicalType": "boolean",
        "classification": "feature",
        "transform": {"method": "keep"},
    },
    "y": {
        "logicalType": "string",
        "classification": "label",
        "transform": {"method": "keep"},
        "values": ["b", "m"],
    },
}
GOOD = {
    "id": "77",
    "note": "n",
    "born": "1961-05-06",
    "x": "1.5",
    "n": "3",
    "flag": "true",
    "y": "m",
}
KEYS = FixedKeys()


def contract(form: str = "csv", entity: str | None = None, **changes: Any) -> Contract:
    columns = [{"name": name, **entry} for name, entry in {**COLUMNS, **changes}.items() if entry]
    content = {
        "apiVersion": "v3.1.0",
        "name": "small",
        "server": {"type": "local", "path": f"records.{form}", "format": form},
        "properties": columns,
        **({"entity": entity} if entity else {}),
    }
    return parse_table(content, Contract, "contract.toml")


def load(made: Contract, folder: Path, keys: FixedKeys = KEYS) -> SanitisedBatch:
    return read(made, folder, permission(made), keys)


def read_csv(folder: Path, *rows: dict[str, str], **changes: Any) -> SanitisedBatch:
    lines = [",".join(GOOD), *(",".join(row.values()) for row in rows)]
    return read_text(folder, "\n".join(lines) + "\n", **changes)


def read_text(folder: Path, text: str | bytes, **changes: Any) -> SanitisedBatch:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "records.csv").write_bytes(data)
    return load(contract(**changes), folder)


def table(rows: int = 2, **changes: pa.Array) -> pa.Table:
    arrays = {
        "id": pa.array([str(index) for index in range(rows)]),
        "note": pa.array(["n"] * rows),
        "born": pa.array([-3000] * rows, pa.int32()).cast(pa.date32()),
        "x": pa.array([1.5] * rows),
        "n": pa.array([3] * rows),
        "flag": pa.array([True] * rows),
        "y": pa.array(["m"] * rows),
    }
    return pa.table({name: array for name, array in {**arrays, **changes}.items() if array})


def read_parquet(folder: Path, content: pa.Table, **changes: Any) -> SanitisedBatch:
    parquet.write_table(content, folder / "records.parquet", row_group_size=3)
    return load(contract("parquet", **changes), folder)


def test_csv_and_parquet_give_the_same_batch(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "id": "78", "x": "-1", "n": "0", "flag": "false", "y": "b"}]
    text = read_csv(tmp_path, *rows)
    stored = read_parquet(
        tmp_path,
        table(
            id=pa.array(["77", "78"]).dictionary_encode(),
            born=pa.array(["1961-05-06"] * 2).cast(pa.date32()),
            x=pa.array([1.5, -1], pa.float32()),
            n=pa.array([3, 0], pa.uint8()),
            flag=pa.array([True, False]),
            y=pa.array(["m", "b"], pa.large_string()),
        ),
    )
    assert text.features.tolist() == [[1.5, 3.0, 1.0], [-1.0, 0.0, 0.0]]
    assert text.labels.tolist() == [1, 0]
    assert text.features.dtype == np.float64
    assert text.labels.dtype == np.int64
    assert text.extra.column_names == ["id", "born"]
    assert text.extra.column("born").to_pylist() == [1960, 1960]
    assert np.array_equal(text.features, stored.features)
    assert np.array_equal(text.labels, stored.labels)
    assert text.extra == stored.extra
    assert text.receipts[0].data == stored.receipts[0].data


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    expected = read_csv(tmp_path, GOOD)
    names = sorted(GOOD)
    text = ",".join(names) + "\n" + ",".join(GOOD[name] for name in names) + "\n"
    assert read_text(tmp_path, text).receipt == expected.receipt


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("x", "tall", "not a number"),
        ("x", "", "empty"),
        ("x", " 1", "not a number"),
        ("x", "nan", "not finite"),
        ("x", "inf", "not finite"),
        ("x", "1e999", "not finite"),
        ("x", "30.001", "outside the declared range -1.0 to 30.0"),
        ("x", "-1.001", "outside the declared range"),
        ("n", "3.0", "not an integer"),
        ("n", "0x3", "not an integer"),
        ("n", "99999999999999999999", "not an integer"),
        ("n", "6", "outside the declared range"),
        ("flag", "yes", "not true or false"),
        ("y", "B", "not one of the declared values"),
        ("y", "", "empty"),
        ("born", "1961-02-29", "not a date"),
        ("born", "06.05.1961", "not a date"),
        ("id", "", "empty"),
    ],
)
def test_a_bad_cell_is_named_and_not_shown(
    tmp_path: Path, column: str, cell: str, problem: str
) -> None:
    rows = [GOOD] * 7
    rows[4] = {**GOOD, column: cell}
    with pytest.raises(ConfigError) as caught:
        read_csv(tmp_path, *rows)
    error = caught.value
    assert problem in error.message
    assert error.details == {
        "file": str(tmp_path / "records.csv"),
        "row": 5,
        "column": column,
    }
    assert f"data row 5, column '{column}'" in error.message


def test_rows_are_counted_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 256)
    rows = [GOOD] * 100
    assert len(read_csv(tmp_path, *rows)) == 100
    rows[83] = {**GOOD, "x": "tall"}
    with pytest.raises(ConfigError, match="data row 84, column 'x'"):
        read_csv(tmp_path, *rows)
    rows[83] = {**GOOD, "x": "1.5,2"}
    with pytest.raises(ConfigError, match="data row 84 has 8 fields instead of 7"):
        read_csv(tmp_path, *rows)


def test_rows_are_counted_across_parquet_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "BATCH_ROWS", 4)
    cells = [1.5] * 10
    assert len(read_parquet(tmp_path, table(10))) == 10
    cells[8] = 31.0
    with pytest.raises(ConfigError, match="data row 9, column 'x'"):
        read_parquet(tmp_path, table(10, x=pa.array(cells)))


def test_a_quoted_cell_may_hold_commas_and_lines(tmp_path: Path) -> None:
    rows = [{**GOOD, "note": '"a, b\n\nc ""d"""'}, {**GOOD, "x": "tall"}]
    assert len(read_csv(tmp_path, rows[0])) == 1
    with pytest.raises(ConfigError, match="data row 2, column 'x'"):
        read_csv(tmp_path, *rows)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("77,n,1961-05-06,1.5,3,true", "data row 2 has 6 fields instead of 7"),
        ("77,n,1961-05-06,1.5,3,true,m,extra", "data row 2 has 8 fields instead of 7"),
        ('77,"n,1961-05-06,1.5,3,true,m', "data row 2 has 2 fields instead of 7"),
        ("", "data row 2, column 'id': the cell is empty"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, line: str, problem: str) -> None:
    good = ",".join(GOOD.values())
    text = "\n".join([",".join(GOOD), good, line, good]) + "\n"
    with pytest.raises(ConfigError) as caught:
        read_text(tmp_path, text)
    assert problem in caught.value.message


def test_a_record_larger_than_a_block_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 256)
    rows = [GOOD] * 20 + [{**GOOD, "note": "z" * 2000}]
    with pytest.raises(ConfigError, match="cannot be parsed"):
        read_csv(tmp_path, *rows)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("id,note,born,x,n,flag", "column 'y' is in the contract but not in the data"),
        ("id,note,born,x,n,flag,y,phone", "column 'phone' is in the data but not in the contract"),
        ("id,note,born,x,n,flag,y,y", "column 'y' is in the data twice"),
        ("Smith,hello,1961-05-06,1.5,3,true,m", "no declared column is in the header"),
        ("", "no declared column is in the header"),
        ("id,note,born,x,n,flag,\xff", "the header cannot be parsed"),
    ],
)
def test_the_file_has_the_declared_columns_only(tmp_path: Path, header: str, problem: str) -> None:
    cells = ",".join("1" for _ in header.split(","))
    with pytest.raises(ConfigError) as caught:
        read_text(tmp_path, f"{header}\n{cells}\n".encode("latin-1"))
    assert problem in caught.value.message
    assert "Smith" not in str(caught.value)


@pytest.mark.parametrize("text", ["", ",".join(GOOD) + "\n", ",".join(GOOD)])
def test_an_empty_source_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"empty|no records"):
        read_text(tmp_path, text)
    with pytest.raises(ConfigError, match="no records"):
        read_parquet(tmp_path, table().slice(0, 0))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    text = ",".join(GOOD) + "\n" + ",".join({**GOOD, "id": "@"}.values()) + "\n"
    with pytest.raises(ConfigError, match="data row 1, column 'id': the cell is not text"):
        read_text(tmp_path, text.encode().replace(b"@", b"\xff"))
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    with pytest.raises(ConfigError, match="data row 1, column 'id': the cell is not text"):
        read_parquet(tmp_path, table(1, id=broken))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"records\.csv: there is no such data file"):
        load(contract(), tmp_path)


@pytest.mark.parametrize("size", [0, 100, 900])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "records.parquet"
    parquet.write_table(table(), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConfigError, match="not a whole Parquet file"):
        load(contract("parquet"), tmp_path)


@pytest.mark.parametrize(
    ("column", "array"),
    [
        ("x", pa.array(["1.5", "2"])),
        ("x", pa.array([b"1.5", b"2"])),
        ("n", pa.array([1.0, 2.0])),
        ("flag", pa.array([1, 0])),
        ("y", pa.array([1, 0])),
        ("born", pa.array(["1961-05-06"] * 2)),
        ("id", pa.array([1, 2])),
    ],
)
def test_a_parquet_column_of_another_type_is_refused(
    tmp_path: Path, column: str, array: pa.Array
) -> None:
    with pytest.raises(ConfigError, match=f"column '{column}' is stored as"):
        read_parquet(tmp_path, table(**{column: array}))


def test_a_missing_parquet_value_is_refused(tmp_path: Path) -> None:
    for column, array in {
        "x": pa.array([1.0, None]),
        "y": pa.array(["m", None]),
        "id": pa.array(["m", ""]),
    }.items():
        with pytest.raises(ConfigError, match=f"data row 2, column '{column}': the cell is empty"):
            read_parquet(tmp_path, table(**{column: array}))


def test_parquet_columns_must_be_the_declared_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column 'phone' is in the data but not in the contract"):
        read_parquet(tmp_path, table(phone=pa.array(["1", "2"])))
    content = table().select(["id", "note", "x", "n", "flag", "y"])
    with pytest.raises(ConfigError, match="column 'born' is in the contract but not in the data"):
        read_parquet(tmp_path, content)


def test_only_the_wanted_columns_are_delivered(tmp_path: Path) -> None:
    content = table(**{"x.note": pa.array(["a", "b"])})
    parquet.write_table(content, tmp_path / "records.parquet")
    csv.write_csv(content, tmp_path / "records.csv")
    for form in ("csv", "parquet"):
        path = tmp_path / f"records.{form}"
        source = open_source(Server(type="local", path=path.name, format=form), tmp_path)
        pieces = list(source.batches(content.column_names, ["y", "x"]))
        assert [piece.batch.schema.names for piece in pieces] == [["y", "x"]]


def test_dropped_parquet_columns_are_never_decoded(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    canary = "free text that must not be decoded"
    content = table(note=pa.array([canary, canary + "!"]))
    parquet.write_table(content, path, compression="none", use_dictionary=False)
    expected = load(contract("parquet"), tmp_path)
    column = parquet.ParquetFile(path).metadata.row_group(0).column(1)
    assert column.path_in_schema == "note"
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    with pytest.raises((OSError, pa.ArrowException)):
        parquet.read_table(path)
    assert load(contract("parquet"), tmp_path).receipt == expected.receipt


def test_a_token_needs_the_key(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text("id\n1\n")
    made = contract()
    with pytest.raises(ConfigError, match="column 'id' needs a key of the site"):
        read(made, tmp_path, permission(made))


def test_the_plan_digest_follows_every_treatment(tmp_path: Path) -> None:
    batches = [
        read_csv(tmp_path, GOOD),
        read_csv(tmp_path, GOOD, id={**COLUMNS["id"], "transform": {"method": "drop"}}),
        read_csv(
            tmp_path, GOOD, x={**COLUMNS["x"], "logicalTypeOptions": {"minimum": -1, "maximum": 31}}
        ),
        read_csv(tmp_path, GOOD, born={**COLUMNS["born"], "transform": {"method": "year"}}),
    ]
    assert len({made.receipt.plan for made in batches}) == len(batches)
    described = read_csv(tmp_path, GOOD, x={**COLUMNS["x"], "bounds_source": "manual"})
    assert described.receipt.plan == batches[0].receipt.plan
    assert described.receipt.contract != batches[0].receipt.contract


def test_a_first_row_that_looks_like_a_header_is_not_shown(tmp_path: Path) -> None:
    """Without a header, one cell may happen to be a column's name; its neighbours are data."""
    path = tmp_path / "data.csv"
    path.write_text("CANARY7,size,CANARY8\n")
    with pytest.raises(ConfigError) as error:
        source = open_source(Server(type="local", path="data.csv", format="csv"), tmp_path)
        list(source.batches(("size", "label"), ("size", "label")))
    assert "CANARY" not in str(error.value)
    assert "'label'" in error.value.message


def test_entities_are_pseudonyms_of_the_entity_column(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": name} for name in ("77", "78", "77", "79")]
    folder = tmp_path
    text = ",".join(GOOD) + "\n" + "\n".join(",".join(row.values()) for row in rows) + "\n"
    (folder / "records.csv").write_text(text)
    made = load(contract().model_copy(update={"entity": "id"}), folder)
    assert made.entities is not None
    first, second, third, fourth = made.entities.tolist()
    assert first == third
    assert len({first, second, fourth}) == 3
    assert not made.entities.flags.writeable
    other = load(contract().model_copy(update={"entity": "id"}), folder, FixedKeys(b"other"))
    assert other.entities is not None
    assert not set(other.entities.tolist()) & set(made.entities.tolist())
    without = load(contract(), folder)
    assert without.entities is None
    assert without.receipt.data != made.receipt.data


def test_without_a_permission_nothing_is_read(tmp_path: Path) -> None:
    """There is no file at all, and still the first complaint is about the permission."""
    made, other = contract(), contract(flag=None)
    for wrong in (permission(other), None, "yes"):
        with pytest.raises((LocalProtocolError, AttributeError)):
            read(made, tmp_path, wrong, KEYS)  # type: ignore[arg-type]
    with pytest.raises(PolicyDenied, match="is not public"):
        public_permission(made, "research", NOON)
    with pytest.raises(LocalProtocolError, match="cannot be built by hand"):
        Permission(made.digest)


@pytest.mark.parametrize("limit", [10.0, 2.0**60])
def test_an_integer_beyond_what_a_float_holds_is_a_bad_cell(tmp_path: Path, limit: float) -> None:
    wide = {**COLUMNS["n"], "logicalTypeOptions": {"minimum": -limit, "maximum": limit}}
    for bad in (2**60 + 1, -(2**60) - 1):
        numbers = pa.array([3, bad])
        with pytest.raises(
            ConfigError, match=r"data row 2, column 'n'.*outside the declared range"
        ):
            read_parquet(tmp_path, table(n=numbers), n=wide)
        with pytest.raises(ConfigError, match="data row 2, column 'n'") as caught:
            read_csv(tmp_path, GOOD, {**GOOD, "n": str(bad)}, n=wide)
        assert "115292150460684697" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "n", "born", "id", "y"])
def test_a_null_within_a_dictionary_is_an_empty_cell(tmp_path: Path, name: str) -> None:
    stored = table()
    known = pa.concat_arrays([stored[name].chunk(0)[:1], pa.nulls(1, stored[name].type)])
    hidden = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), known)
    assert hidden.null_count == 0
    feather.write_feather(table(**{name: hidden}), tmp_path / "records.arrow")
    with pytest.raises(ConfigError, match=f"data row 2, column '{name}': the cell is empty"):
        load(contract("arrow"), tmp_path)


def test_a_time_that_does_not_fit_is_a_bad_cell(tmp_path: Path) -> None:
    born = {**COLUMNS["born"], "logicalType": "timestamp"}
    far = pa.array([0, 2**62], pa.timestamp("s"))
    feather.write_feather(table(born=far), tmp_path / "records.arrow")
    with pytest.raises(ConfigError, match="data row 2, column 'born'"):
        load(contract("arrow", born=born), tmp_path)


def test_dates_of_one_entity_move_alike_in_all_columns(tmp_path: Path) -> None:
    shifted = {"method": "date-shift", "days": 300}
    day = {"logicalType": "date", "classification": "sensitive"}
    columns = {
        "came": {**day, "transform": shifted},
        "left": {**day, "transform": shifted},
        "paid": {**day, "transform": {**shifted, "days": 301}},
    }
    made = contract("parquet", "id", **columns)
    days = [pa.array([start] * 40, pa.int32()).cast(pa.date32()) for start in (0, 7, 0)]
    content = table(40, **dict(zip(columns, days, strict=True)))
    parquet.write_table(content, tmp_path / "records.parquet")
    moved = load(made, tmp_path).extra
    came, left, paid = (moved[name].cast(pa.int32()).to_numpy() for name in columns)
    assert np.all(left - came == 7)
    assert len(set(came)) > 20
    # Another range is another key: both offsets together would tell more than each of them.
    assert np.count_nonzero(paid != came) > 30


def test_a_vocabulary_that_is_not_trained_on_gives_places(tmp_path: Path) -> None:
    job = {
        "logicalType": "string",
        "classification": "sensitive",
        "transform": {"method": "vocabulary", "buckets": 4},
        "values": ["nurse", "baker"],
        "required": False,
    }
    jobs = pa.array(["baker", None, "spy", "nurse"])
    extra = read_parquet(tmp_path, table(4, job=jobs), job=job).extra
    first, second, third, fourth = extra.column("job").to_pylist()
    assert (first, second, fourth) == (1, None, 0)
    assert 2 <= third < 6


@pytest.mark.parametrize("days", [-(2**31), -719163, 2932897, 2**31 - 1])
def test_a_date_beyond_the_calendar_is_a_bad_cell(tmp_path: Path, days: int) -> None:
    far = pa.array([-719162, days], pa.int32()).cast(pa.date32())
    aged = {"method": "age", "on": date(2026, 1, 1)}
    trained = {**COLUMNS["born"], "transform": aged, "train": True}
    for born in (COLUMNS["born"], trained):
        with pytest.raises(ConfigError, match=r"column 'born'.*outside the years 1 to"):
            read_parquet(tmp_path, table(born=far), born=born)
