from __future__ import annotations

import csv
import dataclasses
import io
import pickle
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tacit.config import parse_table
from tacit.connect import read
from tacit.errors import ConfigError
from tacit.policy import Contract

KEY = bytes(range(32))
FEATURE = {"class": "feature", "action": "keep", "lower": 0, "upper": 9, "bounds_source": "scale"}
REMOVALS: tuple[dict[str, Any], ...] = (
    {"class": "free-text", "action": "drop"},
    {"class": "identifier", "action": "drop"},
    {"class": "identifier", "action": "token"},
    {"class": "quasi-identifier", "action": "token"},
    {"class": "sensitive", "action": "drop"},
    {
        "class": "quasi-identifier",
        "action": "generalise",
        "generalise": {"method": "prefix", "length": 4},
    },
)
DAMAGE = ("none", "short row", "long row", "open quote", "not utf-8", "text", "nan", "range", "label",
          "no header", "undeclared", "missing", "empty cell")  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[str]], list[str], str, int]:
    """Columns, rows of cells, the canaries among them, a kind of damage and the row it strikes."""
    removed = draw(st.lists(st.sampled_from(REMOVALS), min_size=1, max_size=5))
    columns = [{"name": f"r{i}", "type": "string", **how} for i, how in enumerate(removed)]
    columns.append({"name": "x", "type": "number", **FEATURE})
    columns.append({"name": "y", "type": "string", "class": "label", "action": "keep",
                    "values": ["a", "b"]})  # fmt: skip
    columns = draw(st.permutations(columns))
    mark = draw(st.text("abcdefghijklmnop", min_size=8, max_size=8))
    quirk = draw(st.sampled_from(["", ",", '"', "\n", "\r\n", "ü", "'", ";", " "]))
    rows: list[list[str]] = []
    canaries = []
    for index in range(draw(st.integers(1, 6))):
        row = []
        for column in columns:
            if column["name"] == "x":
                row.append(str(draw(st.integers(0, 9))))
            elif column["name"] == "y":
                row.append(draw(st.sampled_from("ab")))
            else:
                canary = f"Q{mark}-{index}-{column['name']}"
                canaries.append(canary)
                row.append(f"{canary}{quirk}z")
        rows.append(row)
    damage = draw(st.sampled_from(DAMAGE))
    return columns, rows, canaries, damage, draw(st.integers(0, len(rows) - 1))


def contract(columns: list[dict[str, Any]], form: str) -> Contract:
    content = {
        "version": 1,
        "name": "canary",
        "source": {"path": "records", "format": form},
        "columns": columns,
    }
    return parse_table(content, Contract, "contract.toml")


def damaged_csv(
    columns: list[dict[str, Any]], rows: list[list[str]], canaries: list[str], damage: str, at: int
) -> bytes:
    names = [column["name"] for column in columns]
    x, y = names.index("x"), names.index("y")
    cells = {
        "text": (x, canaries[0]),
        "nan": (x, "nan"),
        "range": (x, "12345678"),
        "empty cell": (x, ""),
        "label": (y, canaries[0]),
    }
    rows = [list(row) for row in rows]
    if damage in cells:
        position, cell = cells[damage]
        rows[at][position] = cell
    if damage == "short row":
        rows[at].pop()
    if damage in {"long row", "missing"}:
        rows[at].append("more")
    if damage == "undeclared":
        rows = [[*row, canaries[0]] for row in rows]
        names = [*names, "phone"]
    if damage == "missing":
        names[y] = "z"
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(rows if damage == "no header" else [names, *rows])
    data = buffer.getvalue().encode()
    if damage == "not utf-8":
        data = data.replace(b"-r", b"-\xff", 1 + at)
    if damage == "open quote":
        data += b'"' + canaries[0].encode() + b",\n"
    return data


def everything_shown(error: BaseException | None) -> str:
    """All text of an error and of the errors that it came from."""
    shown = ""
    while error is not None:
        shown += f"{error!r}{error}{error.args}{getattr(error, 'details', '')}"
        error = error.__cause__ or error.__context__
    return shown


def outcome(content: Contract, data: bytes | pa.Table) -> tuple[str, bool]:
    """Everything that a reader of the batch, the receipt or the error could see."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            parquet.write_table(data, path)
        try:
            batch = read(content, Path(folder), KEY)
        except ConfigError as error:
            return everything_shown(error), False
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.extra.schema) as stream:
        stream.write_table(batch.extra)
    raw = sink.getvalue().to_pybytes() + pickle.dumps(dataclasses.asdict(batch.receipt))
    raw += batch.features.tobytes() + batch.labels.tobytes() + batch.schema.canonical()
    shown = (
        raw.decode("latin-1") + repr(batch) + repr(batch.receipt) + repr(batch.receipt.removed())
    )
    return shown + str(batch.extra.to_pydict()), True


@settings(max_examples=150, deadline=None)
@given(cases())
def test_no_canary_survives(case: Any) -> None:
    columns, rows, canaries, damage, at = case
    shown, whole = outcome(
        contract(columns, "csv"), damaged_csv(columns, rows, canaries, damage, at)
    )
    mark = canaries[0][1:9]
    assert mark not in shown
    if damage == "none":
        assert whole
    elif damage != "not utf-8":
        assert not whole


@settings(max_examples=50, deadline=None)
@given(cases())
def test_no_canary_survives_in_parquet(case: Any) -> None:
    columns, rows, canaries, damage, at = case
    names = [column["name"] for column in columns]
    x, y = names.index("x"), names.index("y")
    values: dict[str, list[Any]] = {
        name: [row[index] for row in rows] for index, name in enumerate(names)
    }
    values["x"] = [float(row[x]) for row in rows]
    bad = {"nan": float("nan"), "range": 12345678.0, "empty cell": None}
    if damage in bad:
        values["x"][at] = bad[damage]
    elif damage == "label":
        values[names[y]][at] = canaries[0]
    elif damage == "text":
        values["x"] = [canaries[0]] * len(rows)
    elif damage == "undeclared":
        values["phone"] = [canaries[0]] * len(rows)
    shown, whole = outcome(contract(columns, "parquet"), pa.table(values))
    assert canaries[0][1:9] not in shown
    assert whole == (damage not in {*bad, "label", "text", "undeclared"})


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-100, 100),
            st.integers(-5, 5),
            st.dates(date(1000, 1, 1), date(3000, 1, 1)),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_good_records_arrive_unchanged(records: list[tuple[float, int, date, bool]]) -> None:
    bounds = {"class": "feature", "action": "keep", "bounds_source": "scale"}
    columns = [
        {"name": "x", "type": "number", "lower": -100, "upper": 100, **bounds},
        {"name": "n", "type": "integer", "lower": -5, "upper": 5, **bounds},
        {"name": "d", "type": "date", "class": "sensitive", "action": "generalise",
         "generalise": {"method": "year"}},
        {"name": "y", "type": "boolean", "class": "label", "action": "keep",
         "values": [True, False]},
    ]  # fmt: skip
    lines = ["x,n,d,y", *(f"{x!r},{n},{d},{str(y).lower()}" for x, n, d, y in records)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "records").write_text("\n".join(lines) + "\n")
        batch = read(contract(columns, "csv"), Path(folder))
    assert batch.features.tolist() == [[x, float(n)] for x, n, _, _ in records]
    assert batch.labels.tolist() == [0 if y else 1 for _, _, _, y in records]
    assert batch.extra.column("d").to_pylist() == [d.year for _, _, d, _ in records]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40_000), st.integers(0, 40_000))
def test_an_age_is_never_finer_than_its_group(born: int, later: int) -> None:
    from tacit.connect.transforms import generalise
    from tacit.policy.contract import Generalise

    birth = date(1900, 1, 1) + timedelta(days=born)
    on = birth + timedelta(days=later)
    age = on.year - birth.year - ((on.month, on.day) < (birth.month, birth.day))
    how = Generalise(method="age", on=on, width=10)
    assert generalise(pa.array([birth]), how).to_pylist() == [min(age, 90) // 10 * 10]
