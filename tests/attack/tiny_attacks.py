"""Small real attacks, for tests of the suite: a module that exports ``ATTACKS`` as the packages do."""

from __future__ import annotations

import numpy as np

from tacit.attack.defences import DEFENCES
from tacit.attack.findings import Attack, Curve, Findings, Picture, Roc
from tacit.attack.measure import auc, proportion

SITES = 4
RUNS = 2


def ratio(bench, defence, on_progress):
    """One record a site: weights of its gradient over that of the intercept are the record itself."""
    generator = bench.generator("ratio", defence)
    hits, pictures = 0, []
    for run in range(RUNS):
        rows = generator.choice(len(bench.data), SITES, replace=False)
        scratch = bench.scratch(
            defence, [rows[[site]] for site in range(SITES)], rounds=1, training={"micro_batch": 1}
        )
        view = bench.view(defence, scratch.run())
        for site, name in enumerate(scratch.sites):
            seen = view.rounds[0].contributions.get(name)
            truth = scratch.training_data(name).features[0]
            found = np.zeros_like(truth) if seen is None else analytic(seen, len(truth))
            hits += bool(np.allclose(found, truth, atol=0.02))
            pictures.append(
                Picture(tuple(truth), tuple(np.clip(found, 0, 1)), (1, len(truth)), f"site {site}")
            )
        on_progress((run + 1) / RUNS)
    return Findings(
        adversary="the leader",
        measured={"reconstruction.share": proportion(hits, RUNS * SITES, null=0.0)},
        pictures=tuple(pictures[:3]),
        details={"hits": np.int64(hits)},
    )


def analytic(gradient, columns):
    """The record behind a gradient of logistic regression with two classes: weights, then the intercept."""
    weights, intercept = gradient[:columns], gradient[columns]
    return weights / intercept if intercept else np.zeros(columns)


def guess(bench, defence, on_progress):
    """Scores that know nothing: always at chance, whatever the seed, but for one in many thousands."""
    generator = bench.generator("guess", defence)
    member, other = np.linspace(0, 1, 200), np.linspace(0, 1, 200)
    estimate = auc(generator.permutation(member), other)
    on_progress(1.0)
    return Findings(
        adversary="whoever holds the model",
        measured={"membership.auc": estimate},
        curves=(Curve("membership.auc", "rounds", ((1.0, estimate), (2.0, estimate))),),
        rocs=(Roc("guess", ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0))),),
        notes=(f"drawn: {generator.integers(1 << 30)}",),
    )


def sizes(bench, defence, on_progress):
    """Whether the size of what a site sends tells how many records it has."""
    rows = np.split(np.arange(16), [1, 2, 3])
    transcript = bench.scratch(defence, rows, rounds=1).run()
    on_progress(1.0)
    names = list(transcript.closed[0].cohort)
    sent = dict.fromkeys(names, 0)
    for packet in transcript.packets:
        sender = next((one for one in names if one in str(packet.sender)), None)
        if sender is not None:
            sent[sender] += packet.size
    largest = max(sent.values())
    alone = largest == sent[names[-1]] and list(sent.values()).count(largest) == 1
    return Findings(
        adversary="the network", measured={"metadata.found": proportion(int(alone), 40, null=0.25)}
    )


ATTACKS = (
    Attack("reconstruction", "ratio", ratio, DEFENCES),
    Attack("membership", "guess", guess, DEFENCES),
    Attack("metadata", "sizes", sizes, ("masking", "tacit")),
)
