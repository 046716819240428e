"""What attacks achieve on the bundled jobs and on Fashion-MNIST, under each defence, and how long they take.

    .venv/bin/python benchmarks/attacks.py --json attacks.json --only quick --only fashion

The part ``full`` takes up to an hour. Fashion-MNIST is looked for where ``TACIT_DATA`` says.
"""

from __future__ import annotations

from support.attack_rows import bundled, whole_image
from support.machine import Parts, run


def full() -> Parts:
    """The sizes for which the targets hold."""
    return {
        "quick": lambda: bundled("quick", 300.0),
        "fashion": lambda: whole_image("quick"),
        "full": lambda: bundled("full", 3600.0),
    }


def quick() -> Parts:
    """Sizes that show that everything runs; the figures mean nothing."""
    return {"quick": lambda: bundled("demo", 300.0, "--only", "metadata", "--column", "tacit")}


def main() -> None:
    """Measures, prints a table, writes JSON."""
    run(__doc__, full, quick)


if __name__ == "__main__":
    main()
