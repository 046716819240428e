"""Whole ways through the connector against plain pyarrow and NumPy, over one generated hospital file."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import dataset, parquet

from support.machine import Row, interleaved_s, ratio, row, wall
from tacit.config import parse_table
from tacit.connect import Reading, SanitisedBatch, read
from tacit.connect.keys import KeyFolder
from tacit.policy.contract import Contract
from tacit.policy.permission import Permission, public_permission
from tacit.types import Milliseconds

MEASURES = 14
NOW = Milliseconds(1_790_000_000_000)
VOCABULARY = (
    "patient seen reports mild pain after exertion no fever blood pressure stable plan review "
    "continue medication follow up in two weeks family informed"
)
WORDS = VOCABULARY.split()
COARSE = ("mrn", "zip", "birth")
"""Columns that come out as a token or a coarser value, beside the features."""


def table(rows: int) -> pa.Table:
    """A hospital's table of 26 columns: 8 that identify, 4 coarse ones, a note, 14 measures, a label."""
    generator = np.random.default_rng(7)
    number = generator.permutation(rows)
    texts = {
        "name": [f"Given{n % 977} Family{n % 1409}" for n in number],
        "mrn": [f"MRN{n:07}" for n in number],
        "ssn": [f"{n % 899 + 1:03}-{n % 97 + 1:02}-{n % 9973 + 1:04}" for n in number],
        "phone": [f"+1 555 {n % 900 + 100} {n % 9000 + 1000}" for n in number],
        "email": [f"person{n}@example.org" for n in number],
        "street": [f"{n % 400 + 1} Street {n % 211}" for n in number],
        "city": [f"City {n % 613}" for n in number],
        "zip": [f"{n % 90_000 + 10_000}" for n in number],
        "note": _notes(generator, rows),
    }
    days = generator.integers(-15_000, 15_000, rows).astype(np.int32)
    columns: dict[str, Any] = {name: pa.array(values) for name, values in texts.items()}
    columns["birth"] = pa.array(days, pa.int32()).cast(pa.date32())
    columns["age"] = pa.array(generator.integers(0, 104, rows))
    for index in range(MEASURES):
        columns[f"m{index}"] = pa.array(generator.normal(50, 12, rows).clip(0, 100))
    columns["outcome"] = pa.array(generator.integers(0, 2, rows))
    return pa.table(columns)


def _notes(generator: np.random.Generator, rows: int) -> list[str]:
    """Notes of about 250 bytes, no two alike."""
    chosen = generator.integers(0, len(WORDS), (rows, 36), dtype=np.uint8)
    return [" ".join(WORDS[i] for i in line) for line in chosen.tolist()]


def contract(*, coarse: bool = True) -> Contract:
    """Identities dropped, a token of the record number, ZIP3, year of birth, ages in groups.

    Args:
        coarse: False to drop the ``COARSE`` columns, too.
    """

    def entry(name: str, kind: str, class_: str, method: str, **more: Any) -> dict[str, Any]:
        how = {"method": method, **more.pop("how", {})}
        return {
            "name": name,
            "logicalType": kind,
            "classification": class_,
            "transform": how,
            **more,
        }

    bounds = {"bounds_source": "scale of the measure"}
    range_ = {"logicalTypeOptions": {"minimum": 0, "maximum": 100}}
    properties = [
        entry("name", "string", "identifier", "drop"),
        entry("mrn", "string", "identifier", "token"),
        *(entry(n, "string", "identifier", "drop") for n in ("ssn", "phone", "email", "street")),
        entry("city", "string", "quasi-identifier", "drop"),
        entry("zip", "string", "quasi-identifier", "zip3"),
        entry("note", "string", "free-text", "drop"),
        entry("birth", "date", "quasi-identifier", "year"),
        entry("age", "integer", "quasi-identifier", "age", how={"width": 5}, train=True),
        *(entry(f"m{i}", "number", "feature", "keep", **range_, **bounds) for i in range(MEASURES)),
        entry("outcome", "integer", "label", "keep", values=[0, 1]),
    ]
    if not coarse:
        for item in properties:
            if item["name"] in COARSE:
                item["transform"] = {"method": "drop"}
    content = {
        "apiVersion": "v3.1.0",
        "name": "benchmark",
        "public": True,
        "server": {"type": "local", "path": "records.parquet", "format": "parquet"},
        "properties": properties,
    }
    return parse_table(content, Contract, "contract")


@dataclass(frozen=True)
class Setting:
    """A written file and everything that a reading of it needs."""

    folder: Path
    contract: Contract
    permission: Permission
    keys: KeyFolder

    @property
    def path(self) -> Path:
        return self.folder / "records.parquet"

    def batches(self) -> int:
        """Reads everything batch by batch."""
        reading = Reading(self.contract, self.folder, self.permission, self.keys)
        return sum(len(batch) for batch in reading)

    def whole(self) -> SanitisedBatch:
        """Reads everything into memory."""
        return read(self.contract, self.folder, self.permission, self.keys)


@contextmanager
def written(rows: int, *, coarse: bool = True) -> Iterator[Setting]:
    """A file of so many rows in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parquet.write_table(table(rows), folder / "records.parquet", row_group_size=65_536)
        made = contract(coarse=coarse)
        yield Setting(
            folder, made, public_permission(made, "benchmark", NOW), KeyFolder(folder / "keys")
        )


def scan_all(path: Path) -> int:
    """The plain scan: every column, decoded and thrown away."""
    return sum(batch.num_rows for batch in dataset.dataset(path).to_batches())


def structured(rows: int, repeats: int) -> Iterator[Row]:
    """Speed of the sanitised scan over the plain one."""
    with written(rows) as setting:
        calls: list[Callable[[], object]] = [setting.batches, lambda: scan_all(setting.path)]
        ours, plain = interleaved_s(calls, repeats, clock=wall)
        own_cpu, plain_cpu = interleaved_s(calls, repeats)
    size = f"{rows:,} rows x 26 columns"
    how = (
        f"{size}; plain: pyarrow.dataset decodes all columns; ours: 8 dropped, a token, ZIP3, a year, "
        f"ages, 14 checked measures, receipts; wall time, {repeats} in turns"
    )
    yield row("structured: sanitised / plain scan", ratio(plain, ours), "x", how, ">= 2")
    yield row("structured: CPU time", ratio(plain_cpu, own_cpu), "x", "the same, all threads' time")
    yield row("structured: sanitised", rows / statistics.median(ours) / 1e6, "M rows/s", size)
    yield row("structured: plain", rows / statistics.median(plain) / 1e6, "M rows/s", size)


def gradient(features: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The first gradient of logistic regression, from zero weights."""
    residual = 0.5 - labels
    return features.T @ residual / len(labels)


def plain_gradient(path: Path) -> NDArray[np.float64]:
    """What one would write without any protection: only the columns that are needed."""
    names = ["age", *(f"m{index}" for index in range(MEASURES))]
    found = dataset.dataset(path).to_table(columns=[*names, "outcome"])
    features = np.column_stack([found.column(name).to_numpy() for name in names])
    return gradient(features, found.column("outcome").to_numpy())


def whole_path(rows: int, repeats: int) -> Iterator[Row]:
    """File to first gradient, over pyarrow and NumPy alone.

    The target compares two ways to the same features and labels. The strict comparison lets the plain
    side ignore three columns that our contract turns into tokens, ZIP3 and years beside the features.
    """
    features = f"{rows:,} rows, {MEASURES + 1} features and a label"
    ways = (
        ("whole path: sanitised / plain", False, "both decode these columns only, ours groups ages", "<= 1.2"),
        ("whole path, with tokens", True, "plain skips 3 text and date columns that ours turns into "
         "tokens, ZIP3, years", None),
    )  # fmt: skip
    for name, coarse, what, target in ways:
        with written(rows, coarse=coarse) as setting:
            calls = (_sanitised(setting), lambda path=setting.path: plain_gradient(path))
            ours, plain = interleaved_s(calls, repeats, clock=wall)
            cpu_times = interleaved_s(calls, repeats)
        how = f"{features}; {what}; ours checks types and bounds and writes receipts; wall time, {repeats} in turns"
        yield row(name, ratio(ours, plain), "x", how, target)
        yield row(f"{name}, CPU time", ratio(*cpu_times), "x", "the same, all threads' time")
        if coarse:
            continue
        yield row("whole path: sanitised", statistics.median(ours) * 1e3, "ms", features)
        yield row("whole path: plain", statistics.median(plain) * 1e3, "ms", features)


def _sanitised(setting: Setting) -> Callable[[], NDArray[np.float64]]:
    def call() -> NDArray[np.float64]:
        batch = setting.whole()
        return gradient(batch.features, batch.labels)

    return call
