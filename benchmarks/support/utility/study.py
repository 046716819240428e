"""The rows of every task, and the series that the figure shows."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from support.machine import Row, row, say
from support.utility.hospitals import EPSILONS as HEART_EPSILONS
from support.utility.hospitals import Patients, Scores, run_split
from support.utility.hospitals import SplitTask as HeartTask
from support.utility.images import Images
from support.utility.settings import COLLUDING, EPSILONS, HELPERS, Goal, Setting
from support.utility.side_by_side import side_by_side
from support.utility.trials import Method, Outcome, Trial, noise, run
from tacit.demo.scoreboard import TARGET
from tacit.demo.splits import SplitTask, run_splits

CONFIDENCE = 0.95
UNITS = {"accuracy": "%", "AUC": "points"}
"""Of the metrics; a perfect AUC has 100 points."""

LONGEST = 300
"""Seconds that a run over thousands of clients may take."""

DEMO_EPSILON = 0.9
DEMO_STRETCH = 0.5

WAYS: dict[str, str] = {
    "Tacit": f"simulated (masks and signatures skipped), {HELPERS} helpers add discrete noise, "
    f"{COLLUDING} may collude",
    "central DP-SGD": "trusted curator, float64 noise of one, in NumPy",
    "Flower's accounting": "computed from its accounting rule, not run through flwr: central noise for "
    "as many rounds as if all took part in each, without amplification; our samples",
    "local DP": "every site adds the central noise itself; a client, what hides it from a leader that sees "
    "every upload",
    "no privacy": "clipped, no noise",
}


@dataclass(frozen=True, slots=True)
class Series:
    """What one method reached in one task, a value for every seed or split.

    Args:
        task: Name of the task.
        method: Name of the method.
        epsilon: Infinite without privacy.
        metric: One of ``UNITS``.
        values: In the order of the seeds.
    """

    task: str
    method: str
    epsilon: float
    metric: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation of the values; 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def row(self, how: str, target: str | None = None) -> Row:
        """The mean, as a row."""
        private = f", eps {self.epsilon:g}" if math.isfinite(self.epsilon) else ""
        name = f"{self.task}{private}: {self.method}, {self.metric}"
        return row(name, self.mean, UNITS[self.metric], how, target)

    def told(self) -> str:
        """Spread and values in words."""
        listed = " ".join(f"{value:.2f}" for value in self.values[:5])
        more = " ..." if len(self.values) > 5 else ""
        return f"mean of {len(self.values)}, sd {self.spread:.2f}: {listed}{more}"


@dataclass(slots=True)
class Study:
    """Collects what the parts measure, so that a figure can show all of it.

    Args:
        pool: Where trials run.
        seeds: Of the image tasks.
        series: What was measured so far.
        anchors: By task and epsilon: where a figure comes from, and the figure.
    """

    pool: ProcessPoolExecutor
    seeds: Sequence[int]
    series: list[Series] = field(default_factory=list)
    anchors: dict[tuple[str, float], Mapping[str, float]] = field(default_factory=dict)

    def add(self, *key: Any, values: Sequence[float]) -> Series:
        """Keeps a series: task, method, epsilon and metric, then its values."""
        made = Series(*key, values=tuple(values))
        self.series.append(made)
        return made


COMPARED: tuple[Method, ...] = ("Tacit", "central DP-SGD")
REFERENCE_SEEDS = 2
"""Of the other methods, whose distance from these two is far beyond any spread."""

# --- images --------------------------------------------------------------------------------------


def image_rows(
    study: Study, setting: Setting, images: Images, methods: Sequence[Method]
) -> Iterator[Row]:
    """One image task by the methods, at every epsilon; ``no privacy`` once.

    Args:
        study: Takes the series.
        setting: The task.
        images: Its records.
        methods: ``Tacit`` is one of them.
    """
    task = f"{images.title} {setting.title}"
    done = _outcomes(study, setting, images, methods)
    for epsilon in EPSILONS:
        goal = setting.goals[epsilon]
        study.anchors[task, epsilon] = goal.anchors
        for method in methods:
            ended = [(t, o) for t, o in done if (t.method, t.epsilon) == (method, epsilon)]
            if not ended:
                continue
            private = epsilon if method != "no privacy" else math.inf
            values = [outcome.accuracy for _, outcome in ended]
            series = study.add(task, method, private, "accuracy", values=values)
            yield _image_row(series, ended[0][0], goal)
        if setting.unit == "client":
            yield _leader_row(task, next(t for t, _ in done if t.epsilon == epsilon))
    slowest = max(outcome.seconds for trial, outcome in done if trial.method == "Tacit")
    yield _time_row(setting, slowest)


def _outcomes(
    study: Study, setting: Setting, images: Images, methods: Sequence[Method]
) -> list[tuple[Trial, Outcome]]:
    features = images.train.features().shape[1]
    plans = {epsilon: setting.plan(setting.workload(epsilon, features)) for epsilon in EPSILONS}
    trials = [
        Trial(setting, images, plans[epsilon], method, epsilon, seed)
        for seed in study.seeds
        for epsilon in EPSILONS
        for method in methods
        if method != "no privacy" or epsilon == EPSILONS[0]
        if method in COMPARED or seed in study.seeds[:REFERENCE_SEEDS]
    ]
    done = {}
    for number, outcome in side_by_side(study.pool, run, trials):
        done[number] = outcome
        say(f"{trials[number].label}: {outcome.accuracy:.2f} % in {outcome.seconds:.0f} s")
    return [(trial, done[number]) for number, trial in enumerate(trials)]


def _image_row(series: Series, trial: Trial, goal: Goal) -> Row:
    how = f"{series.told()}; {WAYS[trial.method]}; noise {noise(trial):.2f} clip norms"
    if trial.method != "Tacit":
        return series.row(how)
    anchors = ", ".join(f"{value:g} {name}" for name, value in goal.anchors.items())
    reached = "reached" if series.mean >= goal.stretch else "not reached"
    how += (
        f"; stretch {goal.stretch:g} {reached}; anchor with central trust: {anchors}; settings chosen "
        "on the last 10,000 training images"
    )
    if trial.setting.prior is not None:
        how += f"; public prior on {trial.setting.prior.name}"
    return series.row(how, f">= {goal.target:g}")


def _leader_row(task: str, trial: Trial) -> Row:
    plan = trial.plan
    how = (
        f"at delta {plan.delta:g}, where holders of the released models face {plan.epsilon():.3g}: the "
        f"leader sees who takes part, at most {plan.max_participations} times in {plan.rounds} rounds"
    )
    name = f"{task}, eps {trial.epsilon:g}: against the leader"
    return row(name, plan.epsilon(observer="leader"), "epsilon", how)


def _time_row(setting: Setting, slowest: float) -> Row:
    how = "wall time of the slowest run, two side by side on 2 cores: training, sums, noise, steps"
    if setting.unit == "record":
        return row(f"one run, {setting.title}", slowest, "s", how)
    prior = ", with a public prior" if setting.prior is not None else ""
    name = f"{setting.holders:,} clients x {setting.rounds} rounds{prior}"
    return row(name, slowest, "s", how, f"<= {LONGEST}")


# --- hospitals -----------------------------------------------------------------------------------


def heart_rows(
    study: Study, patients: Patients, splits: Sequence[int], **sizes: int
) -> Iterator[Row]:
    """Heart disease: together against pooled, on the same splits.

    Args:
        study: Takes the series.
        patients: All records.
        splits: Their seeds.
        sizes: Other sizes than those of ``HeartTask``.
    """
    tasks = [HeartTask(patients, e, seed, **sizes) for seed in splits for e in HEART_EPSILONS]
    found: dict[tuple[float, int], dict[str, Scores]] = {}
    for number, scores in side_by_side(study.pool, run_split, tasks):
        found[tasks[number].epsilon, tasks[number].seed] = scores
    for metric in UNITS:
        for epsilon in HEART_EPSILONS:
            ours, central, best = (
                [getattr(found[epsilon, seed][method], metric.lower()) for seed in splits]
                for method in ("Tacit", "central DP-SGD", "no privacy")
            )
            yield from _split_rows(study, (patients.title, epsilon, metric), ours, central, best)


def _split_rows(
    study: Study,
    key: tuple[str, float, str],
    ours: list[float],
    central: list[float],
    best: list[float],
) -> Iterator[Row]:
    task, epsilon, metric = key
    if epsilon == HEART_EPSILONS[0]:
        series = study.add(task, "no privacy", math.inf, metric, values=best)
        yield series.row(f"{series.told()}; pooled records")
    series = study.add(task, "central DP-SGD", epsilon, metric, values=central)
    yield series.row(f"{series.told()}; pooled records, equal total variance, float64 noise, NumPy")
    series = study.add(task, "Tacit", epsilon, metric, values=ours)
    how = "simulated (masks and signatures skipped), every hospital is a helper, 1 may collude"
    yield series.row(f"{series.told()}; {how}; settings chosen on splits that are not reported")
    name = f"{task}, eps {epsilon:g}: {metric}"
    lost = statistics.fmean(best) - series.mean
    yield row(f"{name} lost to privacy", lost, "points", "pooled without privacy less Tacit")
    middle, half = interval(np.subtract(ours, central))
    yield row(
        f"{name}, Tacit less central DP-SGD",
        abs(middle) / half,
        "half-intervals",
        f"{middle:+.2f} +- {half:.2f} points, {CONFIDENCE:.0%} interval of the paired difference over "
        f"{len(ours)} splits; up to 1 it contains 0",
        "<= 1",
    )


def interval(values: Any) -> tuple[float, float]:
    """Middle and half-width of Student's interval for the mean."""
    scale = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    quantile = float(stats.t.ppf((1.0 + CONFIDENCE) / 2.0, len(values) - 1))
    return float(np.mean(values)), max(quantile * scale, 1e-12)


# --- the demonstration ---------------------------------------------------------------------------


def demo_rows(study: Study, splits: Sequence[int], rounds: int | None = None) -> Iterator[Row]:
    """Breast cancer, as ``tacit demo`` trains it: the whole protocol, masks and evidence included.

    Args:
        study: Takes the series.
        splits: Their seeds.
        rounds: Other than the job says.
    """
    with tempfile.TemporaryDirectory() as folder:
        tasks = [SplitTask(f"{folder}/split-{s}", s, ("shared",), rounds) for s in splits]
        for task in tasks:
            Path(task.folder).mkdir()
        results = run_splits(tasks, _tell)
    task, found = "breast cancer demo", {}
    for key, method, epsilon, how in (
        ("pooled", "no privacy", math.inf, "scikit-learn's logistic regression, pooled records"),
        ("central", "central DP-SGD", DEMO_EPSILON, "integer mechanism, one curator"),
        ("shared", "Tacit", DEMO_EPSILON, "the whole protocol: masks, signatures, evidence"),
    ):
        values = [100.0 * result.scores[key].auc for result in results]
        series = found[key] = study.add(task, method, epsilon, "AUC", values=values)
        yield series.row(f"{series.told()}; {how}")
    lost = found["pooled"].mean - found["shared"].mean
    reached = "reached" if lost <= DEMO_STRETCH else "not reached"
    how = (
        f"pooled without privacy less Tacit; stretch {DEMO_STRETCH} {reached}; settings chosen on splits "
        "that are not reported"
    )
    name = f"{task}, eps {DEMO_EPSILON}: AUC lost to privacy"
    yield row(name, lost, "points", how, f"<= {TARGET:g}")


def _tell(number: int, share: float, label: str) -> None:
    if share == 1.0:
        say(f"breast cancer, split {number + 1}: {label}")
