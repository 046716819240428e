"""What privacy costs: noise by variance, the accountant against central noise, steps against Opacus.

    .venv/bin/python benchmarks/privacy.py --json privacy.json

Medians on one core. Noise as a helper takes it off its mask sum: ``secagg.py``. What models are worth
under it: ``privacy_utility.py``. Opacus gets an environment of its own, made the first time.
"""

from __future__ import annotations

from support import accounting, kernels, opacus
from support.machine import Parts, run

VARIANCES = (10**4, 10**6, 10**8, 10**10, 10**12, 10**14)


def full() -> Parts:
    """The sizes for which the targets hold."""
    return {
        "noise": lambda: kernels.sampler(VARIANCES, 10**6),
        "accounting": lambda: accounting.rows(accounting.SETTINGS, repeats=3),
        "opacus": lambda: opacus.rows(quick=False),
    }


def quick() -> Parts:
    """Sizes that show that everything runs; the figures mean nothing."""
    return {
        "noise": lambda: kernels.sampler(VARIANCES[:2], 10**4),
        "accounting": lambda: accounting.rows(accounting.SETTINGS[:1], repeats=1),
        "opacus": lambda: opacus.rows(quick=True),
    }


def main() -> None:
    """Measures, prints a table, writes JSON."""
    run(__doc__, full, quick)


if __name__ == "__main__":
    main()
