"""The planted layer: what a malicious server gets from clients that train whatever model they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.attack.defences import Defence, job_for
from tacit.attack.findings import Curve, Findings, OnProgress
from tacit.attack.measure import ceiling_of, proportion
from tacit.attack.reconstruction.imprint import planted_model, separated
from tacit.attack.reconstruction.opened import criterion, pictures_of
from tacit.attack.reconstruction.pool import Pool
from tacit.attack.reconstruction.refusal import Lie, another_model, forged_sum, tell
from tacit.attack.reconstruction.runs import shared_draws, targets_of
from tacit.attack.scratch import ScratchFederation
from tacit.attack.transcript import Transcript
from tacit.attack.view import View
from tacit.attack.workbench import Workbench
from tacit.learn.code import LoadedModel
from tacit.party.job import JobSpec

__all__ = ["PlantedFederation", "attack_planted"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BINS = 256

UNMOVED = 1e-9
"""The malicious server's learning rate: what it planted stays where it is."""

TACIT_SITES = 4
CRAFTED_LENGTH = 100.0


class PlantedFederation(ScratchFederation):
    """A scratch federation of peers that run the code the server ships.

    Args:
        planted: That code.
        arguments: Of ``ScratchFederation``.
    """

    def __init__(self, planted: LoadedModel, *arguments: Any) -> None:
        self._planted = planted
        super().__init__(*arguments)

    def load_model(self, job: JobSpec) -> LoadedModel:
        """What the server ships, whatever the job says."""
        return self._planted


@dataclass(frozen=True, slots=True)
class _Tally:
    """What came of one run."""

    pool: Pool
    rows: Rows
    found: Floats
    transcript: Transcript

    @property
    def recovered(self) -> NDArray[np.bool_]:
        """Which members were reconstructed."""
        return self.pool.recovered(self.found, self.rows)


def attack_planted(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Ships a planted layer to peers, or a crafted model to Tacit's own sites."""
    if bench.job.features.map != "none" or bench.job.features.prior is not None:
        note = "Not measured: the job has fixed features, and the planted layer reads columns."
        return Findings("malicious server", {}, (note,))
    if defence == "tacit":
        return _refused(bench, defence, on_progress)
    shapes: dict[str, tuple[tuple[int, int], ...]] = {
        "demo": ((8, 8),),
        "quick": ((8, 1), (8, 8)),
        "full": ((8, 1), (16, 1), (8, 8), (16, 8)),
    }
    runs = bench.pick(1, 3, 10)
    if defence == "noise" and bench.profile != "full":  # many rounds, until everybody was sampled
        shapes, runs = {bench.profile: ((8, 8),)}, bench.pick(1, 2, 2)
    tallies: dict[tuple[int, int], list[_Tally]] = {}
    chosen: tuple[tuple[int, int], ...] = shapes[bench.profile]
    for place, shape in enumerate(chosen):
        for number in range(runs):
            tallies.setdefault(shape, []).append(_plant(bench, defence, *shape, number))
            on_progress((place + (number + 1) / runs) / len(chosen))
    return _findings(defence, tallies)


def _plant(bench: Workbench, defence: Defence, sites: int, each: int, number: int) -> _Tally:
    """One run over records that the server does not know, ``each`` at every site."""
    generator = bench.generator("planted", sites, each, number)
    each = max(1, min(each, len(bench.data) // (2 * sites)))
    rows = generator.choice(len(bench.data), sites * each, replace=False).astype(np.int64)
    holdings = list(rows.reshape(sites, each))
    rounds, training = 1, {"algorithm": "sgd", "learning_rate": UNMOVED}
    if defence == "noise":
        rounds = min(bench.job.rounds, 4 if bench.job.privacy.sampling_rate >= 0.5 else 8)
    if defence == "tacit":
        rounds = bench.pick(2, 4, 8)
    job = job_for(
        bench.job,
        defence,
        sites=sites,
        units=len(rows),
        rounds=rounds,
        training=training,
    )
    planted, pool = _planted(bench, job, holdings, generator)
    scratch = PlantedFederation(planted, job, bench.base, bench.data, holdings)
    transcript = scratch.run()
    view = bench.view(defence, transcript)
    found = _separated(transcript, view, pool)
    targets = targets_of(scratch.holdings, view)
    return _Tally(pool, targets, pool.restored(found, targets), transcript)


def _planted(
    bench: Workbench, job: JobSpec, holdings: list[Rows], generator: np.random.Generator
) -> tuple[LoadedModel, Pool]:
    """The layer, fitted to records that are not the targets."""
    probe = ScratchFederation(job, bench.base, bench.data, holdings)
    pool = Pool.of(probe.workload, bench.data)
    known = np.setdiff1d(np.arange(len(pool)), np.concatenate(holdings))
    classes, old = len(bench.data.batch.schema.classes), probe.workload.model
    model = planted_model(pool.features[known], classes, BINS, generator, old.feature_map)
    return model, pool


def _separated(transcript: Transcript, view: View, pool: Pool) -> Floats:
    """Records from every vector that the adversary sees: single updates, or sums."""
    size, features = transcript.workload.dimension, pool.features.shape[1]
    parts, average = [], np.zeros(size)
    for seen in view.rounds:
        if seen.contributions:
            parts += [separated(one[:size], features) for one in seen.contributions.values()]
        else:
            average += seen.total[:size]
    if average.any():
        parts.append(separated(average, features))
    found = np.concatenate(parts) if parts else np.zeros((0, features))
    return found if len(found) else np.zeros((1, features))


def _guessed(tally: _Tally) -> float:
    """What so many guesses among the pool's records hit without any access."""
    return min(1.0, len(tally.found) / len(tally.pool))


def _findings(defence: Defence, tallies: dict[tuple[int, int], list[_Tally]]) -> Findings:
    def rate(shape: tuple[int, int]) -> Any:
        some, (sites, each) = tallies[shape], shape
        return shared_draws(
            [int(tally.recovered.sum()) for tally in some],
            [len(tally.rows) for tally in some],
            null=max(pool.null, float(np.mean([_guessed(tally) for tally in some]))),
            ceiling=None,
            how=f"{sites} sites with {each} records each, {BINS} bins; {criterion(pool)}",
        )

    pool = next(iter(tallies.values()))[0].pool
    main = max(shape for shape in tallies if shape[0] == 8)
    first = tallies[main][0]
    what = "sums" if defence == "masking" else "each site's update"
    notes = (
        "The server ships a linear layer of bins before the model, and the clients train it: peers without "
        f"Tacit's model check, over the real protocol. The adversary sees {what}.",
    )
    points = tuple((float(a * b), rate((a, b))) for a, b in sorted(tallies))
    curves: tuple[Curve, ...] = ()
    if len(points) > 1:
        curves = (Curve("malicious_server.rate", "records in all sites", points),)
    shown = _assigned(pool, first.found, first.rows[:6])
    return Findings(
        adversary="malicious server",
        measured={"malicious_server.rate": rate(main)},
        notes=notes,
        pictures=pictures_of(pool, first.rows[:6], shown),
        curves=curves,
    )


def _assigned(pool: Pool, found: Floats, rows: Rows) -> Floats:
    """For each record the closest of what was found: for pictures alone."""
    distances = ((pool.values[rows][:, None] - found[None]) ** 2).sum(axis=2)
    closest: Floats = found[np.argmin(distances, axis=1)]
    return closest


def _refused(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Lies about the model to real sites, and measures what noise leaves of a layer that they would train."""
    told, trained, notes = 0, 0, []
    lies: list[tuple[str, Any, int]] = [
        ("a crafted model in the round's start", another_model, 1),
        ("a forged sum that leads to it", lambda c: forged_sum(c, within_bound=False), 2),
    ]
    generator = bench.generator("planted", "crafted")
    for place, (words, make, number) in enumerate(lies):
        outcome = tell(*_victims(bench, defence, generator, make), number)
        told, trained = told + len(outcome.told), trained + len(outcome.trained)
        codes = ", ".join(sorted(set(outcome.codes.values()))) or "none"
        notes.append(
            f"Told {words}, {len(outcome.trained)} of {len(outcome.told)} sites trained on it "
            f"(refusals: {codes})."
        )
        on_progress((place + 1) / 8)
    steered = tell(
        *_victims(bench, defence, generator, lambda c: forged_sum(c, within_bound=True)), 2
    )
    codes = ", ".join(sorted(set(steered.codes.values()))) or "none"
    notes.append(
        "Told a forged sum of plausible length, which steers only part of the way, "
        f"{len(steered.trained)} of {len(steered.told)} sites trained on it before one of them had re-added "
        f"it (refusals: {codes}); what they send is masked and noised all the same."
    )
    on_progress(0.4)
    runs = bench.pick(1, 2, 8)
    tallies = []
    for number in range(runs):
        tallies.append(_plant(bench, defence, TACIT_SITES, 8, number))
        on_progress(0.4 + 0.6 * (number + 1) / runs)
    pool, plan = tallies[0].pool, tallies[0].transcript.plan
    guesses = min(1.0, BINS / len(pool))
    told_steered, steered_sites = len(steered.told), len(steered.trained)
    rate = shared_draws(
        [int(tally.recovered.sum()) for tally in tallies],
        [len(tally.rows) for tally in tallies],
        null=max(pool.null, float(np.mean([_guessed(tally) for tally in tallies]))),
        ceiling=ceiling_of(plan).true_positives(guesses),
        how=f"had {TACIT_SITES} sites with 8 records each trained a planted layer: noise in the sums; "
        f"{criterion(pool)}; the ceiling allows {BINS} guesses",
    )
    trained_rate = proportion(trained, told, null=0.0, how="sites that trained on a crafted model")
    measured = {"malicious_server.trained": trained_rate, "malicious_server.rate": rate}
    if told_steered:
        measured["malicious_server.steered"] = proportion(
            steered_sites,
            told_steered,
            null=None,
            how="sites that trained on a forged sum of plausible length; one site a round re-adds sums",
        )
    first = tallies[0]
    shown = _assigned(pool, first.found, first.rows[:6])
    notes.append(
        "The rate is that of sites that would run the planted code in spite of their check; they do not."
    )
    return Findings(
        adversary=f"malicious leader + {plan.max_colluding} helper(s)",
        measured=measured,
        notes=tuple(notes),
        alarms=("crafted-model",) if trained else (),
        pictures=pictures_of(pool, first.rows[:6], shown),
    )


def _victims(
    bench: Workbench, defence: Defence, generator: np.random.Generator, make: Any
) -> tuple[ScratchFederation, Lie]:
    """Sites of the job as it is, and a lie for them: weights that no honest step leads to."""
    rows = generator.choice(len(bench.data), 4 * TACIT_SITES, replace=False)
    units = {"expected_units": bench.job.privacy.expected_units}
    scratch = bench.scratch(defence, list(rows.reshape(TACIT_SITES, 4)), rounds=3, privacy=units)
    direction = generator.standard_normal(scratch.workload.dimension)
    return scratch, make(CRAFTED_LENGTH * direction / np.linalg.norm(direction))
