"""What secure aggregation costs: every line of the speed table, with its target.

    .venv/bin/python benchmarks/secagg.py --json secagg.json --figure secagg.png

Medians on one core unless a row says otherwise; ratios are of measurements taken in turns in one run.
The comparison with Flower installs ``flwr`` into an environment of its own and takes some minutes the
first time; its result is kept under ``benchmarks/.venvs`` until ``--refresh``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from support import against, kernels, memory, scaling
from support.machine import Parts, describe, measure, options, report


def full(chosen: argparse.Namespace, machine: dict[str, Any]) -> Parts:
    """The sizes of the speed table."""
    sizes = [10**power for power in range(4, 9)]
    counts = [10, 100, 1000, 10_000]
    return {
        "masks": lambda: kernels.masks((10**6, 10**7, 10**8)),
        "two-cores": lambda: kernels.two_cores(10**7),
        "encoding": lambda: kernels.encoding(10**6),
        "noise": lambda: kernels.noise((10**6, 10**7)),
        "combine": lambda: kernels.combine(10**6, (10, 100, 1000)),
        "digests": lambda: kernels.digests(10**7),
        "bytes": lambda: kernels.bytes_up(10**6),
        "seeds": lambda: kernels.seeds(1000),
        "memory": lambda: memory.roles(10**7, 10, 100),
        "long-round": lambda: memory.whole_round(10**8, 10),
        "flower": lambda: against.rows(100, 10**6, refresh=chosen.refresh),
        "scaling": lambda: scaling.rows(sizes, counts, chosen.figure, machine),
    }


def quick(chosen: argparse.Namespace, machine: dict[str, Any]) -> Parts:
    """Sizes that show that everything runs; the figures mean nothing."""
    return {
        "masks": lambda: kernels.masks((10**4,)),
        "two-cores": lambda: kernels.two_cores(10**5),
        "encoding": lambda: kernels.encoding(10**4),
        "noise": lambda: kernels.noise((10**4,)),
        "combine": lambda: kernels.combine(10**4, (5, 10)),
        "digests": lambda: kernels.digests(10**5),
        "bytes": lambda: kernels.bytes_up(10**4),
        "seeds": lambda: kernels.seeds(20, repeats=1),
        "memory": lambda: memory.roles(10**5, 3, 5, (32,)),
        "long-round": lambda: memory.whole_round(10**5, 3, (32,)),
        "flower": lambda: against.rows(10, 10**4, refresh=chosen.refresh),
        "scaling": lambda: scaling.rows([10**3, 10**5], [5, 20], chosen.figure, machine),
    }


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = options(__doc__)
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the scaling")
    parser.add_argument("--refresh", action="store_true", help="measure Flower again")
    chosen = parser.parse_args()
    machine = describe()
    parts = (quick if chosen.quick else full)(chosen, machine)
    rows = measure(parts, chosen.only, judged=not chosen.quick)
    report(rows, machine, chosen.json)


if __name__ == "__main__":
    main()
