"""Heart disease at four real hospitals: records, splits, and training them together or pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from support.utility import peers
from support.utility.images import missing
from tacit.engine.direct import DirectRun
from tacit.learn.code import load_model
from tacit.learn.metrics import auc
from tacit.party.job import JobSpec
from tacit.party.terms import plan_for
from tacit.party.workload import TrainingData, Workload
from tacit.privacy.plan import Plan
from tacit.testing.entropy import SeededEntropy

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
EPSILONS = (3.0, 1.0)
DELTA = 1e-5
SPLITS = range(20)
OTHER_SPLITS = range(100, 120)
"""What everything below was chosen on; no figure uses them."""

TEST_SHARE = 1 / 3

SAMPLING_RATE = 0.25
ROUNDS = 160
NORM = 2.0
CLIP_NORM = 0.9
LEARNING_RATES = {3.0: 2.4, 1.0: 1.2}
AVERAGE_FROM = 0.5

COLUMNS = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal"),
)
RANGES = {
    "age": (20, 90),
    "sex": (0, 1),
    "trestbps": (80, 200),
    "chol": (100, 400),
    "fbs": (0, 1),
    "thalach": (60, 210),
    "exang": (0, 1),
    "oldpeak": (0, 4),
    "slope": (1, 3),
    "ca": (0, 3),
}
"""Public, plausible ranges; what lies outside is moved to the nearer end."""

CODES = {"cp": 4, "restecg": 0, "thal": 3}
"""Codes without an order: is it this one (asymptomatic pain, normal ECG, normal perfusion) or not?"""

ZERO_IS_MISSING = ("chol", "trestbps")
MISSING_TELLS = ("chol", "fbs")
"""Columns whose absence is a feature of its own."""


@dataclass(frozen=True, slots=True)
class Patients:
    """All hospitals' records.

    Args:
        title: Name of the data, for people.
        features: ``float64[n, k]``, of norm ``NORM``.
        labels: 1 for heart disease, ``int64[n]``.
        hospitals: Whose record each is, ``int64[n]`` from 0.
    """

    title: str
    features: Floats
    labels: Labels
    hospitals: Labels

    @property
    def count(self) -> int:
        """Number of hospitals."""
        return int(self.hospitals.max()) + 1

    def split(self, seed: int) -> tuple[Labels, Labels]:
        """Indices of the records that are trained on, and of a third of each hospital's for testing."""
        generator = np.random.default_rng(seed)
        tested = np.zeros(len(self.labels), dtype=bool)
        for hospital in range(self.count):
            own = generator.permutation(np.flatnonzero(self.hospitals == hospital))
            tested[own[: round(len(own) * TEST_SHARE)]] = True
        return np.flatnonzero(~tested), np.flatnonzero(tested)


def heart(data: Path) -> Patients:
    """The processed UCI files, ``heart_disease_4site/processed.NAME.data``: 14 columns, no header."""
    tables = []
    for name in HOSPITALS:
        path = data / "heart_disease_4site" / f"processed.{name}.data"
        if not path.is_file():
            raise SystemExit(missing(path))
        tables.append(np.genfromtxt(path, delimiter=","))
    return _patients("heart disease", tables)


def made_up() -> Patients:
    """Tables of the same form filled at random: shows that everything runs."""
    generator = np.random.default_rng(0)
    tables = []
    for size in (60, 50, 40, 30):
        table = generator.uniform(0.0, 4.0, (size, len(COLUMNS) + 1)).round()
        table[generator.random(table.shape) < 0.1] = np.nan
        table[:, -1] = np.arange(size) % 2
        tables.append(table)
    return _patients("made-up patients (stand-in)", tables)


def _patients(title: str, tables: list[Floats]) -> Patients:
    rows = np.concatenate(tables)
    return Patients(
        title,
        features=_features(dict(zip(COLUMNS, rows.T, strict=False))),
        labels=(rows[:, -1] > 0).astype(np.int64),
        hospitals=np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
    )


def _features(columns: Mapping[str, Floats]) -> Floats:
    """Columns from -1 to 1 by public ranges, 0 where a value is missing; records of norm ``NORM``."""
    known = {
        name: np.where(values == 0, np.nan, values) if name in ZERO_IS_MISSING else values
        for name, values in columns.items()
    }
    scaled = []
    for name, values in known.items():
        if name in CODES:
            column = np.where(values == CODES[name], 1.0, -1.0)
        else:
            lower, upper = RANGES[name]
            column = 2.0 * (np.clip(values, lower, upper) - lower) / (upper - lower) - 1.0
        scaled.append(np.where(np.isnan(values), 0.0, column))
    scaled += [np.isnan(known[name]).astype(np.float64) for name in MISSING_TELLS]
    features = np.stack(scaled, axis=1)
    return NORM * features / np.linalg.norm(features, axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one model on one split.

    Args:
        accuracy: In percent.
        auc: In points: 100 is perfect.
    """

    accuracy: float
    auc: float


@dataclass(frozen=True, slots=True)
class SplitTask:
    """One split, to be trained in every way at one epsilon.

    Args:
        patients: All records.
        epsilon: Of the whole run.
        seed: Of the split, and of sampling and noise.
        rounds: Number of rounds.
    """

    patients: Patients
    epsilon: float
    seed: int
    rounds: int = ROUNDS


def run_split(task: SplitTask) -> dict[str, Scores]:
    """Trains one split; made for a process of its own.

    Returns:
        By method: ``Tacit`` (every hospital a helper), ``central DP-SGD`` on the pooled records under as
        much noise in total, ``no privacy``.
    """
    patients = task.patients
    trained, tested = patients.split(task.seed)
    x, y = patients.features[trained], patients.labels[trained]
    workload = _workload(task, len(trained))
    helpers = patients.count
    plan = plan_for(workload.job, clients=helpers, helpers=helpers, length=workload.length)
    owners = patients.hospitals[trained]
    holders = [TrainingData(x[owners == one], y[owners == one]) for one in range(helpers)]
    entropy = SeededEntropy(f"hospitals {task.epsilon} {task.seed}")
    released = workload.model.model.tensors(DirectRun(workload, plan, holders, entropy).run())
    weights = {
        "Tacit": np.concatenate([released["weight"][0], released["bias"]])[:, None],
        "central DP-SGD": _pooled(task, plan, x, y),
        "no privacy": peers.newton(x, y),
    }
    x, y = patients.features[tested], patients.labels[tested]
    return {
        method: Scores(
            peers.accuracy(found, x, y), 100.0 * auc(peers.outputs(found, x)[:, 0], y == 1)
        )
        for method, found in weights.items()
    }


def _pooled(task: SplitTask, plan: Plan, x: Floats, y: Labels) -> Floats:
    surcharge = plan.total_variance(plan.helpers) / plan.guaranteed_variance
    how = peers.Central(
        classes=2,
        sampling_rate=SAMPLING_RATE,
        rounds=task.rounds,
        clip_norm=CLIP_NORM,
        noise=plan.noise_multiplier * surcharge**0.5,
        learning_rate=LEARNING_RATES[task.epsilon],
        cosine=False,
        average_from=AVERAGE_FROM,
    )
    return peers.dp_sgd(x, y, how, np.random.default_rng([task.seed, round(10 * task.epsilon)]))


def _workload(task: SplitTask, records: int) -> Workload:
    job = JobSpec.model_validate(
        {
            "version": 1,
            "name": "heart",
            "purpose": "research",
            "rounds": task.rounds,
            "model": "logistic",
            "data": {"contract": "heart"},
            "evaluation": {"contract": "evaluation"},
            "privacy": {
                "epsilon": task.epsilon,
                "delta": DELTA,
                "clip_norm": CLIP_NORM,
                "sampling_rate": SAMPLING_RATE,
                "expected_units": records,
                "max_colluding": 1,
            },
            "aggregation": {"min_cohort": task.patients.count},
            "training": {
                "optimiser": "sgd",
                "learning_rate": LEARNING_RATES[task.epsilon],
                "average_from": AVERAGE_FROM,
            },
        }
    )
    features = task.patients.features.shape[1]
    return Workload.build(job, load_model("logistic", Path(), features=features, classes=2), 2)
