"""Model inversion: inputs that the released model finds typical of a class, and whether they are anybody's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Attack, Findings, OnProgress, Picture
from tacit.attack.measure import Estimate, proportion
from tacit.attack.reconstruction.matching import Prior
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.reconstruction.runs import over_runs
from tacit.attack.view import Adversary, look
from tacit.attack.workbench import Workbench
from tacit.learn.models import LogisticRegression
from tacit.party.workload import Workload

__all__ = ["ATTACKS", "invert", "inverted"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

SITES = 4
STEPS = 120
RATE = 0.05
PRIOR = 0.02


@dataclass(frozen=True, slots=True)
class _Run:
    """One released model, inverted.

    Args:
        pool: All records.
        members: ``bool[N]``.
        classes: Of the inverted inputs, ``int64[n]``.
        found: In shares of the public ranges, ``float64[n, c]``.
        nearest: Rows of the balanced pool, ``int64[n]``.
        likelihood: Probability of the class at the inverted inputs, ``float64[n]``.
    """

    pool: Pool
    members: NDArray[np.bool_]
    classes: Rows
    found: Floats
    nearest: Rows
    likelihood: Floats

    def by_class(self) -> list[tuple[int, int]]:
        """Of each class how many inverted inputs are nearest to a member, and how many there are."""
        hits = self.members[self.nearest]
        return [
            (int(hits[self.classes == label].sum()), int((self.classes == label).sum()))
            for label in np.unique(self.classes)
        ]


def invert(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Inverts released models, and looks whether members are nearer than as many others of their class."""
    if bench.job.features.map != "none" or bench.job.training.local_layers:
        note = "Not measured: inversion needs the whole model, over columns."
        return Findings(Adversary.released().name, {}, (note,))
    number = bench.pick(1, 4 if bench.job.model == "logistic" else 1, 10)
    runs = []
    for index in range(number):
        runs.append(_run(bench, defence, index))
        on_progress((index + 1) / number)
    return _findings(runs)


def _run(bench: Workbench, defence: Defence, index: int) -> _Run:
    """A run over a third of the records; the adversary knows another third, and the last is for comparison."""
    generator = bench.generator("inversion", index)
    order = generator.permutation(len(bench.data))
    third = len(order) // 3
    members = np.zeros(len(order), dtype=np.bool_)
    members[order[:third]] = True
    rounds = min(bench.job.rounds, bench.pick(6, 8, bench.job.rounds))
    training = None
    if defence in ("plain", "clipping", "masking") and bench.job.training.algorithm != "sgd":
        training = {"algorithm": "sgd"}
    holdings = list(np.array_split(order[:third], SITES))
    scratch = bench.scratch(defence, holdings, rounds=rounds, training=training)
    view = look(scratch.run(), Adversary.released())
    assert view.released is not None
    pool = Pool.of(scratch.workload, bench.data)
    starts = bench.pick(2, 6, 20)
    classes = np.repeat(np.unique(pool.labels), starts).astype(np.int64)
    known = order[2 * third :]
    prior = Prior.of(pool.features[known], pool.labels[known], classes, PRIOR)
    features, likelihood = inverted(scratch.workload, view.released, classes, prior, generator)
    found = pool.restored(features, order[: 2 * third])
    nearest = np.array(
        [_nearest(pool, order[: 2 * third], *one) for one in zip(found, classes, strict=True)]
    )
    return _Run(pool, members, classes, found, nearest, likelihood)


def _nearest(pool: Pool, among: Rows, found: Floats, label: np.int64) -> int:
    """The nearest record of the class, for a whole class shares few neighbours with others."""
    own = among[pool.labels[among] == label]
    if not len(own):
        own = among
    return int(own[np.argmin(((pool.values[own] - found) ** 2).sum(axis=1))])


def inverted(
    workload: Workload,
    released: Floats,
    classes: Rows,
    prior: Prior,
    generator: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Gradient ascent on a class's log probability and what records of the class look like.

    Args:
        workload: The job's computation.
        released: The model, ``float64[d]``.
        classes: One for each input, ``int64[n]``.
        prior: A normal law for each, from records that the adversary knows; its weight is that of the squared
            length of whitened inputs beside the log probability.
        generator: Starting points.

    Returns:
        Inputs within the features' bounds, ``float64[n, k]``, and the probability of their class.

    Reference:
        Fredrikson, Jha, Ristenpart 2015, "Model inversion attacks that exploit confidence information";
        Kingma and Ba 2015 (Adam).
    """
    theta, features = workload.complete(released), _features(workload)
    spread = np.linalg.inv(prior.whitening)  # from unit normal to records
    z = generator.standard_normal((len(classes), features))
    first, second = np.zeros_like(z), np.zeros_like(z)

    def records(z: Floats) -> Floats:
        made: Floats = np.clip(prior.means + np.einsum("nij,nj->ni", spread, z), -1.0, 1.0)
        return made

    for step in range(1, STEPS + 1):
        _, slope = _slopes(workload, theta, records(z), classes)
        slope = np.einsum("nij,ni->nj", spread, slope) - prior.weight * z
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope * slope
        moved = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        z = z + RATE * moved
    found = records(z)
    return found, np.exp(_slopes(workload, theta, found, classes)[0])


def _features(workload: Workload) -> int:
    model = workload.model.model
    if isinstance(model, LogisticRegression):
        return int(model.tensors(np.zeros(model.dimension))["weight"].shape[1])
    from tacit.learn.torch_model import TorchModel  # noqa: PLC0415 - torch is optional

    if not isinstance(model, TorchModel):
        raise ValueError(f"{type(model).__name__} cannot be inverted")
    return model.features


def _slopes(workload: Workload, theta: Floats, x: Floats, classes: Rows) -> tuple[Floats, Floats]:
    """Log probabilities of classes, and their derivatives by the input."""
    model = workload.model.model
    if isinstance(model, LogisticRegression):
        shares = model.scores(theta, x)
        weights = model.tensors(theta)["weight"]
        if len(weights) == 1:
            weights = np.concatenate([np.zeros_like(weights), weights])
        own = shares[np.arange(len(x)), classes]
        return np.log(np.maximum(own, 1e-300)), weights[classes] - shares @ weights
    from tacit.attack.reconstruction.modules import class_slopes  # noqa: PLC0415 - torch is optional
    from tacit.learn.torch_model import TorchModel  # noqa: PLC0415 - torch is optional

    assert isinstance(model, TorchModel)
    return class_slopes(model, theta, x, classes)


def _findings(runs: list[_Run]) -> Findings:
    pairs = [pair for run in runs for pair in run.by_class()]
    near = _share(pairs)
    good = [run.pool.close(run.found, run.nearest) for run in runs]
    others = [(one & ~run.members[run.nearest]).mean() for one, run in zip(good, runs, strict=True)]
    rate = over_runs(
        [int((one & run.members[run.nearest]).sum()) for one, run in zip(good, runs, strict=True)],
        [len(one) for one in good],
        null=float(np.mean(others)),
        how="inverted inputs as close to a member as a reconstruction must be; null: to one that is none",
    )
    distances = [_distances(run) for run in runs]
    likelihood = float(np.mean([run.likelihood.mean() for run in runs]))
    to_mean, to_member = (float(np.mean([pair[i] for pair in distances])) for i in (0, 1))
    notes = (
        f"Inverted inputs have probability {likelihood:.2f} of their class on average. Root mean square "
        f"distance to the class mean {to_mean:.3f}, to the nearest member {to_member:.3f} (shares of the "
        "public ranges).",
    )
    return Findings(
        adversary=Adversary.released().name,
        measured={"inversion.identification": near, "inversion.rate": rate},
        notes=notes,
        pictures=_pictures(runs[0]),
        details={"to_class_mean": to_mean, "to_nearest_member": to_member},
    )


def _share(pairs: list[tuple[int, int]]) -> Estimate:
    """Of inverted inputs of a class most end at one record: every class of every run counts as one trial."""
    hits, trials = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    between = over_runs(hits, trials, null=0.5)
    value, count = between.value, len(pairs)
    exact = proportion(round(value * count), count, null=0.5)
    return Estimate(
        value,
        min(between.low, exact.low, value),
        max(between.high, exact.high, value),
        0.5,
        None,
        count,
        "share",
        "share of inverted inputs whose nearest record of the class is a member, as half of them are; wider "
        "of Student t and Clopper-Pearson over classes and runs",
    )


def _distances(run: _Run) -> tuple[float, float]:
    """Root mean square distances to the mean of the class's members, and to the nearest member."""
    pool, inside = run.pool, np.flatnonzero(run.members)
    means = np.stack(
        [
            pool.values[inside[pool.labels[inside] == label]].mean(axis=0)
            for label in np.unique(pool.labels)
        ]
    )
    place = np.searchsorted(np.unique(pool.labels), run.classes)
    to_mean = np.sqrt(((run.found - means[place]) ** 2).mean(axis=1))
    squares = ((run.found[:, None] - pool.values[inside][None]) ** 2).mean(axis=2)
    return float(to_mean.mean()), float(np.sqrt(squares.min(axis=1)).mean())


def _pictures(run: _Run, count: int = 6) -> tuple[Picture, ...]:
    """The nearest record beside what inversion made, one of each class at first."""
    _, first = np.unique(run.classes, return_index=True)
    made = []
    for place in first[:count]:
        row = int(run.nearest[place])
        member = "a member" if run.members[row] else "no member"
        text = f"class {int(run.classes[place])}: the nearest record is {member}"
        made.append(run.pool.picture(row, run.found[place], text))
    return tuple(made)


ATTACKS: tuple[Attack, ...] = (Attack("inversion", "class-ascent", invert, DEFENCES, alike=True),)
