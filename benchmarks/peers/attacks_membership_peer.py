"""PrivacyGuard's LiRA and RMIA scores of given matrices.

Runs in an environment of its own that holds ``privacyguard-platform`` and not Tacit; see
``attacks_membership.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from privacy_guard.analysis.mia.aggregate_analysis_input import AggregationType
from privacy_guard.attacks.lira_attack import LiraAttack
from privacy_guard.attacks.rmia_attack import RmiaAttack

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


def frame(target: Floats, shadow: Floats, marks: Marks) -> pd.DataFrame:
    """A table as RmiaAttack reads it."""
    columns = {"user_id": np.arange(len(target)), "score_orig": target}
    for model in range(len(shadow)):
        columns[f"score_ref_{model}"] = shadow[model]
        columns[f"member_ref_{model}"] = marks[model]
    return pd.DataFrame(columns)


def lira(sure: Floats, sure_shadow: Floats, inside: Marks) -> Floats:
    """Online scores with a variance for every record."""
    seen = np.where(inside, sure_shadow, np.nan)
    unseen = np.where(inside, np.nan, sure_shadow)
    table = pd.DataFrame(
        {
            "user_id": np.arange(len(sure)),
            "score_orig": sure,
            "score_mean_in": np.nanmean(seen, axis=0),
            "score_std_in": np.nanstd(seen, axis=0, ddof=1),
            "score_mean_out": np.nanmean(unseen, axis=0),
            "score_std_out": np.nanstd(unseen, axis=0, ddof=1),
        }
    )
    attack = LiraAttack(table, table.copy(), AggregationType.NONE, online_attack=True)
    attack.run_attack()
    return attack.df_train_merge["score"].to_numpy()


def main(source: Path, result: Path) -> None:
    """Reads matrices and writes scores."""
    given = np.load(source)
    judged = frame(given["target"], given["shadow"], given["inside"])
    outside = np.zeros(given["population_shadow"].shape, dtype=bool)
    population = frame(given["population"], given["population_shadow"], outside)
    count = len(given["shadow"])
    attack = RmiaAttack(
        judged, judged, population, AggregationType.NONE, num_reference_models=count, online=True
    )
    attack.run_attack()
    found = lira(given["sure"], given["sure_shadow"], given["inside"])
    np.savez(result, lira=found, rmia=attack.df_train_merge["score"].to_numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
