"""What the connector and the policy cost: every line of their table, with its target.

    .venv/bin/python benchmarks/connectors.py --json connectors.json

Kernels: CPU time of one core. Ways over whole files: wall time, ratios of measurements taken in turns.
The comparison with PyPI's ``ff3`` installs it into an environment of its own. The canary line draws
random tables and looks for the cells of columns that are not kept; it needs ``hypothesis``.
"""

from __future__ import annotations

from support import connector_canaries, connector_kernels, connector_paths, connector_policy
from support.machine import Parts, run


def full() -> Parts:
    """The sizes of the table."""
    return {
        "structured": lambda: connector_paths.structured(200_000, 15),
        "whole-path": lambda: connector_paths.whole_path(200_000, 15),
        "tokens": lambda: connector_kernels.token_rows(1_000_000),
        "ff1-rate": lambda: connector_kernels.ff1_rows(10, 300_000, 0),
        "ff1-peer": lambda: connector_kernels.ff1_rows(10, 300_000, 20_000),
        "scan": lambda: connector_kernels.scan_rows(32_000_000),
        "canaries": lambda: connector_canaries.rows(2_000),
        "decisions": lambda: connector_policy.rate(2_000),
        "decisions-reading": lambda: connector_policy.per_reading(2_000_000),
        "decisions-run": connector_policy.per_run,
    }


def quick() -> Parts:
    """Sizes that show that everything runs; the figures mean nothing."""
    return {
        "structured": lambda: connector_paths.structured(2_000, 1),
        "whole-path": lambda: connector_paths.whole_path(2_000, 1),
        "tokens": lambda: connector_kernels.token_rows(1_000),
        "ff1-rate": lambda: connector_kernels.ff1_rows(10, 1_000, 0),
        "ff1-peer": lambda: connector_kernels.ff1_rows(10, 1_000, 100),
        "scan": lambda: connector_kernels.scan_rows(100_000),
        "canaries": lambda: connector_canaries.rows(5),
        "decisions": lambda: connector_policy.rate(20),
        "decisions-reading": lambda: connector_policy.per_reading(200_000),
        "decisions-run": connector_policy.per_run,
    }


def main() -> None:
    """Measures, prints a table, writes JSON."""
    run(__doc__, full, quick)


if __name__ == "__main__":
    main()
