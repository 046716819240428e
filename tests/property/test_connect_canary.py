from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import logging
import pickle
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tacit.config import parse_table
from tacit.connect import Reading, read
from tacit.errors import ConfigError, TacitError
from tacit.policy import Contract
from tacit.policy.rows import Apply, Cell, Like, Literal, RowFilter
from tacit.testing.permissions import FixedKeys, permission

KEYS = FixedKeys()
FEATURE = {
    "classification": "feature",
    "transform": {"method": "keep"},
    "logicalTypeOptions": {"minimum": 0, "maximum": 9},
    "bounds_source": "scale",
}
LABEL = {"classification": "label", "transform": {"method": "keep"}}


def removal(classification: str, method: str, **more: Any) -> dict[str, Any]:
    return {"classification": classification, "transform": {"method": method, **more}}


REMOVALS: tuple[dict[str, Any], ...] = (
    removal("free-text", "drop"),
    removal("consent", "drop"),
    removal("identifier", "drop"),
    removal("identifier", "token", period="year"),
    removal("identifier", "mask"),
    removal("quasi-identifier", "token"),
    removal("sensitive", "drop"),
    removal("quasi-identifier", "prefix", length=4),
    {**removal("sensitive", "vocabulary", buckets=3), "train": True, "values": ["none"]},
)
DAMAGE = ("none", "short row", "long row", "open quote", "not utf-8", "text", "nan", "range", "label",
          "no header", "undeclared", "missing", "empty cell")  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[str]], list[str], str, int]:
    """Columns, rows of cells, the canaries among them, a kind of damage and the row it strikes."""
    removed = draw(st.lists(st.sampled_from(REMOVALS), min_size=1, max_size=5))
    columns = [{"name": f"r{i}", "logicalType": "string", **how} for i, how in enumerate(removed)]
    columns.append({"name": "x", "logicalType": "number", **FEATURE})
    columns.append({"name": "y", "logicalType": "string", "values": ["a", "b"], **LABEL})
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


def contract(columns: list[dict[str, Any]], form: str, **head: Any) -> Contract:
    content = {
        "apiVersion": "v3.1.0",
        "name": "canary",
        "server": {"type": "local", "path": "records", "format": form},
        "properties": columns,
        **head,
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
            batch = read(content, Path(folder), permission(content), KEYS)
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
    wide = {**FEATURE, "logicalTypeOptions": {"minimum": -100, "maximum": 100}}
    narrow = {**FEATURE, "logicalTypeOptions": {"minimum": -5, "maximum": 5}}
    columns = [
        {"name": "x", "logicalType": "number", **wide},
        {"name": "n", "logicalType": "integer", **narrow},
        {"name": "d", "logicalType": "date", **removal("sensitive", "year")},
        {"name": "y", "logicalType": "boolean", **LABEL, "values": [True, False]},
    ]
    lines = ["x,n,d,y", *(f"{x!r},{n},{d},{str(y).lower()}" for x, n, d, y in records)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "records").write_text("\n".join(lines) + "\n")
        made = contract(columns, "csv")
        batch = read(made, Path(folder), permission(made))
    assert batch.features.tolist() == [[x, float(n)] for x, n, _, _ in records]
    assert batch.labels.tolist() == [0 if y else 1 for _, _, _, y in records]
    assert batch.extra.column("d").to_pylist() == [d.year for _, _, d, _ in records]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40_000), st.integers(0, 40_000))
def test_an_age_is_never_finer_than_its_group(born: int, later: int) -> None:
    from tacit.connect.transforms import coarser
    from tacit.policy.transform import Transform

    birth = date(1900, 1, 1) + timedelta(days=born)
    on = birth + timedelta(days=later)
    age = on.year - birth.year - ((on.month, on.day) < (birth.month, birth.day))
    how = Transform(method="age", on=on, width=10)
    assert coarser(pa.array([birth]), how).to_pylist() == [min(age, 90) // 10 * 10]


# Every cell of a column that is not kept holds a canary of its own.


@dataclasses.dataclass(frozen=True)
class Table:
    """A data set, its contract and what must not be seen of it.

    Args:
        columns: The contract's columns.
        rows: Cells by column.
        canaries: Texts of cells, in every form in which a cell could be shown.
        form: ``csv`` or ``parquet``.
        filtered: Whether a row rule asks for consent.
        quarantine: Whether the contract sets broken rows aside.
        used: How many rows are left, or 0 if the data set must be refused.
    """

    columns: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    canaries: list[str]
    form: str
    filtered: bool
    quarantine: bool
    used: int


@dataclasses.dataclass(frozen=True)
class Shown:
    """Everything that could be seen of a reading, and how many records it gave."""

    text: str
    records: int


DATE_COLUMNS: dict[str, dict[str, Any]] = {
    "born": {"logicalType": "date", **removal("quasi-identifier", "year")},
    "seen": {"logicalType": "date", **removal("quasi-identifier", "decade")},
    "aged": {
        "logicalType": "date",
        **removal("quasi-identifier", "age", width=5, on=date(2399, 1, 1)),
    },
    "moved": {"logicalType": "date", **removal("sensitive", "date-shift", days=30)},
    "named day": {"logicalType": "date", **removal("quasi-identifier", "token")},
    "lost day": {"logicalType": "date", **removal("quasi-identifier", "drop")},
}
NUMBER_COLUMNS: dict[str, dict[str, Any]] = {
    "counted": {"logicalType": "integer", **removal("sensitive", "drop")},
    "numbered": {"logicalType": "integer", **removal("identifier", "token", period="month")},
    "binned": {"logicalType": "integer", **removal("sensitive", "bins", width=10**6)},
    "clamped": {
        "logicalType": "number",
        **removal("sensitive", "clamp", lower=0.0, upper=1.0),
        "train": True,
    },
}
TEXT_COLUMNS: dict[str, dict[str, Any]] = {
    "lost": removal("identifier", "drop"),
    "told": removal("free-text", "drop"),
    "hidden": removal("identifier", "mask"),
    "tail": removal("identifier", "mask", visible=4),
    "digits": removal("identifier", "ff1", alphabet="digits"),
    "letters": removal("identifier", "ff1", alphabet="alphanumeric", period="year"),
    "head": removal("quasi-identifier", "prefix", length=4),
    "place": removal("quasi-identifier", "zip3"),
    "word": {**removal("sensitive", "vocabulary", buckets=3), "train": True, "values": ["none"]},
    "note": {**removal("free-text", "quarantine"), "required": False},
}
ALWAYS: dict[str, dict[str, Any]] = {
    "person": {"logicalType": "string", **removal("identifier", "token")},
    "consent": {"logicalType": "string", **removal("consent", "drop")},
    "x": {"logicalType": "number", **FEATURE},
    "y": {"logicalType": "string", "values": ["a", "b"], **LABEL},
}
UNFIT = {
    "x": "is not a number",
    "digits": "has a character outside its alphabet",
    "letters": "has a character outside its alphabet",
    "place": "is no ZIP code",
    "numbered": "is not an integer",
    "moved": "is not a date",
    "tail": "is too short",
}
"""Columns into which a cell does not fit, and why; by text only, as Parquet has types."""


def cell(name: str, row: int, place: int, mark: tuple[str, int]) -> tuple[Any, list[str]]:
    """A cell of a column, unlike any other, and the texts by which one would know it."""
    letters, number = mark
    text = f"Q{letters}x{row}x{place}"
    if name in DATE_COLUMNS:
        # Years apart from those of other columns and rows, further than a shift can move it.
        day = date(1700 + 50 * list(DATE_COLUMNS).index(name) + 2 * row, 3 + row, 11 + row)
        return day, [day.isoformat(), repr(day)]
    if name in NUMBER_COLUMNS:
        value = (number * 100 + row) * 100 + place
        return value, [str(value)]
    if name == "digits":
        digits = f"{(number * 100 + row) * 100 + place}"
        return digits, [digits]
    if name == "place":
        digits = f"{75_000 + number % 1000:05}-{number % 900 + 10 * row + 100:04}"
        return digits, [digits, digits[1:]]
    shown = {"head": "Area", "consent": "yes"}.get(name, "")
    return f"{shown}{text}" + ("zzzz" if name == "tail" else ""), [text]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables and contracts of every method, with row rules and broken cells."""
    others = {**DATE_COLUMNS, **NUMBER_COLUMNS, **TEXT_COLUMNS}
    chosen = draw(st.lists(st.sampled_from(sorted(others)), min_size=1, max_size=7, unique=True))
    entries = {**ALWAYS, **{name: {"logicalType": "string", **others[name]} for name in chosen}}
    columns = [{"name": name, **entries[name]} for name in draw(st.permutations(list(entries)))]
    mark = draw(st.text("bcdfghjk", min_size=8, max_size=8)), draw(st.integers(10**7, 10**8 - 1))
    form, filtered = draw(st.sampled_from(("csv", "parquet"))), draw(st.booleans())
    rows, canaries, used = [], [], 0
    for row in range(draw(st.integers(1, 6))):
        cells: dict[str, Any] = {}
        for place, name in enumerate(entries):
            if name in ("x", "y"):
                cells[name] = row if name == "x" else "ab"[row % 2]
                continue
            cells[name], texts = cell(name, row, place, mark)
            canaries += texts
        denied = draw(st.integers(0, 4)) == 0
        if denied:
            cells["consent"] = "no" + cells["consent"][3:]
        told = draw(st.integers(0, 4)) == 0
        if "note" in cells and not told:
            cells["note"] = ""
        rows.append(cells)
        used += not (denied and filtered) and not (told and "note" in cells)
    table = Table(columns, rows, canaries, form, filtered, draw(st.booleans()), used)
    return _broken(draw, table) if form == "csv" and draw(st.booleans()) else table


def _broken(draw: st.DrawFn, table: Table) -> Table:
    """The table with one cell that does not fit its column, in a row that would be used."""
    fitting = [
        row
        for row in table.rows
        if not row.get("note") and not (table.filtered and row["consent"].startswith("no"))
    ]
    if not fitting:
        return table
    name = draw(st.sampled_from(sorted(UNFIT.keys() & table.rows[0].keys())))
    row = draw(st.sampled_from(fitting))
    spoilt = "Q!canary" if name == "tail" else f"Q{name[:1]}!canary-cell"
    row[name] = spoilt
    canaries = [*table.canaries, spoilt]
    used = table.used - 1 if table.quarantine else 0
    return dataclasses.replace(table, canaries=canaries, used=used)


class _Heard(logging.Handler):
    """Collects what any logger says."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.args} {record.exc_info}")


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """Everything that is logged, printed or warned of meanwhile."""
    heard, printed, root = _Heard(), io.StringIO(), logging.getLogger()
    level = root.level
    root.addHandler(heard)
    root.setLevel(logging.NOTSET)
    lines = heard.lines
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(heard)
    lines += [printed.getvalue(), *(str(warning.message) for warning in warned)]


def _write(table: Table, path: Path) -> None:
    names = [column["name"] for column in table.columns]
    if table.form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.rows)
        return
    values = {name: [row[name] for row in table.rows] for name in names}
    for name in {"x", "clamped"} & values.keys():
        values[name] = [float(value) for value in values[name]]
    parquet.write_table(pa.table(values), path)


def everything(table: Table) -> Shown:
    """What could be seen of reading a table: the result, or the error, and all that is beside it."""
    invalid = "quarantine" if table.quarantine else "refuse"
    made = contract(table.columns, table.form, entity="person", invalid_rows=invalid)
    consented = Apply("==", (Like(Cell("consent", "String"), ("yes", None)), Literal(True)))
    rule = RowFilter((consented,), ()) if table.filtered else None
    with tempfile.TemporaryDirectory() as folder, _overheard() as lines:
        _write(table, Path(folder) / "records")
        reading = Reading(made, Path(folder), permission(made, rule), KEYS)
        batches = []
        try:
            batches = list(reading)
        except TacitError as error:
            lines.append(everything_shown(error) + "".join(traceback.format_exception(error)))
    lines += [repr(reading.receipts), repr(reading.quarantined), repr(reading.rows())]
    lines += [receipt.canonical().decode() for receipt in reading.receipts]
    for batch in batches:
        parts = (batch.features, batch.labels, batch.entities)
        lines += [repr(batch), repr(batch.schema), str(batch.extra.to_pydict())]
        lines += [str(part.tolist()) for part in parts if part is not None]
        lines += [part.tobytes().decode("latin-1") for part in parts if part is not None]
        buffers = [chunk for column in batch.extra.columns for chunk in column.chunks]
        lines += [
            buffer.to_pybytes().decode("latin-1")
            for chunk in buffers
            for buffer in chunk.buffers()
            if buffer is not None
        ]
    return Shown("\n".join(lines), sum(map(len, batches)))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=tables())
def test_no_cell_of_a_column_that_is_not_kept_is_seen(
    table: Table, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = everything(table)
    assert shown.records == table.used
    said = capfd.readouterr()
    seen = shown.text + said.out + said.err
    assert [canary for canary in table.canaries if canary in seen] == []


def test_the_search_would_find_a_cell_that_is_kept() -> None:
    """The property above is worth nothing if it looked in the wrong places."""
    columns = [
        {"name": "person", "logicalType": "string", **removal("identifier", "token")},
        {"name": "head", "logicalType": "string", **removal("sensitive", "prefix", length=9)},
        {"name": "x", "logicalType": "number", **FEATURE},
        {"name": "y", "logicalType": "string", "values": ["a", "b"], **LABEL},
    ]
    row = {"person": "p", "head": "Qcanary-7-rest", "x": 7, "y": "a"}
    shown = everything(Table(columns, [row], [], "csv", False, False, 1))
    assert shown.records == 1
    assert "Qcanary-7" in shown.text
    assert "7.0" in shown.text
    with _overheard() as lines:
        logging.getLogger("tacit").debug("heard %s", "Qcanary-8")
        print("Qcanary-9")
    assert {"Qcanary-8", "Qcanary-9"} <= set(re.findall(r"Qcanary-\d", "\n".join(lines)))
