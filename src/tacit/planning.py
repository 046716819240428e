"""``tacit budget plan``: which noise, how many rounds and about what accuracy an epsilon buys.

Accuracy is estimated on the job's public evaluation set: one half trains, in simulated runs whose noise has
the same size against the mean gradient as it would have at the sites, the other half measures. No private
record is read and no budget is touched.
"""

from __future__ import annotations

import dataclasses
import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tacit.engine.direct import DirectRun
from tacit.errors import ConfigError
from tacit.federation import Federation
from tacit.files import write_atomic
from tacit.learn.metrics import evaluate
from tacit.party.job import JobSpec
from tacit.party.terms import choose_helpers, plan_for
from tacit.party.workload import TrainingData, Workload
from tacit.privacy.calibration import sample_bound
from tacit.privacy.plan import Plan
from tacit.show import console, plain, table
from tacit.trust.identity import OsEntropy

__all__ = ["BudgetPlan", "Choice", "draw_plan", "plan_budget", "show_plan"]

ROUND_FACTORS = (0.25, 0.5, 1.0, 2.0)
EPSILON_FACTORS = (0.5, 1.0, 2.0)
REPEATS = 3
MOST_ROUNDS = 500
"""Above so many the estimate is left out: it would take too long for a question."""

LEAST_RECORDS = 20
LEAST_EPSILON, MOST_EPSILON = 0.01, 20.0
MOST_JOB_ROUNDS = 10_000
"""What a job file may ask for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer.

    Args:
        epsilon: Asked for.
        rounds: Of the run.
        noise_multiplier: Guaranteed noise over the clip norm; NaN where the settings cannot hold.
        mean_noise: Standard deviation of the noise in one coordinate of the mean gradient, all helpers'
            shares together, over the clip norm.
        charged: Epsilon that each site pays.
        accuracy: Expected, on average over the repeats; None if it was not estimated.
        spread: Its standard deviation over the repeats.
    """

    epsilon: float
    rounds: int
    noise_multiplier: float
    mean_noise: float
    charged: float
    accuracy: float | None
    spread: float | None

    def record(self) -> dict[str, Any]:
        """For scripts; decimals as text."""
        values = dataclasses.asdict(self)
        fits = not math.isnan(self.charged)
        return {
            name: (repr(value) if fits or name == "epsilon" else None)
            if isinstance(value, float)
            else value
            for name, value in values.items()
        }


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """All answers about one job.

    Args:
        job: Its name.
        unit: Its unit of privacy.
        delta: Its delta.
        epsilon: The one that was asked about.
        choices: Every epsilon and number of rounds that was tried.
        records: Public records that the estimates were trained on.
    """

    job: str
    unit: str
    delta: float
    epsilon: float
    choices: tuple[Choice, ...]
    records: int

    @property
    def best(self) -> Choice | None:
        """The most accurate choice at the epsilon that was asked about."""
        asked = [c for c in self.choices if c.epsilon == self.epsilon and c.accuracy is not None]
        return max(asked, key=lambda choice: choice.accuracy or 0.0, default=None)

    def record(self) -> dict[str, Any]:
        """For scripts."""
        best = self.best
        return {
            "job": self.job,
            "unit": self.unit,
            "delta": repr(self.delta),
            "epsilon": repr(self.epsilon),
            "estimated_on_public_records": self.records,
            "best_rounds": None if best is None else best.rounds,
            "choices": [choice.record() for choice in self.choices],
        }


def plan_budget(
    job: JobSpec,
    base: Path,
    sites: Sequence[Path],
    epsilon: float | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> BudgetPlan:
    """Tries the job's settings at several epsilons and numbers of rounds.

    Args:
        job: The job; its model, data and everything but epsilon and rounds stay as they are.
        base: Folder of the job file.
        sites: Site folders; who takes part decides on the number of helpers.
        epsilon: To plan for; that of the job by default.
        on_progress: Called with how many of how many choices are done.

    Raises:
        ConfigError: The job has no differential privacy, or a file is wrong.
    """
    if job.privacy.unit == "none":
        raise ConfigError(
            "plan.unit",
            "the job has no differential privacy, there is nothing to plan",
            remedy="set privacy.unit to 'record', 'entity' or 'client'",
            key="privacy.unit",
        )
    opened = Federation.open(job, base, sites)
    asked = job.privacy.epsilon if epsilon is None else epsilon
    if not LEAST_EPSILON <= asked <= MOST_EPSILON:
        raise ConfigError(
            "plan.epsilon",
            f"an epsilon of {asked:g} cannot be planned for",
            remedy=f"choose one from {LEAST_EPSILON:g} to {MOST_EPSILON:g}",
            key="epsilon",
        )
    clients = tuple(sorted(opened.sites))
    helpers = len(choose_helpers(job, clients))
    trained, tested = _halves(opened.lead.files.evaluation)
    grid = [
        (asked * e, max(1, round(job.rounds * t)))
        for e in EPSILON_FACTORS
        for t in ROUND_FACTORS
        if LEAST_EPSILON <= asked * e <= MOST_EPSILON and job.rounds * t <= MOST_JOB_ROUNDS
    ]
    choices = []
    for done, (target, rounds) in enumerate(grid):
        on_progress(done, len(grid))
        tried = _with(job, target, rounds)
        workload = Workload.build(
            tried, opened.lead.files.workload.model, len(opened.lead.files.schema.classes)
        )
        try:
            length = workload.length
            plan = plan_for(tried, clients=len(clients), helpers=helpers, length=length)
        except ConfigError:  # Noise and ring do not fit together there: other choices may.
            choices.append(Choice(target, rounds, math.nan, math.nan, math.nan, None, None))
            continue
        kept = 1.0 - job.evaluation.holdout  # what is held out is not trained on
        choices.append(_choice(target, workload, plan, (trained, tested), kept))
    on_progress(len(grid), len(grid))
    records = len(trained.labels)
    privacy = job.privacy
    return BudgetPlan(job.name, privacy.unit, privacy.delta, asked, tuple(choices), records)


def _with(job: JobSpec, epsilon: float, rounds: int) -> JobSpec:
    cap = job.privacy.max_participations
    privacy = {"epsilon": epsilon, "max_participations": cap and min(cap, rounds)}
    return job.model_copy(
        update={
            "rounds": rounds,
            "privacy": job.privacy.model_copy(update=privacy),
            "evaluation": job.evaluation.model_copy(update={"holdout": 0.0, "patience": 0}),
        }
    )


def _halves(data: TrainingData) -> tuple[TrainingData, TrainingData]:
    """Every second record trains, the others measure."""
    even = np.arange(len(data.labels)) % 2 == 0
    return tuple(TrainingData(data.features[part], data.labels[part]) for part in (even, ~even))  # type: ignore[return-value]


def _choice(
    target: float,
    workload: Workload,
    plan: Plan,
    halves: tuple[TrainingData, TrainingData],
    kept: float,
) -> Choice:
    noise = math.sqrt(plan.total_variance(plan.helpers)) * plan.grid
    accuracy = spread = None
    if plan.rounds <= MOST_ROUNDS and len(halves[0].labels) >= LEAST_RECORDS:
        found = [_estimate(workload, plan, halves, kept) for _ in range(REPEATS)]
        accuracy, spread = statistics.fmean(found), statistics.stdev(found)
    return Choice(
        epsilon=target,
        rounds=plan.rounds,
        noise_multiplier=plan.noise_multiplier,
        mean_noise=noise / plan.clip_norm / (plan.divisor * kept),
        charged=plan.charge(),
        accuracy=accuracy,
        spread=spread,
    )


def _estimate(
    workload: Workload, plan: Plan, halves: tuple[TrainingData, TrainingData], kept: float
) -> float:
    """Accuracy of one simulated run, whose noise is as large against the mean as at the sites."""
    trained, tested = halves
    holders = [trained]
    if plan.unit == "client":
        count = max(1, min(plan.expected_units, len(trained.labels) // 2))
        parts = np.array_split(np.arange(len(trained.labels)), count)
        holders = [TrainingData(trained.features[p], trained.labels[p]) for p in parts]
    units = len(holders) if plan.unit == "client" else len(trained.labels)
    scaled = dataclasses.replace(
        plan,
        expected_units=units,
        units_bound=min(plan.units_bound, max(units, sample_bound(plan.sampling_rate * units))),
    )
    share = units / (plan.expected_units * kept)
    variance = round(plan.total_variance(plan.helpers) * share**2)
    run = DirectRun(workload, scaled, holders, OsEntropy(), variance=variance)
    theta = workload.complete(run.run())
    metrics = evaluate(workload.model.model, theta, tested.features, tested.labels)
    return metrics["accuracy"]


def draw_plan(plan: BudgetPlan, path: Path) -> bool:
    """Draws expected accuracy over rounds, one line an epsilon.

    Returns:
        Whether it could: matplotlib may not be installed.

    Raises:
        TransportError: The file cannot be written.
    """
    try:
        backend = import_module("matplotlib.backends.backend_agg")
        figures = import_module("matplotlib.figure")
    except ImportError:
        return False
    figure = figures.Figure(figsize=(7.0, 4.2), layout="constrained")
    backend.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for epsilon in sorted({choice.epsilon for choice in plan.choices}):
        line = [c for c in plan.choices if c.epsilon == epsilon and c.accuracy is not None]
        axes.errorbar(
            [c.rounds for c in line],
            [c.accuracy for c in line],
            [c.spread for c in line],
            marker="o",
            capsize=3,
            label=f"epsilon {epsilon:g}",
        )
    rounds = sorted({choice.rounds for choice in plan.choices})
    axes.set_xscale("log", base=2)
    axes.set_xticks(rounds, [str(count) for count in rounds])
    axes.minorticks_off()
    axes.set_xlabel("rounds")
    axes.set_ylabel(f"expected accuracy ({plan.records} public records)")
    axes.set_title(f"Job '{plan.job}', unit {plan.unit}, delta {plan.delta:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomic(path, picture.getvalue())
    return True


def show_plan(plan: BudgetPlan) -> None:
    """The answers for people."""
    out = console()
    rows = [
        (
            f"{choice.epsilon:g}",
            str(choice.rounds),
            *_cells(choice),
        )
        for choice in plan.choices
    ]
    columns = ("epsilon", "rounds", "noise", "noise in the mean", "a site pays", "accuracy")
    title = f"Job '{plan.job}': unit {plan.unit}, delta {plan.delta:g}"
    out.print(table(title, columns, rows))
    out.print(
        plain(
            "noise: standard deviation over the clip norm; in the mean: of one coordinate of the mean "
            f"gradient. Accuracy: simulated, trained on {plan.records} public records under noise of "
            "that size, measured on as many others; sites with more or other records will differ, and "
            "entities with several records count as if they had one."
        )
    )
    best = plan.best
    if best is not None and best.accuracy is not None:
        out.print(
            f"[bold]at epsilon {best.epsilon:g}: about {best.accuracy:.3f} ± {best.spread or 0.0:.3f} "
            f"with {best.rounds} rounds and noise {best.noise_multiplier:.3f}[/]; the best of a few noisy "
            "estimates looks better than it is"
        )


def _cells(choice: Choice) -> tuple[str, str, str, str]:
    if math.isnan(choice.charged):
        return "does not fit", "-", "-", "-"
    accuracy = "-"
    if choice.accuracy is not None:
        accuracy = f"{choice.accuracy:.3f} ± {choice.spread or 0.0:.3f}"
    noise, mean = f"{choice.noise_multiplier:.3f}", f"{choice.mean_noise:.5f}"
    return noise, mean, f"{choice.charged:.3f}", accuracy
