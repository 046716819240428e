"""What tamper evidence costs: appending to a party's log, proving from it, verifying logs and bundles.

    .venv/bin/python benchmarks/ledger.py --json ledger.json

Wall time where a disk or a whole process takes part, CPU time of one core where none does.
"""

from __future__ import annotations

from support import bundle_time, event_log
from support.machine import Parts, run


def full() -> Parts:
    """The sizes for which the targets hold."""
    return {
        "appending": event_log.appending,
        "large": lambda: event_log.large(1_000_000),
        "bundle": bundle_time.verifying,
    }


def quick() -> Parts:
    """Sizes that show that everything runs; the figures mean nothing."""
    return {
        "appending": lambda: event_log.appending(20),
        "large": lambda: event_log.large(4_000),
        "bundle": lambda: bundle_time.verifying(6, repeats=1),
    }


def main() -> None:
    """Measures, prints a table, writes JSON."""
    run(__doc__, full, quick)


if __name__ == "__main__":
    main()
