"""Robust rules beside those of ByzFL, on the same vectors.

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0 numpy scipy
    ENV/bin/pip install --no-deps byzfl==0.0.11
    cd benchmarks && PYTHONPATH=../src ENV/bin/python -m peers.attacks_robust

Of ByzFL the aggregators alone are loaded: the package as a whole asks for torchvision. Its Krum takes one
neighbour more than Blanchard et al.; ours is told to do so here. Prints the largest relative difference of each
rule and fails if one exceeds ``TOLERANCE``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tacit.learn import robust

Floats = NDArray[np.float64]
Rule = Callable[[Floats], Floats]

TOLERANCE = 1e-6
CASES = [(7, 1, 5), (9, 2, 31), (20, 4, 200), (20, 9, 50)]
"""Rows, malicious ones, dimension."""
SEEDS = 20


def aggregators() -> types.ModuleType:
    """The rules of ByzFL, without the rest of it."""
    spec = importlib.util.find_spec("byzfl")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("byzfl is not installed; see the first lines of this file")
    package = types.ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators")


def pairs(byzfl: types.ModuleType, n: int, f: int) -> dict[str, tuple[Rule, Rule]]:
    """Our rule and theirs, by name."""
    return {
        "mean": (robust.mean, byzfl.Average()),
        "median": (robust.coordinate_median, byzfl.Median()),
        "trimmed mean": (lambda rows: robust.trimmed_mean(rows, f), byzfl.TrMean(f)),
        "krum": (lambda rows: robust.multi_krum(rows, f, 1, n - f - 1), byzfl.Krum(f)),
        "multi-krum": (
            lambda rows: robust.multi_krum(rows, f, near=n - f - 1),
            byzfl.MultiKrum(f),
        ),
        "geometric median": (
            lambda rows: robust.geometric_median(rows, steps=3000, smoothing=1e-12),
            byzfl.GeometricMedian(nu=1e-9, T=3000),
        ),
        "centered clipping": (
            lambda rows: robust.centered_clipping(rows, 2.0, 5, np.zeros(rows.shape[1])),
            byzfl.CenteredClipping(L=5, tau=2.0),
        ),
        "nearest-neighbour mixing": (lambda rows: robust.nearest_mixing(rows, f), byzfl.NNM(f)),
    }


def rows_of(seed: int, n: int, f: int, d: int) -> Floats:
    """Honest rows around a direction, and f far ones."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((n, d)) + 1.0
    rows[:f] = -5.0 * rows[f:].mean(axis=0) + 0.1 * generator.standard_normal((f, d))
    return generator.permutation(rows)


def main() -> None:
    """Compares all rules on all cases."""
    byzfl = aggregators()
    worst: dict[str, float] = {}
    for n, f, d in CASES:
        for seed in range(SEEDS):
            rows = rows_of(seed, n, f, d)
            for name, (ours, theirs) in pairs(byzfl, n, f).items():
                mine, other = ours(rows), np.asarray(theirs(rows.copy()))
                size = max(float(np.abs(other).max()), 1e-12)
                gap = float(np.abs(mine - other).max()) / size
                worst[name] = max(worst.get(name, 0.0), gap)
    print(json.dumps({"cases": len(CASES) * SEEDS, "largest_relative_difference": worst}, indent=2))
    if max(worst.values()) > TOLERANCE:
        sys.exit("the rules disagree")


if __name__ == "__main__":
    main()
