"""The report of a suite: rows and columns, verdicts, words, and the record that stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from tacit.attack.cells import CellResult
from tacit.attack.codec import encode_estimate, plain
from tacit.attack.defences import DEFENCES, TITLES, Defence
from tacit.attack.gate import GateResult
from tacit.attack.proven import Proven
from tacit.attack.registry import ROWS
from tacit.attack.verdict import PROMISED, CellView, Status, overall, view_cell
from tacit.attack.words import LIMITS, headline, sentence, word
from tacit.attack.workbench import Profile

__all__ = ["FORMAT", "Report", "Setting", "rows_of"]

FORMAT = 1
KIND = "tacit-attack-report"
FAILED, NOT_MEASURED = 1, 2


@dataclass(frozen=True, slots=True)
class Setting:
    """What was attacked, and how.

    Args:
        job: Name of the job.
        job_digest: Its digest, hexadecimal.
        code: Digest of its model code, hexadecimal.
        data: Name of the data's contract.
        records: How many records there are.
        seed: Of the attacker's choices.
        profile: How much was done.
        digest: Over all of that, code and version included, hexadecimal.
        site: The site that attacked its own data, inside; empty if the data are public.
    """

    job: str
    job_digest: str
    code: str
    data: str
    records: int
    seed: int
    profile: Profile
    digest: str
    site: str = ""

    @property
    def about(self) -> str:
        """Whose records were attacked, and how, in one line."""
        whose = f"records of site '{self.site}', inside it," if self.site else "public records"
        what = f"{self.records} {whose} of '{self.data}'"
        return f"{what}, profile {self.profile}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a suite found.

    Args:
        setting: What was attacked.
        rows: The rows that were asked for, in order.
        columns: The columns that were asked for, in order.
        results: Of every attack under every defence.
        proven: What is proven of the job.
        gates: What the gates came to.
    """

    setting: Setting
    rows: tuple[str, ...]
    columns: tuple[Defence, ...]
    results: tuple[CellResult, ...]
    proven: Proven
    gates: tuple[GateResult, ...] = ()

    @property
    def cells(self) -> dict[tuple[str, Defence], CellView]:
        """Every cell of the table, by row and column."""
        return {
            (row, column): view_cell(
                [one for one in self.results if one.row == row and one.defence == column]
            )
            for row in self.rows
            for column in self.columns
        }

    @property
    def verdict(self) -> tuple[Status, tuple[str, ...]]:
        """What the whole comes to, and why it is not green."""
        return overall(self.cells, self.rows)

    @property
    def whole(self) -> bool:
        """Whether every row and every column was asked for."""
        return set(self.rows) == set(ROWS) and set(self.columns) == set(DEFENCES)

    @property
    def headline(self) -> str:
        """The report in one line."""
        return headline(self.verdict[0], self.cells, self.rows, self.whole)

    @property
    def exit_code(self) -> int:
        """1 if the table is red or a gate bites; else 2 if a gate is not measured; else 0."""
        states = {gate.status for gate in self.gates}
        if self.verdict[0] == "red" or "bites" in states:
            return FAILED
        return NOT_MEASURED if "not measured" in states else 0

    def measured(self) -> dict[str, tuple[str, ...]]:
        """Every cell as a sentence, by row."""
        cells = self.cells
        return {
            row: tuple(sentence(column, cells[row, column]) for column in self.columns)
            for row in self.rows
        }

    def record(self) -> dict[str, Any]:
        """As plain JSON with stable keys; see ``docs/reference/attack-report.md``."""
        status, reasons = self.verdict
        setting, proven = self.setting, self.proven
        return {
            "kind": KIND,
            "format": FORMAT,
            "version": metadata.version("tacit"),
            "digest": setting.digest,
            "job": {"name": setting.job, "digest": setting.job_digest, "code": setting.code},
            "data": {"contract": setting.data, "records": setting.records},
            "site": setting.site or None,
            "seed": setting.seed,
            "profile": setting.profile,
            "status": status,
            "headline": self.headline,
            "reasons": list(reasons),
            "whole": self.whole,
            "columns": [{"column": one, "title": TITLES[one]} for one in self.columns],
            "rows": self._rows(),
            "attacks": [_attack(result) for result in self.results],
            "gates": [gate.record() for gate in self.gates],
            "proven": {
                "epsilon": proven.epsilon if math.isfinite(proven.epsilon) else "inf",
                "delta": proven.delta,
                "advantage": proven.ceiling.advantage,
                "lines": list(proven.lines),
            },
            "not_covered": list(LIMITS),
        }

    def _rows(self) -> list[dict[str, Any]]:
        cells, words = self.cells, self.measured()
        return [
            {
                "row": row,
                "title": ROWS[row],
                "promised": row in PROMISED,
                "cells": {
                    column: {**_cell(row, cells[row, column]), "sentence": text}
                    for column, text in zip(self.columns, words[row], strict=True)
                },
            }
            for row in self.rows
        ]


def _cell(row: str, cell: CellView) -> dict[str, Any]:
    return {
        "verdict": cell.verdict,
        "word": word(row, cell.verdict),
        "attack": cell.attack or None,
        "metric": cell.metric or None,
        "estimate": None if cell.estimate is None else encode_estimate(cell.estimate),
        "reason": cell.reason or None,
        "alarms": list(cell.alarms),
        "attacks": list(cell.attacks),
    }


def _attack(result: CellResult) -> dict[str, Any]:
    findings = result.findings
    measured = findings.measured if findings else {}
    return {
        "attack": result.attack,
        "row": result.row,
        "column": result.defence,
        "seconds": result.seconds,
        "mirrored": result.mirrored,
        "failure": result.reason or None,
        "adversary": findings.adversary if findings else None,
        "measured": {name: encode_estimate(one) for name, one in measured.items()},
        "notes": list(findings.notes) if findings else [],
        "alarms": list(findings.alarms) if findings else [],
        "details": plain(findings.details) if findings else {},
    }


def rows_of(only: Sequence[str]) -> tuple[str, ...]:
    """The rows that were asked for, in the report's order; all of them if none was named."""
    return tuple(row for row in ROWS if not only or row in only)
