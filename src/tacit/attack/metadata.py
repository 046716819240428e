"""What sizes, counts and times tell a network observer, who reads no byte of content."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Attack, Findings, OnProgress
from tacit.attack.measure import Estimate, auc, clustered
from tacit.attack.scratch import ScratchFederation
from tacit.attack.sizes import Client, Difference, clients_of, differences, reach
from tacit.attack.transcript import Packet, Transcript
from tacit.attack.workbench import Rows, Workbench
from tacit.connect import take
from tacit.errors import TacitError
from tacit.trust.identity import OsEntropy
from tacit.types import PartyName

__all__ = ["ATTACKS", "Discriminant", "describe", "observe"]

Floats = NDArray[np.float64]

SITES = 4
SMALL = 2
ROUNDS = 2

LEVEL = 1e-4
"""Of false alarms. Few runs cannot reach it at all: then there is a figure, and never an alarm."""

UPLOAD = "sent upload"
"""The kind of message in which a difference is looked for first."""


@dataclass(frozen=True, slots=True)
class Discriminant:
    """Fisher's linear discriminant: what an observer learns from runs of its own.

    Args:
        mean: Of all features, ``float64[k]``.
        direction: Towards the positive class; zero where nothing differs.

    Reference:
        Fisher 1936.
    """

    mean: Floats
    direction: Floats

    @classmethod
    def fit(cls, positive: Floats, negative: Floats) -> Discriminant:
        """From features ``float64[n, k]`` of each class, at least one row."""
        both = np.concatenate([positive, negative])
        scale = both.std(axis=0)
        used = np.where(scale > 0.0, scale, 1.0)
        difference = (positive.mean(axis=0) - negative.mean(axis=0)) / used
        parts = [
            (positive - positive.mean(axis=0)) / used,
            (negative - negative.mean(axis=0)) / used,
        ]
        rest = np.concatenate(parts)
        within = rest.T @ rest / len(rest) + 1e-3 * np.eye(len(scale))
        return cls(both.mean(axis=0), np.linalg.solve(within, difference) / used)

    def scores(self, features: Floats) -> Floats:
        """``float64[n]``; exactly 0 for every row where nothing differs."""
        found: Floats = (features - self.mean) @ self.direction
        return found


def describe(packets: Sequence[Packet], site: PartyName) -> Floats:
    """What the network shows of one site, ``float64[k]``: bytes and counts, sent and received, and the largest."""
    sent = [one.size for one in packets if one.sender == site]
    received = [one.size for one in packets if one.receiver == site]
    found = [
        float(value)
        for sizes in (sent, received)
        for value in (sum(sizes), len(sizes), max(sizes, default=0), min(sizes, default=0))
    ]
    return np.asarray(found)


def _holdings(bench: Workbench, name: str, large: int) -> tuple[list[Rows], NDArray[np.bool_]]:
    """Two large and two small sites, in an order that the observer does not know."""
    generator = bench.generator("metadata", name)
    order = generator.permutation(len(bench.data)).astype(np.int64)
    marks = generator.permutation(np.arange(SITES) < SITES // 2)
    sizes = np.where(marks, large, SMALL)
    return np.split(order[: sizes.sum()], np.cumsum(sizes)[:-1]), marks


def _large(bench: Workbench) -> int:
    """Records of a large site: several micro-batches, if there are so many records."""
    return int(min(4 * bench.job.training.micro_batch, len(bench.data) // 4))


def _traffic(
    bench: Workbench, defence: Defence, runs: int, on_progress: OnProgress
) -> tuple[list[Transcript], list[NDArray[np.bool_]]]:
    transcripts, marks = [], []
    for index in range(runs):
        holdings, large = _holdings(bench, f"run {index}", _large(bench))
        scratch = bench.scratch(defence, holdings, rounds=ROUNDS)
        transcripts.append(scratch.run())
        marks.append(large)
        on_progress(0.8 * (index + 1) / runs)
    return transcripts, marks


def _told_apart(
    transcripts: Sequence[Transcript], marks: Sequence[NDArray[np.bool_]]
) -> tuple[Estimate, float, Floats]:
    """AUC of large against small sites, with a discriminant from the first half of the runs.

    Returns:
        The AUC, the probability of so large a one by chance, and all features.
    """
    features = np.stack(
        [[describe(one.packets, site) for site in one.terms.clients] for one in transcripts]
    )
    labels = np.stack(marks)
    half = len(transcripts) // 2
    known, rest = features[:half], features[half:]
    learnt = Discriminant.fit(known[labels[:half]], known[~labels[:half]])
    positive, negative = rest[labels[half:]], rest[~labels[half:]]
    scores = learnt.scores(positive), learnt.scores(negative)
    return auc(*scores), _chance(*scores), features


def _chance(positive: Floats, negative: Floats) -> float:
    """p-value of Mann's and Whitney's test that ``positive`` is not above ``negative``."""
    return float(stats.mannwhitneyu(positive, negative, alternative="greater").pvalue)


def _timed(bench: Workbench, scratch: ScratchFederation, trials: int) -> Estimate:
    """AUC of the wall time that a large and a small site need for a contribution."""
    rows = bench.generator("metadata", "time").permutation(len(bench.data)).astype(np.int64)
    workload, plan, entropy = scratch.workload, scratch.terms.plan, OsEntropy()
    state = workload.first(bytes(32))
    times: dict[int, list[float]] = {}
    for trial in range(trials + 2):
        for count in (_large(bench), SMALL):
            data = workload.prepare(take(bench.data.batch, rows[:count]))
            start = time.perf_counter()
            workload.contribution(state, data, plan, entropy)
            if trial >= 2:  # The first ones warm up.
                times.setdefault(count, []).append(time.perf_counter() - start)
    found = auc(np.asarray(times[_large(bench)]), np.asarray(times[SMALL]))
    medians = {count: 1e3 * float(np.median(values)) for count, values in times.items()}
    how = ", ".join(f"{count} records: {value:.2f} ms" for count, value in medians.items())
    return _explained(found, f"wall time of a contribution on this machine, medians: {how}")


def _explained(found: Estimate, how: str) -> Estimate:
    record = found.record()
    return Estimate.from_record({**record, "how": f"{found.how}; {how}"})


@dataclass(frozen=True, slots=True)
class _Sampling:
    """What tells sampled clients from the others.

    Args:
        estimate: AUC by a discriminant.
        chance: Probability of so large a one by chance.
        found: Kinds of messages that differ every time.
        reach: The smallest p-value that a difference of uploads could have.
    """

    estimate: Estimate
    chance: float
    found: tuple[Difference, ...]
    reach: float

    @property
    def alarms(self) -> tuple[str, ...]:
        """A difference that is exact, and too frequent for chance."""
        return tuple(
            f"packet sizes of sampled clients ({one.kind})"
            for one in self.found
            if one.p_value < LEVEL
        )

    @property
    def note(self) -> str:
        """What the comparison by kinds came to."""
        if self.found:
            kinds = ", ".join(f"{one.kind} ({one.times} times)" for one in self.found)
            return f"Every time, sampled clients differ from the others in: {kinds}."
        able = (
            "would have raised an alarm" if self.reach < LEVEL else "is too rare here for an alarm"
        )
        return (
            "No kind of message differs in size or number between sampled and other clients every time; an "
            f"upload longer by one byte {able}."
        )


def _sampled(bench: Workbench, runs: int) -> _Sampling | None:
    """As ``_told_apart``, of sampled against other clients, from packets of single rounds, where clients sample in secret.

    None if the job cannot run with clients as units.
    """
    positive, negative, rounds = list[Floats](), list[Floats](), list[list[Client]]()
    try:
        for index in range(runs):
            holdings, _ = _holdings(bench, f"sampled {index}", SMALL)
            scratch = bench.scratch(
                "tacit",
                holdings,
                rounds=ROUNDS,
                training={"algorithm": "fedavg", "clipping": "flat"},
                privacy={
                    "unit": "client",
                    "sampling_rate": 0.5,
                    "client_sampling": "secret",
                    "expected_units": SITES,
                    "epsilon": 0.5,
                    "noise": "shared",
                },
            )
            transcript = scratch.run()
            for one in transcript.closed:
                packets = [p for p in transcript.packets if p.round == one.number]
                sampled = {s: bool(transcript.contribution(one, s).any()) for s in one.cohort}
                rounds.append(clients_of(transcript.packets, one.number, sampled))
                for site in one.cohort:
                    (positive if sampled[site] else negative).append(describe(packets, site))
    except (TacitError, ValueError):
        return None
    if min(len(positive), len(negative)) < 4:
        return None
    first, second = np.stack(positive), np.stack(negative)
    half = (len(first) // 2, len(second) // 2)
    learnt = Discriminant.fit(first[: half[0]], second[: half[1]])
    scores = learnt.scores(first[half[0] :]), learnt.scores(second[half[1] :])
    how = "sampled against other clients, by the packets of a round"
    return _Sampling(
        _explained(auc(*scores), how), _chance(*scores), differences(rounds), reach(rounds, UPLOAD)
    )


def observe(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """What an observer of the network learns under one defence; who else looks makes no difference to it.

    Guarantee: sampled clients' uploads that are a byte longer raise an alarm from profile ``quick`` on.
    Checked by ``tests/attack/test_metadata.py::test_an_upload_one_byte_longer_when_sampled_is_an_alarm``.
    """
    defence = "tacit" if defence == "noise" else defence
    runs = bench.pick(4, 8, 60)
    transcripts, marks = _traffic(bench, defence, runs, on_progress)
    apart, chance, features = _told_apart(transcripts, marks)
    chances = {"metadata.auc": chance}
    large = _large(bench)
    how = (
        f"sites of {large} and of {SMALL} records, drawn anew in each run; half of {runs} runs taught the "
        "observer; sites that add a sum up again, by lot, cause traffic that is noise here"
    )
    measured = {"metadata.auc": _explained(apart, how)}
    shares = [sum(one.size for one in run.packets) / (SITES * ROUNDS) for run in transcripts]
    measured["metadata.bytes"] = clustered(
        shares, null=None, unit="bytes", how="all messages of a run, for each site and round"
    )
    holdings, _ = _holdings(bench, "time", large)
    scratch = bench.scratch(defence, holdings, rounds=1)
    measured["metadata.timing_auc"] = _timed(bench, scratch, bench.pick(8, 16, 200))
    notes, alarms = _notes(transcripts[0]), tuple[str, ...]()
    if defence == "tacit":
        secret = _sampled(bench, bench.pick(0, 8, 20))
        if secret is not None:
            measured["metadata.sampled_auc"] = secret.estimate
            chances["metadata.sampled_auc"] = secret.chance
            alarms, notes = secret.alarms, (*notes, secret.note)
        else:
            notes = (
                *notes,
                "Whether secret sampling of clients shows in sizes was not measured here: the profile "
                "leaves it out, the job does not run with clients as units, or too few were sampled.",
            )
    on_progress(1.0)
    return Findings(
        adversary="network observer",
        measured=measured,
        notes=notes,
        alarms=(*_alarms(chances), *alarms) if defence == "tacit" else (),
        details=_details(transcripts, features),
    )


def _alarms(chances: dict[str, float]) -> tuple[str, ...]:
    """Sizes are promised to tell nothing; times are not."""
    return tuple(f"packet sizes ({name})" for name, p in chances.items() if p < LEVEL)


def _notes(transcript: Transcript) -> tuple[str, ...]:
    manifest = transcript.terms.manifest
    return (
        "Sizes show who takes part, which round it is and how long the vector is: "
        f"{manifest.length} elements of {transcript.terms.ring.item_bytes} bytes.",
        "Time is not hidden: work is padded to whole micro-batches, so that it does not show who was sampled, "
        "but how long a site computes tells how many micro-batches its records fill.",
        "Times are of the computation alone, on this machine; a network adds noise to them.",
    )


def _details(transcripts: Sequence[Transcript], features: Floats) -> dict[str, Any]:
    kinds: dict[str, set[int]] = {}
    for run in transcripts:
        for one in run.packets:
            kinds.setdefault(one.kind, set()).add(one.size)
    return {
        "sizes_by_kind": {kind: [min(sizes), max(sizes)] for kind, sizes in sorted(kinds.items())},
        "features_spread": features.reshape(-1, features.shape[2]).std(axis=0).tolist(),
    }


ATTACKS: tuple[Attack, ...] = (Attack("metadata", "metadata", observe, DEFENCES, alike=True),)
