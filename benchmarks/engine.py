"""What the distributed engine costs: processes of real parties over a real NATS server.

    .venv/bin/python benchmarks/engine.py --json engine.json --figure docs/figures/engine-scaling.png

All parties run on this machine and share its cores. Times are wall-clock medians unless a row says
otherwise. The figures of Flower 1.41 (an empty message, 100 MB per node, its own deployment runtime) were
measured once on the same kind of machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from support import engine_rows, engine_scaling
from support.engine_place import environment
from support.machine import Parts, describe, measure, options, report


def full(chosen: argparse.Namespace, machine: dict[str, Any]) -> Parts:
    """The sizes for which the targets hold."""
    counts = [4, 8, 16, 32]
    return {
        "tasks": lambda: engine_rows.tasks((4, 10), 100, 20),
        "bulk": lambda: engine_rows.bulk(100, 3),
        "idle": engine_rows.idle,
        "job": lambda: engine_rows.long_job(200),
        "many": lambda: engine_rows.many(100, 3),
        "scaling": lambda: engine_scaling.rows(counts, 30, 10, chosen.figure, machine),
    }


def quick(chosen: argparse.Namespace, machine: dict[str, Any]) -> Parts:
    """Sizes that show that everything runs; the figures mean nothing."""
    return {
        "tasks": lambda: engine_rows.tasks((3,), 3, 1),
        "bulk": lambda: engine_rows.bulk(2, 1),
        "idle": engine_rows.idle,
        "job": lambda: engine_rows.long_job(2),
        "many": lambda: engine_rows.many(9, 1),
        "scaling": lambda: engine_scaling.rows([3, 4], 2, 2, chosen.figure, machine),
    }


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = options(__doc__)
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the scaling")
    chosen = parser.parse_args()
    environment()
    machine = describe()
    parts = (quick if chosen.quick else full)(chosen, machine)
    report(measure(parts, chosen.only, judged=not chosen.quick), machine, chosen.json)


if __name__ == "__main__":
    main()
