"""The report of a job's attacks as an entry in the evidence of a run: what it said, and its digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import rfc8785

from tacit.errors import TacitError
from tacit.files import read_limited
from tacit.types import Digest

__all__ = ["FOLDER", "STATEMENT", "latest_entry"]

FOLDER = "attacks"
"""Beside the job: one folder for every report."""

STATEMENT = "attack-report"
KIND = "tacit-attack-report"
LIMIT = 16 * 1024 * 1024
LARGEST = 256 * 1024
"""Bytes of an entry: it becomes part of a bundle."""
MOST = 32
"""Rows of a report."""
PROFILES = ("demo", "quick", "full")
"""The report of the later one counts, then the newer one."""
FIGURES = ("value", "low", "high", "null", "ceiling", "trials")


def latest_entry(base: Path, job: Digest, code: Digest) -> dict[str, Any] | None:
    """What the report about exactly this job and code says, for a statement about a run.

    Args:
        base: The job's folder.
        job: Digest of the job.
        code: Digest of its model code.

    Returns:
        Of the most thorough one among them, the newest. A predicate without floats: numbers are decimal
        texts. None if there is no whole report, on
        public data, of this job and code, or none that can be read: a run needs none.
    """
    paths = sorted((base / FOLDER).glob("*/report.json"), key=_age, reverse=True)
    found = (_entry(path, job.hex(), code.hex()) for path in paths)
    entries = [entry for entry in found if entry is not None]
    return max(entries, key=lambda entry: PROFILES.index(entry["profile"]), default=None)


def _age(path: Path) -> int:
    """When the file was changed last; before everything else if it is gone or not a file."""
    try:
        return path.stat().st_mtime_ns if path.is_file() else -1
    except OSError:
        return -1


def _entry(path: Path, job: str, code: str) -> dict[str, Any] | None:
    """What one report says; whatever is wrong with it, a run must not fail because of it."""
    try:
        data = read_limited(path, LIMIT)
        report = json.loads(data)
        about = (report["kind"], report["format"], report["job"]["digest"], report["job"]["code"])
        if about != (KIND, 1, job, code) or report["site"] is not None or not report["whole"]:
            return None
        if report["profile"] not in PROFILES or len(report["rows"]) > MOST:
            return None
        entry: dict[str, Any] = {
            "report": hashlib.sha256(data).hexdigest(),
            "digest": str(report["digest"]),
            "version": str(report["version"]),
            "job": job,
            "code": code,
            "data": {
                "contract": str(report["data"]["contract"]),
                "records": int(report["data"]["records"]),
            },
            "profile": str(report["profile"]),
            "seed": str(report["seed"]),
            "status": str(report["status"]),
            "whole": bool(report["whole"]),
            "cells": {str(row["row"]): _cells(row["cells"]) for row in report["rows"]},
        }
        return entry if len(rfc8785.dumps(entry)) <= LARGEST else None
    except (TacitError, OSError, ArithmeticError, ValueError, LookupError):
        return None
    except (TypeError, AttributeError, RecursionError):
        return None


def _cells(cells: dict[str, Any]) -> dict[str, Any]:
    return {
        column: {
            "verdict": str(cell["verdict"]),
            "metric": str(cell["metric"] or ""),
            "alarms": [str(alarm) for alarm in cell["alarms"]],
            **_figures(cell["estimate"]),
        }
        for column, cell in cells.items()
    }


def _figures(estimate: dict[str, Any] | None) -> dict[str, str]:
    if estimate is None:
        return {}
    return {name: str(estimate[name]) for name in FIGURES if estimate[name] is not None}
