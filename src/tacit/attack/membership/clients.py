"""Whether the data of a whole client went into a run: the same attack, with clients for records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring
from tacit.attack.defences import Defence
from tacit.attack.findings import OnProgress
from tacit.attack.measure import Ceiling, Estimate, ceiling_of
from tacit.attack.membership.judge import judge
from tacit.attack.membership.targets import Drawn
from tacit.attack.membership.updates import Observed, joint, over_sources
from tacit.attack.scratch import ScratchFederation
from tacit.attack.transcript import Transcript
from tacit.attack.view import View
from tacit.attack.workbench import Workbench
from tacit.connect import take
from tacit.party.workload import TrainingData

__all__ = ["CANDIDATES", "client_membership"]

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

CANDIDATES = 16
FEWEST = 3
MOST_RECORDS = 24
WHOLE = 2**16
"""A local batch that holds all of a client's records: its update then has nothing random in it."""


def client_membership(
    bench: Workbench, defence: Defence, runs: int, on_progress: OnProgress
) -> dict[str, Estimate]:
    """Advantage and AUC of telling which clients' data were in.

    The job's variant has one round of ``fedavg`` over whole clients, and in the columns with noise a client as
    the unit of privacy, at the job's epsilon. A fair coin decides for each of ``CANDIDATES`` data sets whether
    a site with it takes part.

    Args:
        bench: What is attacked.
        defence: The column.
        runs: Real runs, at least two.
        on_progress: See ``Attack``.
    """
    generator = bench.generator("membership", "clients", defence)
    each = min(MOST_RECORDS, len(bench.data) // CANDIDATES)
    order = generator.permutation(len(bench.data))[: each * CANDIDATES]
    candidates = np.split(order, CANDIDATES)
    scores, members = [], []
    ceilings: list[Ceiling] = []
    for number in range(runs):
        inside = _coins(generator)
        scratch = bench.scratch(
            defence,
            [rows for rows, one in zip(candidates, inside, strict=True) if one],
            rounds=1,
            training=_training(bench),
            privacy=_privacy(defence, each),
        )
        transcript = scratch.run()
        view = bench.view(defence, transcript)
        judged = _judged(inside, scratch, view)
        batches = [
            take(bench.data.batch, rows)
            for rows, one in zip(candidates, judged, strict=True)
            if one
        ]
        data = [scratch.workload.prepare(batch) for batch in batches]
        rows = _updates(transcript, data, Drawn(generator))
        scores.append(_score(view, rows))
        members.append(inside[judged])
        against = len(transcript.terms.helpers) if defence == "noise" else None
        ceilings.append(ceiling_of(transcript.plan, colluding=against))
        on_progress((number + 1) / runs)
    how = f"{CANDIDATES} candidate clients of {each} records"
    # Runs of fewer sites have fewer helpers, of whom the colluding ones hold more of the noise.
    ceiling = max(ceilings, key=lambda one: one.advantage)
    measured = judge({"joint": scores}, members, ceiling, how=how).measured
    return {f"membership.client.{name}": measured[name] for name in ("advantage", "auc")}


def _coins(generator: np.random.Generator) -> Marks:
    while True:
        inside: Marks = generator.random(CANDIDATES) < 0.5
        if FEWEST <= inside.sum() < CANDIDATES:
            return inside


def _training(bench: Workbench) -> dict[str, Any]:
    return {
        "algorithm": "fedavg",
        "clipping": "flat",
        "local_epochs": 1,
        "local_batch": WHOLE,
        "local_learning_rate": 1.0,
        "optimiser": "sgd",
        "learning_rate": 1.0,
        "local_layers": (),
    }


def _privacy(defence: Defence, records: int) -> dict[str, Any]:
    if defence not in ("noise", "tacit"):
        return {"expected_units": records}
    return {
        "unit": "client",
        "sampling_rate": 1.0,
        "max_records": 1,
        "client_sampling": "secret",
        "max_participations": None,
        "expected_units": CANDIDATES // 2,
    }


def _updates(transcript: Transcript, data: list[TrainingData], entropy: Drawn) -> Floats:
    """What every candidate's site would contribute, ``float64[n, length]``."""
    plan, state = transcript.plan, transcript.closed[0].state
    ring = Ring(plan.ring_bits)
    made = [transcript.workload.contribution(state, one, plan, entropy).vector for one in data]
    return np.stack([transcript.values(ring.centred(vector)) for vector in made])


def _judged(inside: Marks, scratch: ScratchFederation, view: View) -> Marks:
    """All candidates but the adversary's own sites: sites have their names in the order of who is in."""
    judged = np.ones_like(inside)
    own = [site in view.adversary.clients for site in sorted(scratch.sites)]
    judged[inside] = ~np.array(own)
    return judged


def _score(view: View, rows: Floats) -> Floats:
    seen = view.rounds[0]
    single = [seen.contributions[site] for site in seen.cohort if seen.contributions]
    sums = np.stack(single) if single else seen.total[None, :]
    one = Observed.of(rows, sums, 1.0, 0.0 if single else seen.noise_std)
    return over_sources(joint([one], 0.5 / len(sums))[0])
