"""Property inference: does a site's update, or the sum it went into, tell what kind of records it holds.

Two properties, each of which a fair coin decides for a target site: the share of one class, which a model is
meant to learn, and whether the records lie in the upper or the lower half of their class by the mean of their
features, which no label tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import DEFENCES, Defence, adversary_of, pooled_against
from tacit.attack.findings import Attack, Curve, Findings, OnProgress
from tacit.attack.measure import Estimate, auc
from tacit.attack.membership.targets import rows_at
from tacit.attack.scratch import ScratchFederation
from tacit.attack.view import Seen
from tacit.attack.workbench import Workbench
from tacit.connect import take
from tacit.party.workload import TrainingData

__all__ = ["ATTACKS", "PROPERTIES", "Linear", "Reference", "run_property"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Answers = NDArray[np.bool_]

PROPERTIES = ("label", "input")
SHARES = (0.1, 0.5)
"""Share of the class in question in a site's records, without and with the property."""

RECORDS = 20
SITES = 3
SINGLE: tuple[Defence, ...] = ("plain", "clipping", "noise")
COHORTS = (2, 4, 8, 16)
SIZES = (10, 20, 40, 80)
RIDGE = 1e-3
MOST_REFERENCE = 256
BONFERRONI = 2.24140 / 1.95996
"""Normal quantiles of two intervals that hold together, and of one."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Public records to draw sites from.

    Args:
        rows: Which of the public data, ``int64[n]``.
        in_class: Whether each has the class in question.
        upper: Whether each lies in the upper half of its class.
    """

    rows: Rows
    in_class: Answers
    upper: Answers

    @classmethod
    def halves(
        cls, data: TrainingData, generator: np.random.Generator
    ) -> tuple[Reference, Reference]:
        """Divides the public records: the adversary's own, and those that target sites get."""
        means = data.features.mean(axis=1)
        upper = np.zeros(len(means), dtype=bool)
        for label in np.unique(data.labels):
            mine = data.labels == label
            upper[mine] = means[mine] > np.median(means[mine])
        in_class = data.labels == 1
        order = generator.permutation(len(means))
        cut = min(MOST_REFERENCE, len(means) // 2)
        parts = order[:cut], order[cut:]
        own, targets = (cls(part, in_class[part], upper[part]) for part in parts)
        return own, targets

    def site(self, answers: Answers, count: int, generator: np.random.Generator) -> Rows:
        """Positions of a site's records in ``rows``, given what holds of it.

        Args:
            answers: ``bool[2]``, in the order of ``PROPERTIES``.
            count: How many records; they repeat only where there are not enough of a kind.
            generator: Draws them.
        """
        share = round(count * SHARES[int(answers[0])])
        half = self.upper == answers[1]
        kinds = ((half & self.in_class, share), (half & ~self.in_class, count - share))
        drawn = []
        for kind, number in kinds:
            places = np.flatnonzero(kind)
            drawn.append(generator.choice(places, number, replace=number > len(places)))
        return np.concatenate(drawn)

    def others(self, count: int, generator: np.random.Generator) -> Rows:
        """Positions of the records of sites that are not targets: as they come."""
        return generator.choice(len(self.rows), count, replace=count > len(self.rows))


@dataclass(frozen=True, slots=True)
class Linear:
    """A meta-classifier for each property: ridge regression on updates.

    Args:
        centre: Mean of the updates that it was trained on, ``float64[d]``.
        weights: ``float64[d, 2]``.
    """

    centre: Floats
    weights: Floats

    @classmethod
    def fit(cls, updates: Floats, answers: Answers, noise_std: float = 0.0) -> Linear:
        """Trains on updates without noise, as if every one had been seen often under noise.

        Args:
            updates: ``float64[s, d]``.
            answers: ``bool[s, 2]``.
            noise_std: Of the noise in every coordinate of what is going to be judged.

        Reference:
            Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".
        """
        centre = updates.mean(axis=0)
        centred = updates - centre
        kernel = centred @ centred.T
        ridge = len(updates) * noise_std**2 + RIDGE * float(np.trace(kernel)) / len(updates)
        kernel[np.diag_indices_from(kernel)] += max(ridge, 1e-300)
        targets = 2.0 * answers - 1.0
        return cls(centre, centred.T @ np.linalg.solve(kernel, targets - targets.mean(axis=0)))

    def scores(self, update: Floats) -> Floats:
        """One score a property, higher where it holds: ``float64[d]`` to ``float64[2]``."""
        found: Floats = (update - self.centre) @ self.weights
        return found


@dataclass(frozen=True, slots=True)
class _Simulated:
    """Compositions of the adversary's own updates: which of its records go in, and what holds of them."""

    counts: Floats
    answers: Answers

    @classmethod
    def draw(
        cls,
        own: Reference,
        shape: tuple[int, int, int],
        rate: float,
        generator: np.random.Generator,
    ) -> _Simulated:
        """So many updates of so many sites with so many records each, of which the first is the target."""
        number, sites, records = shape
        counts = np.zeros((number, len(own.rows)))
        answers = generator.random((number, len(PROPERTIES))) < 0.5
        for row, answer in zip(counts, answers, strict=True):
            mine = own.site(answer, records, generator)
            all_of_them = np.concatenate([mine, own.others((sites - 1) * records, generator)])
            taken = all_of_them[generator.random(len(all_of_them)) < rate]
            np.add.at(row, taken, 1.0)
        return cls(counts, answers)


@dataclass(slots=True)
class _Trials:
    """Scores and truths of one series."""

    scores: list[Floats] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)

    def estimates(self) -> dict[str, Estimate]:
        """An AUC a property; the trials have to be independent."""
        scores, answers = np.array(self.scores), np.array(self.answers)
        found = {}
        for column, name in enumerate(PROPERTIES):
            truth = answers[:, column]
            if min(truth.sum(), (~truth).sum()) >= 2:
                found[name] = auc(scores[truth, column], scores[~truth, column])
        return found


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all trials of a cell share."""

    bench: Workbench
    defence: Defence
    own: Reference
    targets: Reference

    def series(
        self, name: str, runs: int, rounds: int, on_progress: OnProgress
    ) -> tuple[_Trials, _Trials, Seen]:
        """So many real runs that stop after their first round.

        Args:
            name: Of the attacker's stream.
            runs: How many.
            rounds: For how many rounds the noise is calibrated.
            on_progress: See ``Attack``.

        Returns:
            Trials of the column's adversary, of the pooled one (none where single updates are seen), and what
            the pooled one, or else the column's, saw last.
        """
        generator = self.bench.generator("property", self.defence, name)
        single = self.defence in SINGLE
        simulated: dict[int, _Simulated] = {}
        trials, pooled = _Trials(), _Trials()
        seen: Seen | None = None
        for number in range(runs):
            answers = generator.random((SITES if single else 1, len(PROPERTIES))) < 0.5
            scratch = self._federation(answers, rounds, generator)
            transcript = scratch.run(rounds=1)
            target = min(scratch.sites)
            views = [(trials, self.bench.view(self.defence, transcript, (target,)))]
            if not single:
                views.append((pooled, self.bench.pooled(transcript, target)))
            plan, state = transcript.plan, transcript.closed[0].state
            rows = rows_at(scratch.workload, plan, state, self._data(scratch))
            for into, view in views:
                seen = view.rounds[0]
                sites = 1 if single else len(seen.unknown)
                if sites not in simulated:
                    shape = (self.bench.pick(64, 256, 512), sites, RECORDS)
                    drawn = _Simulated.draw(self.own, shape, plan.sampling_rate, generator)
                    simulated[sites] = drawn
                known = simulated[sites]
                noise = 0.0 if single else seen.noise_std
                classifier = Linear.fit(known.counts @ rows, known.answers, noise)
                for index, answer in enumerate(answers):
                    update = seen.contributions[seen.cohort[index]] if single else seen.total
                    into.scores.append(classifier.scores(update))
                    into.answers.append(answer)
            on_progress((number + 1) / runs)
        assert seen is not None
        return trials, pooled, seen

    def _federation(
        self, answers: Answers, rounds: int, generator: np.random.Generator
    ) -> ScratchFederation:
        chosen = [self.targets.site(answer, RECORDS, generator) for answer in answers]
        chosen += [self.targets.others(RECORDS, generator) for _ in range(SITES - len(answers))]
        holdings = [self.targets.rows[positions] for positions in chosen]
        training = {"micro_batch": RECORDS}
        return self.bench.scratch(self.defence, holdings, rounds=rounds, training=training)

    def _data(self, scratch: ScratchFederation) -> TrainingData:
        return scratch.workload.prepare(take(self.bench.data.batch, self.own.rows))


def run_property(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Both properties against one column; see ``Attack.run``."""
    if bench.job.training.algorithm != "sgd":
        note = "Not measured: the job trains by fedavg; updates are simulated from records' gradients here."
        return Findings(adversary="", measured={}, notes=(note,))
    holdings = [np.array([index]) for index in range(SITES)]
    scratch = bench.scratch(defence, holdings)
    generator = bench.generator("property", "reference")
    own, targets = Reference.halves(scratch.workload.prepare(bench.data.batch), generator)
    setting = _Setting(bench, defence, own, targets)
    private, slow = defence == "tacit", bench.job.model != "logistic"
    runs = _runs(bench, defence)
    share = 0.5 if private else 0.9
    trials, pooled, seen = setting.series("whole", runs, 1, lambda done: on_progress(share * done))
    measured = _measured(trials, "")
    if pooled.scores:
        # The promise is about the pooled adversary: its figure decides where something is promised.
        other = _measured(pooled, "pooled.")
        measured = other | measured if private else measured | other
    if private:
        release, pooled, _ = setting.series(
            "release",
            bench.pick(6, 24 if slow else 60, 440),
            bench.job.rounds,
            lambda d: on_progress(0.5 + 0.4 * d),
        )
        measured |= _measured(release, "release.") | _measured(pooled, "release.pooled.")
    curves = _curves(setting, scratch, seen.noise_std)
    on_progress(1.0)
    return Findings(
        adversary=_adversary(scratch, defence),
        measured=measured,
        notes=_notes(bench, defence),
        curves=curves,
        details={"sites": SITES, "records": RECORDS, "runs": runs},
    )


def _runs(bench: Workbench, defence: Defence) -> int:
    slow = bench.job.model != "logistic"
    if defence == "tacit":
        return bench.pick(8, 48 if slow else 96, 440)
    few = 12 if slow else 16
    return bench.pick(6, few, 200) if defence in SINGLE else bench.pick(16, 2 * few, 200)


def _adversary(scratch: ScratchFederation, defence: Defence) -> str:
    """Who looked, in words."""
    if defence in SINGLE:
        return "sees a site's update"
    helpers, colluding = scratch.terms.helpers, scratch.terms.plan.max_colluding
    target = min(scratch.sites)
    pooled = pooled_against(target, scratch.sites, helpers, colluding).name
    usual = adversary_of(defence, helpers, colluding, (target,)).name
    return f"sees the sum of {SITES} sites: {usual}; pooled: {pooled}"


def _measured(trials: _Trials, prefix: str) -> dict[str, Estimate]:
    """The worst property first: its interval is widened for having been picked among two."""
    found = trials.estimates()
    if not found:
        return {}
    name, worst = max(found.items(), key=lambda item: item[1].value)
    wider = BONFERRONI if len(found) > 1 else 1.0
    low = max(0.0, worst.value - wider * (worst.value - worst.low))
    high = min(1.0, worst.value + wider * (worst.high - worst.value))
    how = f"DeLong, Bonferroni over the two properties; the worst is '{name}'"
    measured = {f"property.{prefix}auc": replace(worst, low=low, high=high, how=how)}
    return measured | {f"property.{prefix}{name}.auc": one for name, one in found.items()}


def _curves(setting: _Setting, scratch: ScratchFederation, noise: float) -> tuple[Curve, ...]:
    """Over the unknown sites for exact sums, over the target's records for noisy ones: simulations.

    Noisy ones are judged by the pooled adversary, to whom the target alone is unknown.
    """
    if setting.defence not in ("masking", "tacit"):
        return ()
    over_cohort = setting.defence == "masking"
    over = "unknown sites in the sum (simulated)" if over_cohort else "records a site (simulated)"
    points: dict[str, list[tuple[float, Estimate]]] = {name: [] for name in PROPERTIES}
    for place in COHORTS if over_cohort else SIZES:
        shape = (place, RECORDS) if over_cohort else (1, place)
        for name, one in _simulated_auc(setting, scratch, shape, noise).items():
            points[name].append((float(place), one))
    return tuple(
        Curve(f"property.{name}.auc", over, tuple(found)) for name, found in points.items()
    )


def _simulated_auc(
    setting: _Setting, scratch: ScratchFederation, shape: tuple[int, int], noise: float
) -> dict[str, Estimate]:
    """The attack on sums that were added up without a protocol: bit for bit the same, but for the noise."""
    bench, workload, plan = setting.bench, scratch.workload, scratch.terms.plan
    generator = bench.generator("property", "curve", setting.defence, shape)
    state = workload.first(generator.bytes(32))
    number = bench.pick(40, 200, 1000)
    updates = []
    for side in (setting.own, setting.targets):
        data = workload.prepare(bench.data.batch)
        part = TrainingData(data.features[side.rows], data.labels[side.rows])
        drawn = _Simulated.draw(side, (number, *shape), plan.sampling_rate, generator)
        updates.append((drawn.counts @ rows_at(workload, plan, state, part), drawn.answers))
    classifier = Linear.fit(*updates[0], noise)
    judged, answers = updates[1]
    judged = judged + generator.normal(0.0, 1.0, judged.shape) * noise
    trials = _Trials([classifier.scores(one) for one in judged], list(answers))
    found = trials.estimates()
    return {name: replace(one, how=one.how + "; simulated sums") for name, one in found.items()}


def _notes(bench: Workbench, defence: Defence) -> tuple[str, ...]:
    notes = [
        f"{SITES} sites with {RECORDS} records each. Properties of a target site: a share of "
        f"{SHARES[1]} or {SHARES[0]} of one class (label); records of the upper or the lower half of each "
        "class by the mean of their features (input).",
    ]
    if defence in ("noise", "tacit"):
        notes.append(
            "No ceiling: the guarantee is about one record, and a property of a site is one of many records. "
            "The more records a site has, the better such a property can be told. Only a job whose unit of "
            "privacy is the client bounds it."
        )
    if defence not in SINGLE:
        notes.append(
            "property.auc is of a leader with the helpers that may collude, who are sites: it knows their noise "
            "and what they contributed, but not what other sites did. property.pooled.auc is of one that knows "
            "the contributions of all sites but the target."
        )
    if defence == "masking":
        notes.append(
            "Against the pooled adversary secure aggregation by itself does nothing: the sum less what is known is "
            "the target's update. The column is about the weaker one."
        )
    if defence == "tacit":
        notes.append(
            "The promise is about the pooled adversary, and so is the cell. property.auc is of a run of one round that spends the job's whole epsilon in it; "
            f"property.release.auc is of the first of the job's {bench.job.rounds} rounds alone."
        )
    return tuple(notes)


ATTACKS: tuple[Attack, ...] = (Attack("property", "property", run_property, DEFENCES),)
