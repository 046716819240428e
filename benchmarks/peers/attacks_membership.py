"""LiRA and RMIA scores against those of another implementation, on the same score matrices.

    python -m peers.attacks_membership     (in the folder benchmarks)

The peer is PrivacyGuard (``privacyguard-platform``), in an environment of its own, without the packages that
only its text attacks need. Its offline LiRA scores the distance from the mean on both sides, which is not the
paper's one-sided test; so offline scores are compared with the paper's formula, evaluated by SciPy. Exits 1
where two implementations disagree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peers.environment import environment
from tacit.attack.membership.scores import lira_offline, lira_online, logit_confidence, rmia

PEER = "privacyguard-platform==0.0.2"
BESIDE = (
    "--no-deps",
    "numpy<3",
    "pandas<3",
    "scipy",
    "scikit-learn",
    "joblib",
    "cloudpickle",
    "narwhals",
    "threadpoolctl",
    "python-dateutil",
    "pytz",
    "tzdata",
    "six",
)
TARGETS, POPULATION, SHADOWS = 400, 150, 160
TOLERANCE = 1e-9

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


def matrices(seed: int) -> dict[str, NDArray[np.generic]]:
    """Confidences of models that fit the records they saw a little better than others."""
    generator = np.random.default_rng(seed)
    count = TARGETS + POPULATION
    inside = np.zeros((SHADOWS, count), dtype=bool)
    for first in range(0, SHADOWS, 2):
        inside[first, :TARGETS] = generator.random(TARGETS) < 0.5
        inside[first + 1, :TARGETS] = ~inside[first, :TARGETS]
    members = np.append(generator.random(TARGETS) < 0.5, np.zeros(POPULATION, dtype=bool))
    centre = generator.normal(1.0, 2.0, count)
    logits = centre + 0.8 * inside + generator.normal(size=inside.shape)
    logit = centre + 0.8 * members + generator.normal(size=count)
    losses, shadow_losses = np.logaddexp(0.0, -logit), np.logaddexp(0.0, -logits)
    return {
        "sure": logit_confidence(losses[:TARGETS]),
        "sure_shadow": logit_confidence(shadow_losses[:, :TARGETS]),
        "inside": inside[:, :TARGETS],
        "target": np.exp(-losses[:TARGETS]),
        "shadow": np.exp(-shadow_losses[:, :TARGETS]),
        "population": np.exp(-losses[TARGETS:]),
        "population_shadow": np.exp(-shadow_losses[:, TARGETS:]),
    }


def own_scores(given: dict[str, NDArray[np.generic]]) -> dict[str, Floats]:
    """The same by Tacit."""
    inside = given["inside"]
    everywhere = np.zeros((SHADOWS, TARGETS + POPULATION), dtype=bool)
    everywhere[:, :TARGETS] = inside
    target = np.concatenate([given["target"], given["population"]])[None, :]
    shadow = np.concatenate([given["shadow"], given["population_shadow"]], axis=1)
    others = np.arange(TARGETS + POPULATION) >= TARGETS
    return {
        "lira": lira_online(given["sure"][None, :], given["sure_shadow"], inside)[0],
        "lira_offline": lira_offline(given["sure"][None, :], given["sure_shadow"], inside)[0],
        "rmia": rmia(target, shadow, everywhere, others)[0, :TARGETS],
    }


def paper_offline(given: dict[str, NDArray[np.generic]]) -> Floats:
    """Carlini et al. 2022, section VI-A, record by record: the normal quantile of ``Pr[Z <= score]``."""
    found = []
    for column, score in enumerate(given["sure"]):
        out = given["sure_shadow"][~given["inside"][:, column], column]
        found.append(stats.norm.ppf(stats.norm.cdf(score, out.mean(), out.std(ddof=1))))
    return np.array(found)


def main() -> int:
    """Compares, and prints the largest differences as JSON."""
    given = matrices(0)
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(source, **given)
        python = environment(PEER, *BESIDE)
        script = Path(__file__).with_name("attacks_membership_peer.py")
        command = [str(python), str(script), str(source), str(result)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        peer = dict(np.load(result))
    peer["lira_offline"] = paper_offline(given)
    own = own_scores(given)
    worst = {name: float(np.abs(own[name] - peer[name]).max()) for name in own}
    print(json.dumps({"peer": PEER, "records": TARGETS, "largest_difference": worst}, indent=2))
    return int(any(value > TOLERANCE for value in worst.values()))


if __name__ == "__main__":
    sys.exit(main())
