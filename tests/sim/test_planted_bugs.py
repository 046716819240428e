"""Every rule of the protocol is needed: without it, the checker of that name finds a seed.

Each bug is a change of a few characters in the source of one production function, compiled anew while
the test lasts. The same seeds pass with the function as it is.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from tacit.algebra import prg
from tacit.engine.simulator.core import Violation
from tacit.engine.simulator.faults import Faults
from tacit.errors import ConfigError
from tacit.party import context, heads
from tacit.party.admission import Admission
from tacit.party.chain import ModelChain
from tacit.party.helper import Helper
from tacit.party.round_sum import RoundSum
from tacit.party.site import Site
from tacit.privacy import plan
from tacit.secagg import masked
from tacit.testing.planted import Change, plant
from tacit.testing.scenarios import Laboratory
from tacit.trust.roster import Roster

BOUND = 24
"""Within how many seeds a bug must show."""

QUIET = Faults()
TWICE = Faults(duplicate=0.3, restart=0.02)


@dataclass(frozen=True)
class Bug:
    """A function, what is changed in its source, and who finds it where."""

    checker: str
    changes: tuple[Change, ...]
    scenario: str = "faults"
    options: dict[str, Any] = field(default_factory=lambda: {"faults": QUIET})
    also: tuple[str, ...] = ()
    """Who may find it first in some seed: these are passed over."""


def misled(*names):
    return {"faults": QUIET, "only": names}


BUGS = {
    "a helper answers twice": Bug(
        "one-answer",
        (
            (Helper._answer, "if stored is not None:", "if False:"),
            (
                Helper._answer,
                "self._erase_key(terms.run)\n    return [answer, "
                "*self._next_key(terms, message.round, now)]",
                "return [answer]",
            ),
        ),
        "malicious-leader",
        misled("ask-twice"),
        also=("forward-secrecy",),  # The key that answers twice is one that is not erased.
    ),
    "a signature is not checked": Bug(
        "no-isolation",
        ((Roster.authenticate, "verify(member.key, signature, data)", "pass"),),
        "malicious-leader",
        misled("swap-keys"),
    ),
    "a seed serves two helpers": Bug(
        "fresh-seeds",
        (
            (
                masked._seal_seeds,
                "seed = entropy.draw(SEED_BYTES)",
                "seed = entropy.draw(SEED_BYTES) if not seeds else seed",
            ),
        ),
    ),
    "seeds do not change from round to round": Bug(
        "fresh-seeds",
        (
            (
                masked._seal_seeds,
                "seed = entropy.draw(SEED_BYTES)",
                "seed = hashlib.sha256(client.encode() + helper.encode()).digest()",
            ),
        ),
    ),
    "an upload is computed again": Bug(
        "one-upload",
        (
            (
                Site._start_round,
                "return [stored] if stored is not None else []",
                "return self._join_round(message, self._live(terms), now)",
            ),
        ),
        options={"faults": TWICE},
    ),
    "a helper answers for too few": Bug(
        "cohort-size",
        ((Helper._cohort, "< terms.manifest.min_cohort:", "< 1:"),),
        "malicious-leader",
        misled("small-cohort"),
    ),
    "clients are counted instead of operators": Bug(
        "cohort-size",
        ((Helper._cohort, "len(self.roster.operators(parties))", "len(parties)"),),
        "one-operator",
        misled("one-operator"),
    ),
    "a required helper may be missing": Bug(
        "required-helpers",
        ((Admission.check_helpers, "if limits.require_own_helper and", "if False and"),),
        "malicious-leader",
        misled("drop-own-helper"),
    ),
    "models are mixed": Bug(
        "one-context",
        (
            (
                context.upload_context,
                "model=model,\n        plan",
                "model=Digest(bytes(32)),\n        plan",
            ),
        ),
        "malicious-leader",
        misled("left-behind"),
    ),
    "carries run into the next field": Bug(
        "upload-exact",
        (
            (
                prg.add_keystreams,
                "            update(zeros, octets)\n            np.add(part, elements, out=part)",
                "            update(zeros, octets)\n"
                "            np.add(part, elements, out=part)\n"
                "            part[1:][part[:-1] < elements[:-1]] += 1",
            ),
        ),
    ),
    "an upload leaves before it is stored": Bug(
        "persisted-before-sent",
        ((Site._train, "self._commit_upload(terms, message, made, now)", "pass"),),
    ),
    "an answer leaves before it is stored": Bug(
        "persisted-before-sent",
        ((Helper._answer, "self._commit_answer(terms, answer, uploads, now)", "pass"),),
    ),
    "a helper keeps its keys": Bug(
        "forward-secrecy",
        ((Helper._erase_key, "self._keys.pop(run, None)", "None"),),
    ),
    "the last survivor is left out of the mask sum": Bug(
        "mask-sum-exact",
        ((Helper._noisy_mask_sum, "for upload in uploads:", "for upload in uploads[:-1]:"),),
    ),
    "the last answer is not subtracted": Bug(
        "sum-exact",
        (
            (
                RoundSum.take_answer,
                "self._take(message,",
                "len(self.answers) + 1 == len(self.present) or self._take(message,",
            ),
            # A sum that still holds masks is mostly too large to be honest, and stops the run first.
            (ModelChain._checked_sum, "if norm > self.terms.plan", "if norm < 0 * self.terms.plan"),
        ),
    ),
    "a helper forgets its noise": Bug(
        "mask-sum-exact",
        ((Helper._noisy_mask_sum, 'terms.plan.unit != "none"', "False"),),
    ),
    "two rounds without noise share no honest helper": Bug(
        "no-isolation",
        (
            (plan._check_presence, "(plan.helpers + plan.max_colluding) // 2 + 1", "0"),
            (Admission.check_limits, "and plan.min_helpers < plan.helpers", "and False"),
        ),
        "split-helpers",
        misled("no-rejoin"),
    ),
    "an upload is not charged": Bug(
        "budget",
        (
            (
                Site._commit_upload,
                "self.budget.charge(terms.run_id, message.round, epsilon, now)",
                "pass",
            ),
        ),
    ),
    "a budget that went back is taken": Bug(
        "budget-heads",
        ((heads._standing, "if then != known.at(known.count):", "if False:"),),
        "restored-budget",
    ),
    "what was spent may be released": Bug(
        "budget-heads",
        ((heads.compare_heads, "not set(spent).isdisjoint(shown.released)", "False"),),
        "restored-budget",
    ),
    "a contribution leaves unmasked": Bug(
        "upload-exact",
        ((masked.mask_in_place, "add_keystreams(vector, streams, ring, out=vector)", "pass"),),
    ),
}


def first_violation(laboratory, bug):
    """The first seed that fails, with its violation."""
    for seed in range(BOUND):
        try:
            laboratory.run(bug.scenario, seed, **bug.options)
        except Violation as violation:
            if violation.checker not in bug.also:
                return seed, violation
    return BOUND, None


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name, tmp_path, monkeypatch):
    bug = BUGS[name]
    with Laboratory(tmp_path).open(remember=False) as laboratory:
        with monkeypatch.context() as patch:
            plant(patch, bug.changes)
            seed, violation = first_violation(laboratory, bug)
        assert violation is not None, f"nobody noticed within {BOUND} seeds"
        assert violation.checker == bug.checker, str(violation)
        for unchanged in range(seed + 1):
            # A job that is unsafe under every leader is refused before anything happens.
            with contextlib.suppress(ConfigError):
                laboratory.run(bug.scenario, unchanged, **bug.options)
