"""Random tables in which every cell of a column that is not kept is a canary, by the tests' generator."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, given, settings

from support.machine import Row, row

GENERATOR = Path(__file__).parents[2] / "tests" / "property" / "test_connect_canary.py"


def rows(tables: int) -> Iterator[Row]:
    """How many canaries are found, over so many random tables."""
    module = _module()
    planted, found, read = [0], [0], [0]

    @settings(
        max_examples=tables,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(module.tables())
    def look(case: Any) -> None:
        shown = module.everything(case)
        read[0] += 1
        planted[0] += len(case.canaries)
        found[0] += sum(canary in shown.text for canary in case.canaries)

    look()
    how = (
        f"{planted[0]:,} texts of cells, {read[0]:,} random tables (CSV and Parquet, row rules, broken cells); "
        "looked for in features, labels, extra, entities, receipts, lists, logs, output and errors"
    )
    yield row("cells of non-kept columns found", found[0], "cells", how, "<= 0")


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("connect_canary", GENERATOR)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{GENERATOR} is missing: run this from a checkout")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
