"""The audit of redaction: canary values in columns that must not leave, and a search of all that leaves."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tacit.attack.defences import Defence, job_for
from tacit.attack.scratch import DataPool, ScratchFederation
from tacit.attack.transcript import Transcript
from tacit.connect import SanitisedBatch
from tacit.party.job import JobSpec
from tacit.policy.contract import Contract
from tacit.wire.envelope import Envelope

__all__ = ["RedactionFigures", "audit_redaction"]

RECORDS = 48
SITES = 4
ROUNDS = 2

_HEAD = """apiVersion = "v3.1.0"
name = "planted"
public = true

[server]
type = "local"
path = "planted.csv"
format = "csv"
"""

_COLUMNS = (
    ("name", "string", "identifier", '{ method = "drop" }', ""),
    ("number", "string", "identifier", '{ method = "token" }', ""),
    ("account", "number", "identifier", '{ method = "drop" }', ""),
    ("zip_code", "string", "quasi-identifier", '{ method = "zip3" }', ""),
    ("born", "date", "quasi-identifier", '{ method = "decade" }', ""),
    ("note", "string", "free-text", '{ method = "drop" }', ""),
    (
        "size",
        "number",
        "feature",
        '{ method = "keep" }',
        'bounds_source = "made up"\nlogicalTypeOptions = { minimum = 0.0, maximum = 10.0 }',
    ),
    ("answer", "string", "label", '{ method = "keep" }', 'values = ["no", "yes"]'),
)

PLANTED = ("name", "number", "account", "zip_code", "born", "note")
SEARCHED = ("name", "number", "account", "note")
"""Columns whose values are too rare to be met by chance among the bytes of a run."""


@dataclass(frozen=True, slots=True)
class RedactionFigures:
    """What was planted and what became of it.

    Args:
        planted: How many values.
        searched: How many bytes and cells that leave a site were searched.
        found: Columns of which a value was found.
        unclaimed: Columns whose receipt does not say what the contract demands.
    """

    planted: int
    searched: int
    found: tuple[str, ...]
    unclaimed: tuple[str, ...]


def audit_redaction(
    job: JobSpec, defence: Defence, generator: np.random.Generator
) -> RedactionFigures:
    """Plants values, runs the job on what the connector makes of them, and searches.

    Args:
        job: Whose protocol and privacy settings are used; a shipped model is trained.
        defence: The column.
        generator: Of what is planted.
    """
    rows = _rows(generator)
    with TemporaryDirectory() as folder:
        base = Path(folder)
        with (base / "planted.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([column[0] for column in _COLUMNS])
            writer.writerows(rows)
        (base / "contract.toml").write_text(_contract(), "utf-8")
        data = DataPool.load(base / "contract.toml")
    envelopes: list[Envelope] = []

    def keep(envelope: Envelope) -> Envelope:
        envelopes.append(envelope)
        return envelope

    holdings = list(np.array_split(np.arange(len(data)), SITES))
    made = job_for(job, defence, sites=SITES, units=len(data), rounds=max(2, job.rounds))
    transcript = ScratchFederation(made, Path(), data, holdings).run(keep, rounds=ROUNDS)
    leaving = _leaving(envelopes, transcript, data.batch)
    planted = {
        column[0]: [row[index] for row in rows]
        for index, column in enumerate(_COLUMNS)
        if column[0] in PLANTED
    }
    found = _searched(planted, leaving) | _seen_in(planted, data.batch)
    return RedactionFigures(
        planted=sum(len(values) for values in planted.values()),
        searched=sum(len(part) for part in leaving),
        found=tuple(sorted(found)),
        unclaimed=_unclaimed(data.contract, data.batch),
    )


def _contract() -> str:
    tables = []
    for name, kind, class_, transform, more in _COLUMNS:
        lines = [
            "[[properties]]",
            f'name = "{name}"',
            f'logicalType = "{kind}"',
            f'classification = "{class_}"',
            f"transform = {transform}",
        ]
        tables.append("\n".join([*lines, more]))
    return "\n".join([_HEAD, *tables])


def _rows(generator: np.random.Generator) -> list[list[str]]:
    def word() -> str:
        return generator.bytes(8).hex()

    rows = []
    for _ in range(RECORDS):
        born = f"{generator.integers(1930, 2000)}-{generator.integers(1, 13):02d}-{generator.integers(1, 29):02d}"
        account = f"{generator.integers(10**8, 10**9)}.{generator.integers(10**5, 10**6)}1"
        place = str(generator.integers(10_000, 99_999))
        size = f"{generator.uniform(0.0, 10.0):.3f}"
        answer = "yes" if generator.random() < 0.5 else "no"
        rows.append(
            [
                f"Canary {word()}",
                f"ID{word()}",
                account,
                place,
                born,
                f"note {word()}",
                size,
                answer,
            ]
        )
    return rows


def _leaving(
    envelopes: Iterable[Envelope], transcript: Transcript, batch: SanitisedBatch
) -> list[bytes]:
    """Every byte that leaves a site: on the wire, and what is under its encryption."""
    parts = [part for envelope in envelopes for part in (envelope.message, *envelope.chunks)]
    for one in transcript.rounds:
        for site in one.uploads:
            parts.append(one.uploads[site].tobytes())
            parts.append(transcript.contribution(one, site).tobytes())
    parts += [np.ascontiguousarray(state.theta).tobytes() for state in transcript.states]
    parts += [receipt.canonical() for receipt in (batch.receipt, *batch.receipts)]
    return parts


def _spellings(value: str) -> list[bytes]:
    """How a value might be written."""
    raw = value.encode()
    digest = hashlib.sha256(raw)
    found = [raw, value.encode("utf-16-le"), raw.hex().encode(), digest.digest()]
    found.append(digest.hexdigest().encode())
    try:
        number = float(value)
    except ValueError:
        return found
    return [*found, np.float64(number).tobytes(), np.float64(number).byteswap().tobytes()]


def _searched(planted: dict[str, list[str]], leaving: list[bytes]) -> set[str]:
    everything = b"\x00\x00".join(leaving)
    return {
        column
        for column in SEARCHED
        if any(form in everything for value in planted[column] for form in _spellings(value))
    }


def _seen_in(planted: dict[str, list[str]], batch: SanitisedBatch) -> set[str]:
    """Columns of which a value reached training code or the columns beside it as it was."""
    numbers = set(np.asarray(batch.features, dtype=np.float64).ravel().tolist())
    cells = {
        name: {_text(value) for value in batch.extra.column(name).to_pylist()}
        for name in batch.extra.column_names
    }
    found = set()
    for column, values in planted.items():
        digests = {hashlib.sha256(value.encode()).hexdigest() for value in values}
        if any(not there.isdisjoint({*values, *digests}) for there in cells.values()):
            found.add(column)
        if column == "account" and not numbers.isdisjoint(map(float, values)):
            found.add(column)
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return str(value)


def _unclaimed(contract: Contract, batch: SanitisedBatch) -> tuple[str, ...]:
    """Columns about which a receipt says less, or something else, than the contract demands."""
    found = []
    for receipt in (batch.receipt, *batch.receipts):
        entries = {entry.name: entry for entry in receipt.columns}
        for column in contract.columns:
            entry = entries.get(column.name)
            processed = column.method != "drop"
            if (
                entry is None
                or (entry.class_, entry.method) != (column.classification, column.method)
                or (processed and entry.cells != receipt.rows.in_)
            ):
                found.append(column.name)
    return tuple(sorted(set(found)))
