"""The report of a job's attacks as an entry in the evidence of a run: what it said, and its digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tacit.files import read_limited
from tacit.types import Digest

__all__ = ["FOLDER", "STATEMENT", "latest_entry"]

FOLDER = "attacks"
"""Beside the job: one folder for every report."""

STATEMENT = "attack-report"
KIND = "tacit-attack-report"
LIMIT = 64 * 1024 * 1024
FIGURES = ("value", "low", "high", "null", "ceiling", "trials")


def latest_entry(base: Path, job: Digest, code: Digest) -> dict[str, Any] | None:
    """What the newest report about exactly this job and code says, for a statement about a run.

    Args:
        base: The job's folder.
        job: Digest of the job.
        code: Digest of its model code.

    Returns:
        A predicate without floats: numbers are decimal texts. None if there is no whole report, on
        public data, of this job and code, or none that can be read: a run needs none.
    """
    paths = [path for path in (base / FOLDER).glob("*/report.json") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        entry = _entry(path, job.hex(), code.hex())
        if entry is not None:
            return entry
    return None


def _entry(path: Path, job: str, code: str) -> dict[str, Any] | None:
    try:
        data = read_limited(path, LIMIT)
        report = json.loads(data)
        about = (report["kind"], report["format"], report["job"]["digest"], report["job"]["code"])
        if about != (KIND, 1, job, code) or report["site"] is not None or not report["whole"]:
            return None
        return {
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
            "cells": {row["row"]: _cells(row["cells"]) for row in report["rows"]},
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
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
