"""A first draft of a contract from a sample of the source: types and classes, and everything dropped.

The draft is for a person to finish. It says what the names of columns and the shape of their cells
suggest, holds no value of any cell, and proposes no limits: limits that come from the data tell of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import compute

from tacit.connect.cells import BadCell
from tacit.connect.parse import IS_STORED_AS, parse
from tacit.connect.residual import scan
from tacit.connect.sources import Source, open_source
from tacit.errors import ConfigError
from tacit.policy.column import Classification, Column, LogicalType
from tacit.policy.hipaa import HipaaIdentifier
from tacit.policy.names import about_age, about_text, suggested_category, suggested_identifier
from tacit.policy.server import Server

__all__ = ["ROWS", "infer"]

ROWS = 10_000
"""Rows of a sample."""

_MAX_NAME = 200
_UNIQUE = 0.9
"""Share of different values from which a column tells records apart."""
_ENOUGH = 20
"""Cells below which being different means nothing."""
_CLASSES = 20
"""Most different values of what may be the label."""
_LONG = 40
"""Mean length of a text, in characters, from which it is free text if it has spaces."""

_TEXT_TYPES: tuple[LogicalType, ...] = ("integer", "number", "boolean", "date", "timestamp")
"""What the cells of a CSV column are tried as, in this order."""

_DETECTED: dict[str, HipaaIdentifier] = {
    "email": "email",
    "url": "url",
    "ipv4": "ip-address",
    "ipv6": "ip-address",
    "mac": "device",
    "us_ssn": "social-security-number",
    "phone": "telephone",
    "credit_card": "account-number",
    "iban": "account-number",
    "uk_nhs": "other",
    "vin": "vehicle",
    "medical_record": "medical-record-number",
    "date": "date",
}
"""Of the residual scan's detectors, those that tell of an identifier of a patient."""

_DIGITS_OF_TEXT = ("geography", "telephone", "fax", "social-security-number")
"""Identifiers that may be all digits and are texts all the same."""

_HEADER_CELL = re.compile(
    r"\s*|[-+]?[0-9.,]+([eE][-+]?[0-9]+)?|[0-9]{1,4}[-./][0-9]{1,2}[-./].*|.*@.*"
)
"""What no column is called, but a cell may hold."""


@dataclass(slots=True)
class _Sample:
    """The cells of one column, in memory while the draft is made.

    Args:
        name: The column.
        kind: Its stored type.
        text: Whether cells are text as bytes (CSV).
        cells: What was read.
    """

    name: str
    kind: pa.DataType
    text: bool
    cells: list[pa.Array] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Proposal:
    """One column of the draft.

    Args:
        logical_type: What its cells are.
        optional: Whether a cell was empty.
        classification: How sensitive it seems.
        reason: Why, without any value.
        keys: Further keys.
        advice: What a person may do with it; lines of a comment.
    """

    logical_type: LogicalType
    optional: bool
    classification: Classification
    reason: str
    keys: dict[str, str]
    advice: tuple[str, ...] = ()


def infer(
    server: Server,
    base: Path,
    secrets: Mapping[str, str] | None = None,
    *,
    name: str,
    rows: int = ROWS,
) -> str:
    """Drafts the contract of a source from its first rows.

    Every column is dropped; what it seems to be, and what to write to use it, are comments. The draft is
    TOML that ``Contract.load`` refuses until a person has chosen a label and a feature, and that nothing
    reads while its status is ``draft``.

    Guarantee:
        Beyond the names of columns, the draft holds nothing of the sample but each column's type, whether
        a cell is empty, and how many different values there are, rounded up to a power of ten.
        Checked by tests/unit/test_connect_infer.py::test_no_cell_is_quoted.

    Args:
        server: Where the records lie.
        base: Folder that ``server.path`` is relative to.
        secrets: What ``read_secret`` gave for ``server.secret``.
        name: Name of the contract.
        rows: At most so many rows are looked at, from 1.

    Raises:
        ConfigError: The source cannot be read, has fewer than two columns, or no header.
        TransportError: It cannot be reached.
    """
    source = open_source(server, base, secrets)
    schema = source.schema()
    _check_names(source, schema.names)
    samples = [_Sample(item.name, item.type, source.text) for item in schema]
    for batch in _first_rows(source, tuple(schema.names), rows):
        for sample, cells in zip(samples, batch.columns, strict=True):
            sample.cells.append(cells)
    tables = [_table(sample.name, _proposal(sample)) for sample in samples]
    return "\n".join([*_head(server, name), *tables])


def _check_names(source: Source, names: list[str]) -> None:
    headless = source.text and any(_HEADER_CELL.fullmatch(name) for name in names)
    if headless or any(not 0 < len(name) <= _MAX_NAME for name in names):
        raise ConfigError(
            "infer.header",
            f"{source.place}: the names of the columns look like cells of a record",
            remedy="a CSV file needs a first line with the names of its columns; add one",
            file=source.place,
        )
    if len(names) < 2:
        raise ConfigError(
            "infer.columns",
            f"{source.place}: there are fewer than two columns",
            remedy="check the file's delimiter; a contract needs a feature and a label",
            file=source.place,
        )


def _first_rows(source: Source, names: tuple[str, ...], rows: int) -> Iterator[pa.RecordBatch]:
    left = rows
    for piece in source.batches(names, names):
        yield piece.batch.slice(0, left)
        left -= piece.batch.num_rows
        if left <= 0:
            return


# --- one column -------------------------------------------------------------------------------------


def _proposal(sample: _Sample) -> _Proposal:
    logical_type = _logical_type(sample)
    empty, cells = _present(sample)
    identifier = suggested_identifier(sample.name)
    if sample.text and logical_type == "integer" and identifier in _DIGITS_OF_TEXT:
        logical_type = "string"
    found = _by_name(sample.name, logical_type, identifier)
    if found is None:
        found = _by_content(logical_type, cells)
    classification, reason, keys = found
    advice = _advice(sample.name, logical_type, found, cells)
    if _may_be_label(logical_type, found, cells):
        advice += (
            'if it is the label: classification = "label", transform = { method = "keep" },',
            'values = ["...", "..."]',
        )
    return _Proposal(logical_type, empty, classification, reason, keys, advice)


Found = tuple[Classification, str, dict[str, str]]


def _logical_type(sample: _Sample) -> LogicalType:
    if not sample.text:
        return _stored_type(sample.kind)
    _, cells = _present(sample)
    if not sum(map(len, cells)):
        return "string"
    return next((kind for kind in _TEXT_TYPES if _all_are(cells, kind)), "string")


def _stored_type(kind: pa.DataType) -> LogicalType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return "string"
    if pa.types.is_time(kind):
        return "time"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "array"
    exact: tuple[LogicalType, ...] = ("string", "integer", "number", "boolean", "date", "timestamp")
    return next((name for name in exact if IS_STORED_AS[name](kind)), "object")


def _all_are(cells: list[pa.Array], kind: LogicalType) -> bool:
    column = Column.model_validate(
        {"name": "x", "logicalType": kind, "classification": "sensitive", "required": False}
    )
    try:
        for part in cells:
            parse(part, column, text=True)
    except BadCell:
        return False
    return True


def _present(sample: _Sample) -> tuple[bool, list[pa.Array]]:
    """Whether a cell is empty, and the cells that are not."""
    total, parts = 0, []
    for cells in sample.cells:
        total += len(cells)
        present = cells.drop_null()
        if sample.text or pa.types.is_string(present.type):
            present = present.filter(compute.greater(compute.binary_length(present), 0))
        parts.append(present)
    return sum(map(len, parts)) < total, parts


def _by_name(
    name: str, logical_type: LogicalType, identifier: HipaaIdentifier | None
) -> Found | None:
    if logical_type in ("date", "timestamp"):
        return "quasi-identifier", "a day or a time can single a person out", {"hipaa": "date"}
    if logical_type in ("time", "object", "array"):
        return "sensitive", f"a column of type {logical_type} can only be dropped", {}
    if identifier is not None:
        coarser = identifier in ("date", "geography")
        kind: Classification = "quasi-identifier" if coarser else "identifier"
        return kind, f"its name looks like HIPAA '{identifier}'", {"hipaa": identifier}
    if logical_type == "string" and about_text(name):
        return "free-text", "its name looks like free text", {}
    category = suggested_category(name)
    if category is None:
        return None
    kind = "feature" if category == "health" else "sensitive"
    return kind, f"its name looks like GDPR '{category}'", {"gdpr": category}


def _by_content(logical_type: LogicalType, cells: list[pa.Array]) -> Found:
    count = sum(map(len, cells))
    unique = count >= _ENOUGH and _different(cells) >= _UNIQUE * count
    if logical_type == "string":
        return _by_text([_as_text(part) for part in cells], unique=unique)
    if logical_type == "integer" and unique:
        return "identifier", "(nearly) every record has its own number", {}
    kind = "value" if logical_type == "boolean" else "number"
    return "feature", f"a {kind} that may say something about the label", {}


def _by_text(texts: list[pa.Array], *, unique: bool) -> Found:
    count = sum(map(len, texts))
    if not count:
        return "quasi-identifier", "no cell of the sample has a text", {}
    detector, hits = _most_detected(texts)
    if 2 * hits >= count:
        key = _DETECTED[detector]
        kind: Classification = "quasi-identifier" if key == "date" else "identifier"
        return kind, f"its cells look like HIPAA '{key}'", {"hipaa": key}
    if _is_prose(texts):
        return "free-text", "long texts with spaces", {}
    if unique:
        return "identifier", "(nearly) every record has its own text", {}
    return "quasi-identifier", "a text that nobody has looked at yet", {}


def _as_text(cells: pa.Array) -> pa.Array:
    """As text; what is not UTF-8 is left out, for a sample can do without."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    try:
        return cells.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([], pa.string())


def _most_detected(texts: list[pa.Array]) -> tuple[str, int]:
    """The detector that finds something in most cells, and in how many."""
    counts = dict.fromkeys(_DETECTED, 0)
    for part in texts:
        for hit in scan(part, tuple(_DETECTED)):
            counts[hit.detector] += 1
    return max(counts.items(), key=lambda item: item[1])


def _is_prose(texts: list[pa.Array]) -> bool:
    column = pa.chunked_array(texts, type=pa.string())
    length = compute.mean(compute.utf8_length(column)).as_py()
    spaces = compute.mean(compute.count_substring(column, " ")).as_py()
    return bool(length >= _LONG and spaces >= 3)


def _different(cells: list[pa.Array]) -> int:
    """How many different values there are; 0 where that has no meaning."""
    try:
        return int(compute.count_distinct(pa.chunked_array(cells)).as_py())
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError):
        return 0


# --- the text ---------------------------------------------------------------------------------------


_TELLS_APART = ("other", "medical-record-number", "health-plan-number", "social-security-number")
"""Identifiers that tell people apart."""


def _may_be_label(logical_type: LogicalType, found: Found, cells: list[pa.Array]) -> bool:
    classification, _, keys = found
    fits = logical_type in ("string", "integer", "boolean") and "hipaa" not in keys
    used = classification in ("feature", "quasi-identifier", "sensitive")
    return fits and used and 2 <= _different(cells) <= _CLASSES


_ADVICE: dict[str, tuple[str, ...]] = {
    "free-text": ('to use the rows where it is empty: transform = { method = "quarantine" }',),
    "identifier": (
        'to tell people apart by it: transform = { method = "token" }, and entity above',
    ),
    "geography": ('US ZIP codes, for [anonymity]: transform = { method = "zip3" }',),
    "number": (
        'to train on it: transform = { method = "keep" }, unit = "...", with limits from a textbook or',
        "the device, never from the data: logicalTypeOptions = { minimum = ..., maximum = ... },",
        'bounds_source = "..."',
    ),
    "boolean": ('to train on it: transform = { method = "keep" }',),
    "string": (
        'to train on it: TRAINtransform = { method = "vocabulary", buckets = 8 },',
        'values = ["...", "..."]',
    ),
}
"""How to use a column of a class, an identifier or a type."""


def _advice(
    name: str, logical_type: LogicalType, found: Found, cells: list[pa.Array]
) -> tuple[str, ...]:
    classification, _, keys = found
    if keys.get("hipaa") == "date":
        return _advice_on_date(name, logical_type)
    if not sum(map(len, cells)):
        return ()
    if classification == "identifier" and keys.get("hipaa", "other") not in _TELLS_APART:
        return ()
    kind = "number" if logical_type == "integer" else logical_type
    lines = next(
        (_ADVICE[key] for key in (classification, keys.get("hipaa", ""), kind) if key in _ADVICE),
        (),
    )
    if lines == _ADVICE["string"]:
        train = "" if classification == "feature" else "train = true, "
        lines = (lines[0].replace("TRAIN", train), *lines[1:])
        return (f"{_rounded(cells)} different values", *lines)
    return lines


def _advice_on_date(name: str, logical_type: LogicalType) -> tuple[str, ...]:
    if logical_type == "date":
        return (
            "if it is the date of birth, to train on the age: train = true,",
            'transform = { method = "age", width = 5, on = YYYY-MM-DD }',
        )
    if logical_type == "integer" and about_age(name):
        return ('to train on it: train = true, transform = { method = "age", width = 5 }',)
    return ()


def _rounded(cells: list[pa.Array]) -> str:
    count, power = _different(cells), 10
    while power < count:
        power *= 10
    return f"at most {power:,}"


def _head(server: Server, name: str) -> Iterator[str]:
    yield "# A draft by `tacit contract infer`, from a sample; it holds no value of any cell."
    yield "# Every column is dropped until you decide otherwise. To finish it:"
    yield "#  1. correct what each column is: classification, hipaa, gdpr"
    yield '#  2. choose the label: classification = "label", transform = { method = "keep" }, and its'
    yield '#     classes, values = ["...", "..."]'
    yield "#  3. choose the features; their limits must be the same at every site of a job"
    yield '#  4. run `tacit contract check` on this file, then set status = "active"'
    yield 'apiVersion = "v3.1.0"'
    yield 'kind = "DataContract"'
    yield f"name = {_toml(name)}"
    yield 'version = "0.1.0"'
    yield 'status = "draft"'
    yield 'description = ""'
    yield '# entity = "..."            # the column that tells people apart, with method token'
    yield '# region = "..."            # where the data lie; by default the region of the site'
    yield '# lawful_basis = "..."      # GDPR Art. 6(1): consent, public-task, ...'
    yield "# retention = YYYY-MM-DD    # last day on which the data may be used"
    yield ""
    yield "[server]"
    for key, value in server.model_dump(mode="json", by_alias=True, exclude_unset=True).items():
        yield f"{key} = {_toml(value)}"
    yield ""


def _table(name: str, made: _Proposal) -> str:
    lines = ["[[properties]]", f"name = {_toml(name)}", f"# {made.reason}"]
    lines += [f"#   {line}" for line in made.advice]
    lines += [
        f"logicalType = {_toml(made.logical_type)}",
        f"classification = {_toml(made.classification)}",
        *(f"{key} = {_toml(value)}" for key, value in made.keys.items()),
        *(["required = false           # a cell is empty"] if made.optional else []),
        'transform = { method = "drop" }',
    ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A TOML value; its basic strings are those of JSON, but for one control character."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
